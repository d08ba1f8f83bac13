//! What Kconfig switches on beside what was asked for is code in every guest, too: it is listed, with the reason of each group, and
//! a kernel with more is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Symbols that describe the architecture, the compiler, or what could be on, and that switch nothing on. They differ between
/// compilers.
const DESCRIBING: [&str; 19] = [
    "ARCH_",
    "ASM_",
    "AS_",
    "BINFMT_ELF_",
    "CC_",
    "CLANG_",
    "FUNCTION_",
    "GCC",
    "GENERIC_",
    "HAS_",
    "HAVE_",
    "INLINE_",
    "LD_",
    "LLD_",
    "NEED_",
    "PAHOLE",
    "RUST",
    "TOOLS_",
    "USE_",
];
const DESCRIBING_ENDS: [&str; 2] = ["_POSSIBLE", "_SUPPORT"];
/// Defaults of buses that this kernel does not have.
const NOTHING: [&str; 2] = ["SCSI_MOD", "USB_OHCI_LITTLE_ENDIAN"];

/// Fails when the built configuration has something on that neither `named` nor `implied` has.
pub(super) fn check(named: &Path, implied: &Path, built: &Path) -> Result<()> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let built = read(built)?;
    let more = unlisted(&read(named)?, &read(implied)?, &built);
    ensure!(
        more.is_empty(),
        "the guest kernel has options on that {} does not list; add them there if guests need them:\n{}",
        implied.display(),
        more.join("\n")
    );
    Ok(())
}

/// The lines of `built` that are nowhere else.
fn unlisted<'a>(named: &str, implied: &str, built: &'a str) -> Vec<&'a str> {
    let listed: BTreeSet<&str> = named.lines().chain(implied.lines()).collect();
    built.lines().filter(|line| is_feature(line) && !listed.contains(line)).collect()
}

fn is_feature(line: &str) -> bool {
    let Some(name) = line.strip_prefix("CONFIG_").and_then(|rest| rest.strip_suffix("=y")) else {
        return false;
    };
    !DESCRIBING.iter().any(|prefix| name.starts_with(prefix))
        && !DESCRIBING_ENDS.iter().any(|end| name.ends_with(end))
        && !NOTHING.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{FRAGMENT, IMPLIED};

    #[test]
    fn what_nobody_lists_is_found() {
        let built = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_HAVE_D=y\nCONFIG_D_SUPPORT=y\nCONFIG_E=4\n# CONFIG_F is not set\n";
        assert_eq!(unlisted("# why\nCONFIG_A=y\n", "CONFIG_B=y\n", built), ["CONFIG_C=y"]);
    }

    /// Paragraphs begin with what they are for.
    #[test]
    fn every_option_has_a_reason() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for file in [FRAGMENT, IMPLIED] {
            let text = fs::read_to_string(root.join(file)).unwrap();
            for paragraph in text.split("\n\n").filter(|text| text.contains("CONFIG_")) {
                let first = paragraph.lines().next().unwrap();
                assert!(
                    first.starts_with("# --- ") && first.split_whitespace().count() > 2,
                    "{file}: {first}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_listed_twice() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = |file| fs::read_to_string(root.join(file)).unwrap();
        let (named, implied) = (text(FRAGMENT), text(IMPLIED));
        let mut seen = BTreeSet::new();
        let options = named.lines().chain(implied.lines()).filter(|line| line.starts_with("CONFIG_"));
        let twice: Vec<_> = options.filter(|line| !seen.insert(*line)).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
