//! `tinderbox node`: how a node is closed and shared, as its kernel says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{client::Client, print};

const PATH: &str = "/tinderbox/node";

#[derive(Debug, Deserialize)]
struct Node {
    kernel: Option<String>,
    root: Option<String>,
    lockdown: Option<String>,
    modules_disabled: Option<String>,
    swaps: Option<u64>,
    page_merging: Option<String>,
    huge_pages: Option<String>,
    smt: Option<String>,
    turns: Option<String>,
    vulnerabilities: BTreeMap<String, String>,
    certificate: Option<String>,
    landlock: u32,
}

/// Asks and prints.
pub(crate) fn run(client: &Client, json: bool) -> Result<()> {
    let answer = client.call("GET", PATH, Vec::new())?;
    if json {
        print(&format!("{}\n", String::from_utf8_lossy(&answer)))
    } else {
        print(&text(&serde_json::from_slice(&answer).context("understand the node's answer")?))
    }
}

fn text(node: &Node) -> String {
    let Node { kernel, root, lockdown, modules_disabled, swaps, page_merging, huge_pages, .. } = node;
    let swaps = swaps.map(|swaps| swaps.to_string());
    let lines = [
        ("kernel", kernel),
        ("root", root),
        ("lockdown", lockdown),
        ("modules off", modules_disabled),
        ("swaps", &swaps),
        ("merging", page_merging),
        ("huge pages", huge_pages),
        ("threads", &node.smt),
        ("turns", &node.turns),
        ("landlock", &Some(node.landlock.to_string())),
        ("certificate", &Some(node.certificate.clone().unwrap_or_else(|| "none: plain HTTP".to_owned()))),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        text += &format!("{name:<13}{}\n", value.as_deref().unwrap_or("unknown"));
    }
    text += "processor\n";
    for (kind, state) in &node.vulnerabilities {
        text += &format!("  {kind:<28}{state}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let answer =
            r#"{"kernel": "6.12", "swaps": 0, "vulnerabilities": {"mds": "Not affected"}, "landlock": 6}"#;
        let text = text(&serde_json::from_str(answer).unwrap());
        assert!(text.contains("kernel       6.12\n") && text.contains("lockdown     unknown\n"), "{text}");
        assert!(
            text.contains("swaps        0\n")
                && text.contains("  mds                         Not affected\n"),
            "{text}"
        );
    }
}
