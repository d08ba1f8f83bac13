//! Checks on the text of single files: length, header, words that must not land, registry hosts, shell scripts.

use std::path::Path;

use super::{Finding, tree::Tree};

/// A file longer than this needs a redesign.
const MAX_LINES: usize = 600;
/// A file longer than this is a smell.
const SMELL_LINES: usize = 400;
/// A shell script longer than this belongs into xtask.
const MAX_SCRIPT_LINES: usize = 10;

/// Rust files that are too long.
pub(super) fn lengths(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter_map(|(path, text)| match text.lines().count() {
            lines if lines > MAX_LINES => {
                Some(Finding::error(path, None, format!("{lines} lines; {MAX_LINES} is the limit")))
            }
            lines if lines > SMELL_LINES => Some(Finding::warning(
                path,
                format!("{lines} lines; past {SMELL_LINES} look for a second idea"),
            )),
            _ => None,
        })
        .collect()
}

/// Rust files that do not open by saying what they are.
pub(super) fn headers(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| {
            Finding::error(path, Some(1), "opens without `//!`: what is it, what not, who calls it?")
        })
        .collect()
}

/// A word that must not be in Rust code, in two pieces so that this file does not hold it.
struct Forbidden {
    word: [&'static str; 2],
    within: Within,
    reason: &'static str,
}

/// Where a word is forbidden.
#[derive(PartialEq)]
enum Within {
    Code,
    CodeAndComments,
    Tests,
}

const FORBIDDEN: &[Forbidden] = &[
    Forbidden { word: ["#[ign", "ore"], within: Within::Code, reason: "a test that never runs is no test" },
    Forbidden { word: ["tod", "o!("], within: Within::Code, reason: "finish it before it lands" },
    Forbidden { word: ["unimple", "mented!("], within: Within::Code, reason: "finish it before it lands" },
    Forbidden { word: ["db", "g!("], within: Within::Code, reason: "left over from debugging" },
    Forbidden { word: ["TO", "DO"], within: Within::CodeAndComments, reason: "finish it, or open an issue" },
    Forbidden { word: ["FIX", "ME"], within: Within::CodeAndComments, reason: "finish it, or open an issue" },
    Forbidden {
        word: ["Under constr", "uction"],
        within: Within::CodeAndComments,
        reason: "a stub does not land",
    },
    Forbidden { word: ["thread::sl", "eep("], within: Within::Tests, reason: "wait for the event instead" },
    Forbidden { word: ["time::sl", "eep("], within: Within::Tests, reason: "wait for the event instead" },
];

/// Words that must not land.
pub(super) fn forbidden_words(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (number, line) in text.lines().enumerate() {
            for forbidden in FORBIDDEN {
                let word = forbidden.word.concat();
                let applies = match forbidden.within {
                    Within::CodeAndComments => true,
                    Within::Code => !is_comment(line),
                    Within::Tests => !is_comment(line) && path.starts_with("tests"),
                };
                if applies && line.contains(&word) {
                    let message = format!("`{word}`: {}", forbidden.reason);
                    findings.push(Finding::error(path, Some(number + 1), message));
                }
            }
        }
    }
    findings
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Package registries and their mirrors, label by label so that this file does not hold a name.
const REGISTRY_HOSTS: &[&[&str]] = &[
    &["deb", "debian", "org"],
    &["ftp", "debian", "org"],
    &["security", "debian", "org"],
    &["snapshot", "debian", "org"],
    &["crates", "io"],
    &["pypi", "org"],
    &["pythonhosted", "org"],
    &["npmjs", "org"],
    &["proxy", "golang", "org"],
];

/// Names of registry hosts: each machine has its own mirror, and its own configuration says which.
pub(super) fn registry_hosts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Cargo writes the registry's canonical index into the lock file whatever mirror serves it.
    for (path, text) in tree.files().filter(|(path, _)| *path != Path::new("Cargo.lock")) {
        for (number, line) in text.lines().enumerate() {
            for host in REGISTRY_HOSTS.iter().map(|labels| labels.join(".")) {
                if line.contains(&host) {
                    let message =
                        format!("names the registry host {host}; take it from the machine's configuration");
                    findings.push(Finding::error(path, Some(number + 1), message));
                }
            }
        }
    }
    findings
}

