//! `tinderbox events`: how asynchronous calls stand, of the node or of one function.

use anyhow::{Context as _, Result};
use hyper::body::Bytes;
use serde::Deserialize;

use crate::{client::Client, egress::segment, print};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Totals {
    events: u64,
    bytes: u64,
    max_events: u64,
    max_bytes: u64,
    destinations: Vec<Destination>,
}

/// A bucket or a webhook that the node's configuration names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Destination {
    destination: String,
    queued: u64,
    oldest_age_in_seconds: Option<u64>,
    delivered: u64,
    failed: u64,
    lost: u64,
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Standing {
    queued: u64,
    in_flight: u64,
    oldest_age_in_seconds: Option<u64>,
    delivered: u64,
    retried: u64,
    throttled: u64,
    dropped: u64,
    dead: u64,
    dead_events: Vec<Dead>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Dead {
    request_id: String,
    condition: String,
    died_at: String,
    invoke_count: u64,
    error_type: Option<String>,
    error_message: Option<String>,
}

/// Asks, and prints how they stand.
pub(crate) fn run(client: &Client, function: Option<String>, json: bool) -> Result<()> {
    let (path, report): (_, fn(&Bytes) -> Result<String>) = match function {
        Some(function) => (format!("/tinderbox/events/{}", segment(&function)), standing),
        None => ("/tinderbox/events".to_owned(), totals),
    };
    let answer = client.call("GET", &path, Vec::new())?;
    let text = report(&answer)?;
    print(&format!("{}\n", if json { String::from_utf8_lossy(&answer).into_owned() } else { text }))
}

fn totals(answer: &Bytes) -> Result<String> {
    let totals: Totals = serde_json::from_slice(answer).context("understand the node's answer")?;
    let Totals { events, bytes, max_events, max_bytes, destinations } = totals;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (bytes, max_bytes) = (mib(bytes), mib(max_bytes));
    let mut text = format!("{events} events of {max_events}, {bytes:.1} MiB of {max_bytes:.1}");
    for one in destinations {
        let Destination { destination, queued, oldest_age_in_seconds, delivered, failed, lost, problem } =
            one;
        let age = oldest_age_in_seconds.map(|age| format!(", the first for {age} s")).unwrap_or_default();
        // What a server said may be in it.
        let problem = problem.map(|problem| format!(": {}", problem.escape_debug())).unwrap_or_default();
        text += &format!(
            "\n  {destination} {queued} wait{age}, {delivered} delivered, {failed} attempts failed, {lost} lost{problem}"
        );
    }
    Ok(text)
}

fn standing(answer: &Bytes) -> Result<String> {
    let standing: Standing = serde_json::from_slice(answer).context("understand the node's answer")?;
    let Standing { queued, in_flight, oldest_age_in_seconds, dead_events, .. } = standing;
    let Standing { delivered, retried, throttled, dropped, dead, .. } = standing;
    let age = oldest_age_in_seconds.map(|age| format!(", the first for {age} s")).unwrap_or_default();
    let mut text = format!(
        "{queued} queued, {in_flight} in flight{age}\n{delivered} delivered, {retried} retried, {throttled} throttled, \
         {dropped} dropped, {dead} dead"
    );
    for event in dead_events {
        let Dead { request_id, condition, died_at, invoke_count, error_type, error_message } = event;
        let said = [error_type, error_message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        // What a function said is a stranger's: no control character of it reaches a terminal.
        let said = said.escape_debug();
        text += &format!("\n  {died_at} {request_id} {condition} after {invoke_count} calls {said}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_events_stand_is_said_in_a_few_lines() {
        let answer = br#"{"Events":3,"Bytes":1048576,"MaxEvents":10,"MaxBytes":2097152,"Destinations":[
            {"Destination":"a","Queued":2,"InFlight":0,"OldestAgeInSeconds":7,"Delivered":1,"Failed":3,"Lost":0,"Problem":"no\u001b"},
            {"Destination":"b","Queued":0,"InFlight":0,"OldestAgeInSeconds":null,"Delivered":5,"Failed":0,"Lost":1,"Problem":null}]}"#;
        assert_eq!(
            totals(&Bytes::from_static(answer)).unwrap(),
            "3 events of 10, 1.0 MiB of 2.0\n  \
             a 2 wait, the first for 7 s, 1 delivered, 3 attempts failed, 0 lost: no\\u{1b}\n  \
             b 0 wait, 5 delivered, 0 attempts failed, 1 lost"
        );
        let answer = br#"{"Queued":2,"InFlight":1,"OldestAgeInSeconds":7,"Delivered":5,"Retried":4,"Throttled":3,"Dropped":2,
            "Dead":1,"DeadEvents":[{"RequestId":"r","FunctionArn":"a","Condition":"RetriesExhausted","DiedAt":"t",
            "InvokeCount":3,"ErrorType":"E","ErrorMessage":"no\u001b[2J"}]}"#;
        assert_eq!(
            standing(&Bytes::from_static(answer)).unwrap(),
            "2 queued, 1 in flight, the first for 7 s\n5 delivered, 4 retried, 3 throttled, 2 dropped, 1 dead\n  \
             t r RetriesExhausted after 3 calls E: no\\u{1b}[2J"
        );
        assert!(standing(&Bytes::from_static(b"{}")).is_err());
    }
}
