//! `tinderbox egress`: where sandboxes of a function may go.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::{client::Client, print};

/// What is asked.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Where it may go.
    Get {
        /// Its name.
        function: String,
    },
    /// Says where sandboxes may go that begin from now on; those that wait are ended.
    Set {
        /// The function's name.
        function: String,
        /// `none`, `internet` (everything public), or networks such as `10.1.0.0/16`, which may be private.
        #[arg(required = true)]
        egress: Vec<String>,
    },
    /// What the node says of all functions holds again.
    Unset {
        /// The function's name.
        function: String,
    },
}

/// As the node writes it: a word, or networks.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
enum Egress {
    Word(String),
    Networks(Vec<String>),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saying {
    egress: Egress,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    egress: Egress,
    from: String,
}

/// Asks, and prints what holds then.
pub(crate) fn run(client: &Client, action: Action, json: bool) -> Result<ExitCode> {
    let (method, function, body) = match action {
        Action::Get { function } => ("GET", function, Vec::new()),
        Action::Unset { function } => ("DELETE", function, Vec::new()),
        Action::Set { function, egress } => {
            let saying = Saying { egress: meant(egress) };
            ("PUT", function, serde_json::to_vec(&saying).context("write the request")?)
        }
    };
    let answer = client.call(method, &format!("/tinderbox/egress/{}", segment(&function)), body)?;
    let text = report(&answer)?;
    print(&format!("{}\n", if json { String::from_utf8_lossy(&answer).into_owned() } else { text }))?;
    Ok(ExitCode::SUCCESS)
}

/// A name as a segment of a path: what is no part of a name is escaped, for the node to refuse.
pub(crate) fn segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let escape =
        |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

/// A word alone that is no network is a word.
fn meant(mut egress: Vec<String>) -> Egress {
    match egress.pop_if(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic())) {
        Some(word) if egress.is_empty() => Egress::Word(word),
        Some(word) => Egress::Networks(egress.into_iter().chain([word]).collect()),
        None => Egress::Networks(egress),
    }
}

fn report(answer: &Bytes) -> Result<String> {
    let Said { egress, from } = serde_json::from_slice(answer).context("understand the node's answer")?;
    let egress = match egress {
        Egress::Word(word) => word,
        Egress::Networks(networks) => networks.join(" "),
    };
    Ok(if from == "function" { egress } else { format!("{egress} (as all functions of the node)") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_networks_are_told_apart() {
        let meant = |words: &[&str]| meant(words.iter().map(|word| (*word).to_owned()).collect());
        let networks =
            |words: &[&str]| Egress::Networks(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(meant(&["internet"]), Egress::Word("internet".into()));
        assert_eq!(meant(&["10.0.0.0/8"]), networks(&["10.0.0.0/8"]));
        assert_eq!(meant(&["10.0.0.0/8", "none"]), networks(&["10.0.0.0/8", "none"]));
    }

    #[test]
    fn what_holds_is_said() {
        let said = |answer: &'static str| report(&Bytes::from_static(answer.as_bytes())).unwrap();
        assert_eq!(
            said(r#"{"Egress":["10.0.0.0/8","192.0.2.7/32"],"From":"function"}"#),
            "10.0.0.0/8 192.0.2.7/32"
        );
        assert_eq!(said(r#"{"Egress":"none","From":"node"}"#), "none (as all functions of the node)");
        assert!(report(&Bytes::from_static(b"{}")).is_err());
    }

    #[test]
    fn a_name_stays_within_its_segment() {
        assert_eq!(segment("my-f_1"), "my-f_1");
        assert_eq!(segment("../a b"), "%2E%2E%2Fa%20b");
    }
}
