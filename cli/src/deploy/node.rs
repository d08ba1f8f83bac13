//! The node, as `deploy` sees it: questions, changes, and waits for what these began.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::plan::Call;
use crate::client::Client;

/// How long a version may take to become active: its init and its snapshot, on an emulated processor.
const LONGEST: Duration = Duration::from_secs(900);

/// How often it is asked for.
const EVERY: Duration = Duration::from_millis(200);

/// Most pages of a list.
const MAX_PAGES: usize = 10_000;

/// What answers.
pub(crate) trait Node {
    /// The answer to a request; none if there is no such thing.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>>;

    /// The same of CloudWatch Logs.
    fn ask_logs(&self, operation: &str, body: &Value) -> Result<Value>;
}

impl Node for Client {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.find(method, path, body.into_bytes())?.map(|answer| read(&answer)).transpose()
    }

    fn ask_logs(&self, operation: &str, body: &Value) -> Result<Value> {
        read(&self.ask_logs(operation, body.to_string().into_bytes())?)
    }
}

/// An answer may have no body at all.
fn read(answer: &[u8]) -> Result<Value> {
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(answer).context("understand the node's answer")
}

/// What there is, if there is.
pub(crate) fn get(node: &dyn Node, path: &str) -> Result<Option<Value>> {
    node.ask("GET", path, None)
}

/// All items of a list that comes in pages.
pub(crate) fn all(node: &dyn Node, path: &str, member: &str) -> Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut marker: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let page = match &marker {
            None => path.to_owned(),
            Some(marker) => format!("{path}?Marker={}", crate::egress::segment(marker)),
        };
        let Some(mut answer) = get(node, &page)? else { break };
        if let Value::Array(found) = answer[member].take() {
            items.extend(found);
        }
        marker = answer["NextMarker"].as_str().map(str::to_owned);
        if marker.is_none() {
            break;
        }
    }
    Ok(items)
}

/// Makes a call, and returns what it answers.
pub(crate) fn perform(node: &dyn Node, call: &Call) -> Result<Value> {
    match call {
        Call::Ask { method: "DELETE", path, .. } => Ok(node.ask("DELETE", path, None)?.unwrap_or_default()),
        Call::Ask { method, path, body } => {
            let answer = node.ask(method, path, body.as_ref())?;
            answer.with_context(|| format!("the node has nothing at {path}"))
        }
        Call::Logs { operation, body } => node.ask_logs(operation, body),
        Call::Settled(path) => {
            wait(node, path, |shown| match (&shown["State"], &shown["LastUpdateStatus"]) {
                (state, _) if state == "Failed" => Err(shown["StateReason"].to_string()),
                (_, update) if update == "Failed" => Err(shown["LastUpdateStatusReason"].to_string()),
                (state, update) => Ok(state != "Pending" && update != "InProgress"),
            })
        }
        Call::Provisioned(path) => wait(node, path, |shown| match shown["Status"].as_str() {
            Some("FAILED") => Err(shown["StatusReason"].to_string()),
            status => Ok(status == Some("READY")),
        }),
    }
}

fn wait(node: &dyn Node, path: &str, is_done: impl Fn(&Value) -> Result<bool, String>) -> Result<Value> {
    let began = Instant::now();
    loop {
        let shown = get(node, path)?.with_context(|| format!("the node has nothing at {path} any more"))?;
        match is_done(&shown) {
            Ok(true) => return Ok(shown),
            Ok(false) if began.elapsed() > LONGEST => bail!("it takes longer than {} s", LONGEST.as_secs()),
            Ok(false) => thread::sleep(EVERY),
            Err(reason) => bail!("the node gave it up: {reason}"),
        }
    }
}
