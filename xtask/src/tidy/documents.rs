//! Checks on documents: the paths that ARCHITECTURE.md names exist, and decision records are numbered without gaps.

use std::path::Path;

use super::{Finding, tree::Tree};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const RECORDS: &str = "docs/adr";

/// Backticked paths in ARCHITECTURE.md that name nothing in the tree. A path is a token with a slash in it; one that
/// begins with a slash is a path on a node, not in the tree.
pub(super) fn named_paths(tree: &Tree) -> Vec<Finding> {
    let path = Path::new(ARCHITECTURE);
    let Some(text) = tree.text(path) else {
        return vec![Finding::error(path, None, "is missing: it locates a reader in the tree")];
    };
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        for token in quoted.filter(|token| looks_like_path(token)) {
            if !tree.has(Path::new(token.trim_end_matches('/'))) {
                findings.push(Finding::error(path, Some(number + 1), format!("`{token}` does not exist")));
            }
        }
    }
    findings
}

fn looks_like_path(token: &str) -> bool {
    token.contains('/')
        && !token.starts_with('/')
        && token.chars().all(|each| each.is_ascii_alphanumeric() || "._-/".contains(each))
}

/// Decision records whose number is missing, doubled or differs from their title's.
pub(super) fn decision_records(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let records = tree.files().filter(|(path, _)| path.parent() == Some(Path::new(RECORDS)));
    for ((path, text), expected) in records.zip(1_usize..) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&format!("{expected:04}-")) {
            findings.push(Finding::error(
                path,
                None,
                format!("is not number {expected:04}: renumber or fill the gap"),
            ));
        }
        if !text.starts_with(&format!("# {expected}. ")) {
            findings.push(Finding::error(
                path,
                Some(1),
                format!("title does not begin with `# {expected}. `"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.message).collect()
    }

    fn check_paths(architecture: &str) -> Vec<String> {
        let files = [("ARCHITECTURE.md", architecture), ("vmm/src/main.rs", "")];
        messages(named_paths(&Tree::of(&files)))
    }

    #[test]
    fn a_named_path_must_exist() {
        assert_eq!(check_paths("`vmm/src/main.rs`, `vmm/`, `vmm/src`"), [""; 0]);
        assert_eq!(check_paths("see `vmm/src/gone.rs`"), ["`vmm/src/gone.rs` does not exist"]);
        assert_eq!(check_paths("see `vm/`"), ["`vm/` does not exist"]);
    }

    #[test]
    fn what_is_no_path_in_the_tree_is_left_alone() {
        assert_eq!(check_paths("`/usr/lib/tinderbox` `cargo xtask run` `POST a/{b}` plain/path"), [""; 0]);
    }

    #[test]
    fn architecture_is_required() {
        assert_eq!(messages(named_paths(&Tree::of(&[]))).len(), 1);
    }

    #[test]
    fn records_are_numbered_from_one_without_gaps() {
        let check = |files: &[(&str, &str)]| messages(decision_records(&Tree::of(files)));
        let first = ("docs/adr/0001-a.md", "# 1. A\n");
        assert_eq!(check(&[first, ("docs/adr/0002-b.md", "# 2. B\n")]), [""; 0]);
        assert_eq!(check(&[first, ("docs/adr/0003-b.md", "# 2. B\n")]).len(), 1);
        assert_eq!(check(&[first, ("docs/adr/0001-b.md", "# 2. B\n")]).len(), 1);
        assert_eq!(check(&[("docs/adr/0001-a.md", "# A\n")]), ["title does not begin with `# 1. `"]);
    }
}
