//! `tinderbox keys`: access keys of a node, and what each may do.

use std::{fs, io::Read as _, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{client::Client, egress::segment, print};

const PATH: &str = "/tinderbox/keys";

/// Longest file that is read as a policy, in bytes: more than a node takes.
const MAX_POLICY_LEN: u64 = 64 * 1024;

/// What is asked.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Action {
    /// Makes a key, and prints both of its halves. The secret is never told again.
    Create {
        /// What refusals and functions' policies call who has it; its id if nothing is said.
        #[arg(long)]
        name: Option<String>,
        /// A file with what it may do, as an IAM policy in JSON; `-` is standard input.
        #[arg(long)]
        policy: String,
    },
    /// All keys.
    List,
    /// A key is refused from now on, until it is enabled.
    Disable {
        /// Its id.
        id: String,
    },
    /// A key is taken again.
    Enable {
        /// Its id.
        id: String,
    },
    /// A key is gone.
    Delete {
        /// Its id.
        id: String,
    },
    /// Says what a key may do from now on.
    SetPolicy {
        /// Its id.
        id: String,
        /// A file as for `create`.
        policy: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    access_key_id: String,
    name: String,
    state: String,
    created_at: String,
    policy: Value,
    secret_access_key: Option<String>,
}

/// Asks, and prints what there is then.
pub(crate) fn run(client: &Client, action: Action, json: bool) -> Result<ExitCode> {
    let state = |id: &str, state: &str| {
        ("PUT", format!("{PATH}/{}/state", segment(id)), json!({ "State": state }).to_string())
    };
    let (method, path, body) = match action {
        Action::Create { name, policy } => {
            // As it is written: a member that is there twice is the node's to refuse.
            ("POST", PATH.to_owned(), format!(r#"{{"Name":{},"Policy":{}}}"#, json!(name), read(&policy)?))
        }
        Action::List => ("GET", PATH.to_owned(), String::new()),
        Action::Disable { id } => state(&id, "Inactive"),
        Action::Enable { id } => state(&id, "Active"),
        Action::Delete { id } => ("DELETE", format!("{PATH}/{}", segment(&id)), String::new()),
        Action::SetPolicy { id, policy } => {
            ("PUT", format!("{PATH}/{}/policy", segment(&id)), read(&policy)?)
        }
    };
    let answer = client.call(method, &path, body.into_bytes())?;
    let text = report(&answer)?;
    print(&format!("{}\n", if json { String::from_utf8_lossy(&answer).into_owned() } else { text }))?;
    Ok(ExitCode::SUCCESS)
}

/// A policy out of a file; what it says is the node's to judge.
fn read(file: &str) -> Result<String> {
    let mut text = String::new();
    let source: Box<dyn std::io::Read> = if file == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(Path::new(file)).with_context(|| format!("cannot open {file}"))?)
    };
    source
        .take(MAX_POLICY_LEN + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {file}"))?;
    ensure!(text.len() as u64 <= MAX_POLICY_LEN, "{file} is longer than {MAX_POLICY_LEN} bytes");
    serde_json::from_str::<Value>(&text).with_context(|| format!("{file} is no JSON"))?;
    Ok(text)
}

fn report(answer: &Bytes) -> Result<String> {
    if answer.is_empty() {
        return Ok("deleted".into());
    }
    let keys = match serde_json::from_slice(answer) {
        Ok(Listed { keys }) => keys,
        Err(_) => vec![serde_json::from_slice(answer).context("understand the node's answer")?],
    };
    if keys.is_empty() {
        return Ok("no keys but those of the node's configuration, which may do everything".into());
    }
    Ok(keys.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn line(key: &Key) -> String {
    let Key { access_key_id, name, state, created_at, policy, secret_access_key } = key;
    let line = format!("{access_key_id}  {name}  {state}  {created_at}\n  {policy}");
    match secret_access_key {
        Some(secret) => format!("{line}\nAWS_ACCESS_KEY_ID={access_key_id}\nAWS_SECRET_ACCESS_KEY={secret}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_with_their_policies_and_a_secret_only_when_there_is_one() {
        let said = |answer: &'static str| report(&Bytes::from_static(answer.as_bytes())).unwrap();
        let key = r#"{"AccessKeyId":"AKIA1","Name":"ann","State":"Active","CreatedAt":"t","Policy":{"a":1}}"#;
        assert_eq!(said(key), "AKIA1  ann  Active  t\n  {\"a\":1}");
        assert!(said(r#"{"Keys":[]}"#).starts_with("no keys but"));
        let made = r#"{"AccessKeyId":"AKIA1","Name":"n","State":"Active","CreatedAt":"t","Policy":{},"SecretAccessKey":"s"}"#;
        assert!(said(made).ends_with("AWS_ACCESS_KEY_ID=AKIA1\nAWS_SECRET_ACCESS_KEY=s"));
        assert_eq!(said(""), "deleted");
        assert!(report(&Bytes::from_static(b"{}")).is_err());
    }

    #[test]
    fn a_policy_is_a_file_of_json() {
        let file = std::env::temp_dir().join(format!("tinderbox-keys-{}", std::process::id()));
        fs::write(&file, r#"{"Version":"2012-10-17"}"#).unwrap();
        assert_eq!(read(file.to_str().unwrap()).unwrap(), r#"{"Version":"2012-10-17"}"#);
        fs::write(&file, "{").unwrap();
        assert!(read(file.to_str().unwrap()).is_err());
        fs::remove_file(&file).unwrap();
        assert!(read(file.to_str().unwrap()).is_err());
    }
}
