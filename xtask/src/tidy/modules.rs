//! Orphans: `.rs` files that no module tree reaches, so that nothing compiles or tests them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Finding, tree::Tree};

/// Files that cannot be reached from any target's root by `mod name;` declarations.
pub(super) fn orphans(tree: &Tree, roots: &[PathBuf]) -> Vec<Finding> {
    let mut reached: BTreeSet<PathBuf> = roots.iter().cloned().collect();
    let mut pending: Vec<(PathBuf, PathBuf)> =
        roots.iter().map(|root| (root.clone(), parent(root))).collect();
    while let Some((file, folder)) = pending.pop() {
        for declaration in declarations(tree.text(&file).unwrap_or_default()) {
            let candidates = match &declaration.path {
                Some(path) => vec![parent(&file).join(path)],
                None => vec![
                    folder.join(format!("{}.rs", declaration.name)),
                    folder.join(&declaration.name).join("mod.rs"),
                ],
            };
            for child in candidates.into_iter().filter(|child| tree.text(child).is_some()) {
                let folder = children_folder(&child);
                if reached.insert(child.clone()) {
                    pending.push((child, folder));
                }
            }
        }
    }
    tree.rust()
        .filter(|(path, _)| !reached.contains(*path))
        .map(|(path, _)| {
            Finding::error(path, None, "no module tree reaches this file, so nothing compiles it")
        })
        .collect()
}

struct Declaration {
    name: String,
    path: Option<String>,
}

/// The `mod name;` lines of a file at its top level, with their `#[path]`.
fn declarations(text: &str) -> Vec<Declaration> {
    let mut found = Vec::new();
    let mut path = None;
    for line in text.lines().map(str::trim) {
        if let Some(value) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            path = Some(value.to_owned());
        } else if let Some(name) = declared_module(line) {
            found.push(Declaration { name: name.to_owned(), path: path.take() });
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            path = None;
        }
    }
    found
}

fn declared_module(line: &str) -> Option<&str> {
    let unqualified = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    unqualified.strip_prefix("mod ")?.strip_suffix(';').map(str::trim)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where the modules that `file` declares live; a target's root is handled by its caller.
fn children_folder(file: &Path) -> PathBuf {
    if file.file_name().is_some_and(|name| name == "mod.rs") { parent(file) } else { file.with_extension("") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        orphans(&Tree::of(files), &[PathBuf::from("a/src/main.rs")])
            .into_iter()
            .map(|finding| finding.path.display().to_string())
            .collect()
    }

    #[test]
    fn a_file_that_nobody_declares_is_an_orphan() {
        assert_eq!(
            check(&[("a/src/main.rs", "mod b;"), ("a/src/b.rs", ""), ("a/src/c.rs", "")]),
            ["a/src/c.rs"]
        );
    }

    #[test]
    fn a_commented_declaration_does_not_count() {
        assert_eq!(check(&[("a/src/main.rs", "// mod b;"), ("a/src/b.rs", "")]), ["a/src/b.rs"]);
    }

    #[test]
    fn every_way_to_declare_a_module_is_followed() {
        let files = [
            ("a/src/main.rs", "mod b;\npub(crate) mod c;\n#[cfg(test)]\n#[path = \"other/d.rs\"]\nmod d;"),
            ("a/src/b.rs", "pub mod e;"),
            ("a/src/b/e.rs", ""),
            ("a/src/c/mod.rs", "mod f;"),
            ("a/src/c/f.rs", ""),
            ("a/src/other/d.rs", ""),
        ];
        assert_eq!(check(&files), [""; 0]);
    }
}
