//! What a sandbox has of its customer's: a function's code, and layers over each other. A package names its image.

use chunk_store::Label;
use sha2::{Digest as _, Sha256};

use super::hex;

/// What the images' labels begin with.
pub(super) const CODE: &str = "code-";

/// Hexadecimal digits of the hash that are in a label: what a label has room for.
const DIGITS: usize = 56;

/// What else those of container images do.
const CONTAINER: &str = "code-image-";

/// What a package's [`Package::code`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PackageKind {
    /// A zip, which is kept: an image that is missing is made of it again.
    Zip,
    /// A container image, by the digest of its manifest. It is kept as it was flattened and not otherwise.
    Container,
}

/// Zips, each named by its SHA-256 in lower-case hexadecimal, or a container image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Package {
    /// What the code is.
    pub(crate) kind: PackageKind,
    /// The function's code; or a layer, which is no function's yet and is kept as its zip.
    pub(crate) code: String,
    /// Layers in the order in which they are merged.
    pub(crate) layers: Vec<String>,
}

impl Package {
    /// A zip by itself.
    pub(crate) fn alone(sha256: &str) -> Self {
        Self { kind: PackageKind::Zip, code: sha256.into(), layers: Vec::new() }
    }

    /// A container image.
    pub(crate) fn container(digest: &str) -> Self {
        Self { kind: PackageKind::Container, code: digest.into(), layers: Vec::new() }
    }

    /// What the image is published as. Without layers it is named as the zip is.
    pub(super) fn label(&self) -> Label {
        let named = if self.layers.is_empty() {
            self.code.clone()
        } else {
            let zips: Vec<_> = self.zips().collect();
            hex(&Sha256::digest(zips.join("\n")))
        };
        let begin = match self.kind {
            PackageKind::Zip => CODE,
            PackageKind::Container => CONTAINER,
        };
        let digits = named.get(..CODE.len() + DIGITS - begin.len()).unwrap_or(&named);
        #[expect(clippy::expect_used, reason = "a hash has hexadecimal digits only")]
        format!("{begin}{digits}").parse().expect("letters, digits and hyphens")
    }

    /// All zips that it is made of.
    pub(super) fn zips(&self) -> impl Iterator<Item = &str> {
        let code = Some(&self.code).filter(|_| self.kind == PackageKind::Zip);
        code.into_iter().chain(&self.layers).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_of_its_zips_in_their_order() {
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let label = |code: &String, layers: &[&String]| {
            Package {
                kind: PackageKind::Zip,
                code: code.clone(),
                layers: layers.iter().map(|layer| (*layer).clone()).collect(),
            }
            .label()
        };
        assert_eq!(label(&a, &[]).as_str(), format!("code-{}", "a".repeat(56)));
        let all =
            [label(&a, &[]), label(&a, &[&b]), label(&a, &[&b, &c]), label(&a, &[&c, &b]), label(&b, &[&a])];
        let different: std::collections::HashSet<_> = all.iter().map(Label::as_str).collect();
        assert_eq!(different.len(), all.len());
    }
}
