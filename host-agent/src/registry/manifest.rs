//! Which image a reference means: its manifest, by way of an index of images for several platforms if that is what the registry has.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Found, Reference, Refusal, client::Client, shown};
use crate::code::{
    hex,
    image::{
        MAX_IMAGE_LEN,
        documents::{
            Descriptor, INDEXES, Index, MANIFESTS, MAX_DEPTH, MAX_DOCUMENT_LEN, MAX_LAYERS, Manifest,
            is_index, sha256,
        },
    },
};

/// An image's manifest, and what it says.
#[derive(Debug)]
pub(super) struct Manifested {
    pub(super) found: Found,
    pub(super) manifest: Manifest,
    /// As the registry has it.
    pub(super) bytes: Vec<u8>,
}

/// What is looked at to tell an image from an index.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// What a document is.
#[derive(Debug)]
enum Document {
    Image(Manifest),
    Index(Index),
}

/// Finds the image for this machine.
pub(super) async fn find(client: &mut Client, reference: &Reference) -> Result<Manifested, Refusal> {
    let accept = MANIFESTS.iter().chain(&INDEXES).copied().collect::<Vec<_>>().join(", ");
    let (mut reference, mut expected) = match reference {
        Reference::Tag(tag) => (tag.clone(), None),
        Reference::Digest(digits) => (format!("sha256:{digits}"), Some(digits.clone())),
    };
    for _ in 0..MAX_DEPTH {
        let (media_type, bytes) = client.manifest(&reference, &accept, MAX_DOCUMENT_LEN).await?;
        let digest = hex(&Sha256::digest(&bytes));
        if expected.as_ref().is_some_and(|expected| *expected != digest) {
            return Err(unsuitable(format!("document {reference} is not what its digest says")));
        }
        match read(&media_type, &bytes)? {
            Document::Image(manifest) => return finish(digest, manifest, bytes),
            Document::Index(index) => {
                let digits = choose(&index)?;
                (reference, expected) = (format!("sha256:{digits}"), Some(digits));
            }
        }
    }
    Err(unsuitable("its indexes are too deep within each other".into()))
}

/// Reads a document, which is what type and content say alike: one that is two things is neither.
fn read(media_type: &str, bytes: &[u8]) -> Result<Document, Refusal> {
    let unread = |error: serde_json::Error| {
        unsuitable(format!("its manifest cannot be read: {}", shown(&error.to_string())))
    };
    let kind: Kind = serde_json::from_slice(bytes).map_err(unread)?;
    let said = if kind.media_type.is_empty() { media_type } else { &kind.media_type };
    let of_image = kind.config.is_some() && kind.layers.is_some();
    if kind.schema_version != 2 {
        return Err(unsuitable(format!("manifests of version {} are not known", kind.schema_version)));
    }
    if is_index(said) && kind.manifests.is_some() && kind.config.is_none() && kind.layers.is_none() {
        return serde_json::from_slice(bytes).map(Document::Index).map_err(unread);
    }
    if MANIFESTS.contains(&said) && of_image && kind.manifests.is_none() {
        return serde_json::from_slice(bytes).map(Document::Image).map_err(unread);
    }
    Err(unsuitable(format!("a manifest of type `{}` is not known", shown(said))))
}

/// The digest of what an index has for this machine: the first that says so, or else the first that says nothing.
fn choose(index: &Index) -> Result<String, Refusal> {
    let known = |descriptor: &&Descriptor| {
        descriptor.may_be_ours()
            && (is_index(&descriptor.media_type) || MANIFESTS.contains(&descriptor.media_type.as_str()))
    };
    let mut candidates = index.manifests.iter().filter(known);
    let first = candidates.clone().next();
    let chosen = candidates.find(|descriptor| descriptor.platform.is_some()).or(first);
    let chosen = chosen.ok_or_else(|| unsuitable("it has no image for linux/amd64".into()))?;
    checked(&chosen.digest).map(String::from)
}

fn finish(digest: String, manifest: Manifest, bytes: Vec<u8>) -> Result<Manifested, Refusal> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(unsuitable(format!(
            "it has {} layers, {MAX_LAYERS} are the most",
            manifest.layers.len()
        )));
    }
    if manifest.config.size > MAX_DOCUMENT_LEN {
        return Err(unsuitable(format!("its configuration has more than {MAX_DOCUMENT_LEN} bytes")));
    }
    let size = manifest.size();
    if size > MAX_IMAGE_LEN {
        return Err(unsuitable(format!("it has more than {MAX_IMAGE_LEN} bytes")));
    }
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        checked(&descriptor.digest)?;
    }
    Ok(Manifested { found: Found { digest, size }, manifest, bytes })
}

