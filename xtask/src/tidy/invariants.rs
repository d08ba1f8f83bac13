//! House rules about meaning that the types alone do not hold: a reason on every rule of a jail, and a name and a
//! version on everything that is saved.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Finding, tree::Tree};

/// Words below which a reason only repeats the rule.
const MIN_REASON_WORDS: usize = 2;

/// System call rules (`allow!`) whose reason says nothing, and rules that avoid the macro. The jail's own tests are
/// about the filter, not about a program, so their rules are left alone.
pub(super) fn seccomp_reasons(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in
        tree.rust().filter(|(path, _)| !path.starts_with("crates/jail") && !path.starts_with("xtask"))
    {
        let code = without_comments(text);
        for (offset, _) in code.match_indices("allow!(") {
            let rule = &code[offset..];
            let reason = last_text(rule).unwrap_or_default();
            if reason.split_whitespace().count() < MIN_REASON_WORDS {
                let message = format!("a system call is allowed without a reason: `{}`", first_line(rule));
                findings.push(Finding::error(path, Some(line_of(&code, offset)), message));
            }
        }
        for (offset, _) in code.match_indices("SyscallRule {") {
            findings.push(Finding::error(
                path,
                Some(line_of(&code, offset)),
                "write this rule with `allow!`",
            ));
        }
        for (offset, _) in code.match_indices("reason: \"\"") {
            findings.push(Finding::error(path, Some(line_of(&code, offset)), "an empty reason"));
        }
    }
    findings
}

/// The last string literal between the first parenthesis and the one that closes it.
fn last_text(rule: &str) -> Option<&str> {
    let (mut depth, mut opened, mut last) = (0_usize, None, None);
    for (at, byte) in rule.bytes().enumerate() {
        match (byte, opened) {
            (b'"', Some(start)) => {
                last = Some(&rule[start..at]);
                opened = None;
            }
            (b'"', None) => opened = Some(at + 1),
            (b'(', None) => depth += 1,
            (b')', None) if depth <= 1 => break,
            (b')', None) => depth -= 1,
            _ => {}
        }
    }
    last
}

/// Serialised `…State` structs of devices and machine that are neither a versioned section nor a field of another
/// struct, and section names that are used twice.
pub(super) fn saved_state_versions(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<(&Path, String)> = tree
        .rust()
        .filter(|(path, _)| path.starts_with("crates/devices") || path.starts_with("vmm"))
        .map(|(path, text)| (path, without_comments(text)))
        .collect();
    let mut findings = Vec::new();
    let mut names: BTreeMap<&str, &Path> = BTreeMap::new();
    for (path, code) in &sources {
        for (offset, name) in serialised_states(code) {
            let is_section = code.contains(&format!("SavedState for {name} "));
            if !is_section && !sources.iter().any(|(_, code)| has_field_of(code, name)) {
                let message = format!("{name} is saved without a name and a version: implement `SavedState`");
                findings.push(Finding::error(*path, Some(line_of(code, offset)), message));
            }
        }
        for (offset, name) in section_names(code) {
            if let Some(other) = names.insert(name, path) {
                let message = format!("section name \"{name}\" is used in {} too", other.display());
                findings.push(Finding::error(*path, Some(line_of(code, offset)), message));
            }
        }
    }
    findings
}

/// Whether some struct has a public field whose type mentions `name`.
fn has_field_of(code: &str, name: &str) -> bool {
    let fields = code.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "));
    let mut types = fields.map(|(_, kind)| kind);
    types.any(|kind| kind.split(|c: char| !c.is_alphanumeric()).any(|word| word == name))
}

/// Place and `NAME` of each section.
fn section_names(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("SavedState for ") {
        let body = code[offset..].split("\n}").next().unwrap_or_default();
        let name = body.split("NAME: &'static str = \"").nth(1).and_then(|rest| rest.split('"').next());
        found.extend(name.map(|name| (offset, name)));
    }
    found
}

/// Name and place of each `struct …State` with a `Serialize` derive above it.
fn serialised_states(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("struct ") {
        let name: &str =
            code[offset + "struct ".len()..].split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
        let attributes = code[..offset].rsplit("\n\n").next().unwrap_or_default();
        let attributes = attributes.rsplit('}').next().unwrap_or_default();
        if name.ends_with("State") && attributes.contains("Serialize") {
            found.push((offset, name));
        }
    }
    found
}

/// The text with every comment line emptied, so that offsets still count the same lines.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.message).collect()
    }

    fn check_rules(code: &str) -> usize {
        seccomp_reasons(&Tree::of(&[("vmm/src/filter.rs", code)])).len()
    }

    #[test]
    fn a_rule_needs_a_reason_of_words() {
        assert_eq!(check_rules("vec![allow!(SYS_read, \"serial input from the pipe\")]"), 0);
        assert_eq!(
            check_rules("vec![\n allow!(\n  SYS_ioctl,\n  arg 1 = KVM_RUN,\n  \"runs the vCPU\"\n ),\n]"),
            0
        );
        assert_eq!(check_rules("vec![allow!(SYS_tgkill, arg 2 = SIGRTMIN(), \"stops a vCPU\"), x(\"\")]"), 0);
        assert_eq!(check_rules("vec![allow!(SYS_tgkill, arg 2 = SIGRTMIN(), \"x\"), x(\"two words\")]"), 1);
        assert_eq!(check_rules("vec![allow!(SYS_read, \"read\"), allow!(SYS_write, \"log lines\"),]"), 1);
        assert_eq!(check_rules("vec![allow!(SYS_read, \"\")]"), 1);
        assert_eq!(check_rules("// allow!(SYS_read, \"\")"), 0);
        assert_eq!(check_rules("SyscallRule { name: \"x\" }"), 1);
        assert_eq!(check_rules("PathRule { path, reason: \"\" }"), 1);
    }

    fn check_states(files: &[(&str, &str)]) -> Vec<String> {
        messages(saved_state_versions(&Tree::of(files)))
    }

    const SECTION: &str = "#[derive(Serialize)]\npub struct RngState {\n    pub queue: QueueState,\n}\n\n\
        impl SavedState for RngState {\n    const NAME: &'static str = \"rng\";\n    const VERSION: u32 = 1;\n}\n";

    #[test]
    fn a_saved_struct_is_a_section_or_part_of_one() {
        let part = "\n#[derive(Serialize)]\npub struct QueueState {\n    pub size: u16,\n}\n";
        assert_eq!(check_states(&[("crates/devices/src/rng.rs", &format!("{SECTION}{part}"))]), [""; 0]);
        assert_eq!(
            check_states(&[("crates/devices/src/rng.rs", part)]),
            ["QueueState is saved without a name and a version: implement `SavedState`"]
        );
        assert_eq!(check_states(&[("vmm/src/a.rs", "struct RunState { a: u8 }")]), [""; 0]);
    }

    #[test]
    fn a_section_name_is_used_once() {
        let files = [("crates/devices/src/a.rs", SECTION), ("crates/devices/src/b.rs", SECTION)];
        assert_eq!(check_states(&files), ["section name \"rng\" is used in crates/devices/src/a.rs too"]);
    }
}