/// Shell scripts that have grown into programs.
pub(super) fn shell_scripts(tree: &Tree) -> Vec<Finding> {
    tree.files()
        .filter(|(path, text)| is_shell(path, text))
        .filter_map(|(path, text)| {
            let lines =
                text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')).count();
            (lines > MAX_SCRIPT_LINES).then(|| {
                let message =
                    format!("shell script of {lines} lines; past {MAX_SCRIPT_LINES} it belongs into xtask");
                Finding::error(path, None, message)
            })
        })
        .collect()
}

fn is_shell(path: &Path, text: &str) -> bool {
    let shebang = text.lines().next().filter(|line| line.starts_with("#!")).unwrap_or_default();
    path.extension().is_some_and(|extension| extension == "sh")
        || shebang.split(['/', ' ']).any(|word| matches!(word, "sh" | "bash" | "dash"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::Severity;

    fn check(rule: fn(&Tree) -> Vec<Finding>, path: &str, text: &str) -> Option<Severity> {
        let findings = rule(&Tree::of(&[(path, text)]));
        assert!(findings.len() <= 1, "{findings:?}");
        findings.first().map(|finding| finding.severity)
    }

    #[test]
    fn a_long_file_warns_and_a_longer_one_fails() {
        assert_eq!(check(lengths, "a.rs", &"x\n".repeat(SMELL_LINES)), None);
        assert_eq!(check(lengths, "a.rs", &"x\n".repeat(SMELL_LINES + 1)), Some(Severity::Warning));
        assert_eq!(check(lengths, "a.rs", &"x\n".repeat(MAX_LINES + 1)), Some(Severity::Error));
        assert_eq!(check(lengths, "a.py", &"x\n".repeat(MAX_LINES + 1)), None);
    }

    #[test]
    fn a_file_must_open_with_a_header() {
        assert_eq!(check(headers, "a.rs", "//! What it is.\n"), None);
        assert_eq!(check(headers, "a.rs", "// What it is.\n"), Some(Severity::Error));
        assert_eq!(check(headers, "a.rs", ""), Some(Severity::Error));
    }

    #[test]
    fn every_forbidden_word_is_found() {
        for forbidden in FORBIDDEN {
            let line = format!("    {}", forbidden.word.concat());
            assert_eq!(check(forbidden_words, "tests/it/a.rs", &line), Some(Severity::Error), "{line}");
            let in_comment = (forbidden.within == Within::CodeAndComments).then_some(Severity::Error);
            assert_eq!(check(forbidden_words, "tests/it/a.rs", &format!("//{line}")), in_comment, "{line}");
            let elsewhere = (forbidden.within != Within::Tests).then_some(Severity::Error);
            assert_eq!(check(forbidden_words, "vmm/src/a.rs", &line), elsewhere, "{line}");
        }
    }

    #[test]
    fn a_registry_host_is_found_but_not_in_the_lock_file() {
        for labels in REGISTRY_HOSTS {
            let line = format!("url = https://{}/x", labels.join("."));
            assert_eq!(check(registry_hosts, "image/mkosi.conf", &line), Some(Severity::Error), "{line}");
            assert_eq!(check(registry_hosts, "Cargo.lock", &line), None);
        }
    }

    #[test]
    fn a_shell_script_is_known_by_name_or_shebang_and_its_comments_are_free() {
        let long = "true\n".repeat(MAX_SCRIPT_LINES + 1);
        assert_eq!(check(shell_scripts, "a.sh", &long), Some(Severity::Error));
        assert_eq!(check(shell_scripts, "a", &format!("#!/bin/bash\n{long}")), Some(Severity::Error));
        assert_eq!(check(shell_scripts, "a", &format!("#!/usr/bin/env bash\n{long}")), Some(Severity::Error));
        assert_eq!(check(shell_scripts, "a", &format!("#!/usr/bin/python3\n{long}")), None);
        assert_eq!(check(shell_scripts, "a.sh", &"# why\n\ntrue\n".repeat(MAX_SCRIPT_LINES)), None);
    }
}