/// The digits of a digest that a document names.
pub(super) fn checked(digest: &str) -> Result<&str, Refusal> {
    sha256(digest).ok_or_else(|| unsuitable(format!("`{}` is no SHA-256", shown(digest))))
}

fn unsuitable(problem: String) -> Refusal {
    Refusal::Unsuitable(problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const OURS: &str = "00";

    fn descriptor(digit: &str, platform: Option<(&str, &str)>) -> Value {
        let mut descriptor = json!({
            "mediaType": MANIFESTS[0], "digest": format!("sha256:{}", digit.repeat(32)), "size": 7,
        });
        if let Some((os, architecture)) = platform {
            descriptor["platform"] = json!({ "os": os, "architecture": architecture });
        }
        descriptor
    }

    fn chosen(manifests: &[Value]) -> Result<String, Refusal> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEXES[0], "manifests": manifests });
        match read("", index.to_string().as_bytes())? {
            Document::Index(index) => choose(&index),
            Document::Image(_) => panic!("an index"),
        }
    }

    #[test]
    fn of_an_index_the_image_for_this_machine_is_taken() {
        let other = descriptor("aa", Some(("linux", "arm64")));
        let ours = descriptor(OURS, Some(("linux", "amd64")));
        let silent = descriptor("bb", None);
        let mut attestation = descriptor("cc", None);
        attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        let all = [other.clone(), attestation.clone(), silent.clone(), ours];
        assert_eq!(chosen(&all).unwrap(), OURS.repeat(32));
        assert_eq!(chosen(&[other.clone(), silent]).unwrap(), "bb".repeat(32));
        let none = chosen(&[other, attestation]).unwrap_err();
        assert_eq!(none, Refusal::Unsuitable("it has no image for linux/amd64".into()));
        let mut wrong = descriptor(OURS, None);
        wrong["digest"] = json!("sha256:../../etc");
        assert!(matches!(chosen(&[wrong]), Err(Refusal::Unsuitable(_))));
    }

    #[test]
    fn a_document_that_is_two_things_is_neither() {
        let layer = descriptor(OURS, None);
        let image = json!({ "schemaVersion": 2, "config": layer, "layers": [layer] });
        let read = |document: &Value, media_type: &str| read(media_type, document.to_string().as_bytes());
        for media_type in MANIFESTS {
            assert!(matches!(read(&image, media_type), Ok(Document::Image(_))), "{media_type}");
        }
        let changed = |member: &str, value: Value| {
            let mut image = image.clone();
            image[member] = value;
            image
        };
        for (wrong, media_type) in [
            (image.clone(), INDEXES[0]),
            (image.clone(), "application/json"),
            (changed("manifests", json!([layer])), MANIFESTS[0]),
            (changed("mediaType", json!(INDEXES[0])), MANIFESTS[0]),
            (changed("schemaVersion", json!(1)), MANIFESTS[0]),
            (json!({ "schemaVersion": 2, "manifests": [layer], "layers": [] }), INDEXES[0]),
            (json!([]), MANIFESTS[0]),
        ] {
            assert!(matches!(read(&wrong, media_type), Err(Refusal::Unsuitable(_))), "{wrong}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_comes() {
        let finish = |layers: usize, size: u64| {
            let layer = |size| json!({ "digest": format!("sha256:{}", OURS.repeat(32)), "size": size });
            let manifest = json!({ "config": layer(1), "layers": vec![layer(size); layers] });
            finish(OURS.repeat(32), serde_json::from_value(manifest).unwrap(), Vec::new())
        };
        assert_eq!(finish(2, 10).unwrap().found.size, 21);
        for (layers, size) in [(MAX_LAYERS + 1, 1), (1, MAX_IMAGE_LEN), (2, u64::MAX)] {
            assert!(matches!(finish(layers, size), Err(Refusal::Unsuitable(_))), "{layers} of {size}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_registry_answers_breaks_it(bytes: Vec<u8>, media_type in "\\PC{0,40}") {
            let _ = read(&media_type, &bytes);
        }
    }
}
