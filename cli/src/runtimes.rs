//! `tinderbox runtimes`: what the node has images of.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{client::Client, print};

const PATH: &str = "/tinderbox/runtimes";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    runtimes: Vec<Runtime>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Runtime {
    runtime: String,
    /// None of an image that the node cannot read.
    runtime_version_arn: Option<String>,
    stands_in_for: Vec<String>,
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

fn text(listed: &Listed) -> String {
    let mut text = String::new();
    for Runtime { runtime, runtime_version_arn, stands_in_for } in &listed.runtimes {
        let arn = runtime_version_arn.as_deref().unwrap_or("its image cannot be read");
        text += &format!("{runtime:<18}{arn}\n");
        if !stands_in_for.is_empty() {
            text += &format!("{:<18}also for {}\n", "", stands_in_for.join(", "));
        }
    }
    if text.is_empty() { "no runtimes\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_listed_with_its_version_and_whom_it_stands_in_for() {
        let answer = r#"{"Runtimes": [
            {"Runtime": "java21", "RuntimeVersionArn": "arn:aws:lambda:r::runtime:1", "StandsInFor": ["java11", "java17"]},
            {"Runtime": "provided.al2023", "RuntimeVersionArn": null, "StandsInFor": []}]}"#;
        assert_eq!(
            text(&serde_json::from_str(answer).unwrap()),
            "java21            arn:aws:lambda:r::runtime:1\n                  also for java11, java17\n\
             provided.al2023   its image cannot be read\n"
        );
        assert_eq!(text(&Listed { runtimes: Vec::new() }), "no runtimes\n");
    }
}
