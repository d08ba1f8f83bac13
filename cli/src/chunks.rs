//! `tinderbox chunks`: how much there is, whether it is whole, and what is done about it.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use hyper::body::Bytes;
use serde::Deserialize;

use crate::{client::Client, print};

/// Exit status of a check that found something.
const FOUND: u8 = 1;

/// What is asked.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Action {
    /// How much is published and kept, and what became of it.
    Stats,
    /// Reads all of it; ends with status 1 when something is damaged or missing.
    Verify,
    /// Deletes what nothing needs any more.
    Gc,
    /// Has what is damaged or missing written again; ends with status 1 when something is left.
    Repair,
}

#[derive(Debug, Deserialize)]
struct Stats {
    published: Published,
    cache: Cache,
    tiers: Tiers,
}

#[derive(Debug, Deserialize)]
struct Published {
    contents: u64,
    given: u64,
    chunks: u64,
    stored: u64,
    by_kind: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    kind: String,
    contents: u64,
    given: u64,
    chunks: u64,
    different: u64,
}

#[derive(Debug, Deserialize)]
struct Cache {
    copies: u64,
    bytes: u64,
    capacity: u64,
    hits: u64,
    fetched: u64,
    refused: u64,
    damaged: u64,
    evicted: u64,
    failed: u64,
}

/// Where chunks came from that this node had no copy of.
#[derive(Debug, Deserialize)]
struct Tiers {
    directory: Origin,
    peers: Peers,
    origin: Origin,
}

#[derive(Debug, Deserialize)]
struct Origin {
    hits: u64,
    wrong: u64,
    late: u64,
    failed: u64,
    retries: u64,
    hedges: u64,
}

#[derive(Debug, Deserialize)]
struct Peers {
    hits: u64,
    misses: u64,
    liars: u64,
}

#[derive(Debug, Deserialize)]
struct Checked {
    chunks: u64,
    damaged: u64,
    missing: u64,
    names: Vec<String>,
    unreadable: Vec<String>,
    copies: u64,
    damaged_copies: u64,
}

#[derive(Debug, Deserialize)]
struct Collected {
    kept: u64,
    deleted: u64,
}

#[derive(Debug, Deserialize)]
struct Mended {
    replaced: u64,
    deleted: u64,
    left: u64,
    missing: u64,
}

/// Asks, prints, and says how to end.
pub(crate) fn run(client: &Client, action: Action, json: bool) -> Result<ExitCode> {
    let (method, path) = match action {
        Action::Stats => ("GET", "/tinderbox/chunks"),
        Action::Verify => ("POST", "/tinderbox/chunks/verify"),
        Action::Gc => ("POST", "/tinderbox/chunks/gc"),
        Action::Repair => ("POST", "/tinderbox/chunks/repair"),
    };
    let answer = client.call(method, path, Vec::new())?;
    let (text, found) = report(action, &answer)?;
    if json {
        print(&format!("{}\n", String::from_utf8_lossy(&answer)))?;
    } else {
        print(&text)?;
    }
    Ok(if found { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// What is said, and whether something is wrong.
fn report(action: Action, answer: &Bytes) -> Result<(String, bool)> {
    let understand = "understand the node's answer";
    Ok(match action {
        Action::Stats => (stats(&serde_json::from_slice(answer).context(understand)?), false),
        Action::Verify => checked(&serde_json::from_slice(answer).context(understand)?),
        Action::Gc => {
            let Collected { kept, deleted } = serde_json::from_slice(answer).context(understand)?;
            (format!("{deleted} chunks deleted, {kept} kept\n"), false)
        }
        Action::Repair => {
            let Mended { replaced, deleted, left, missing } =
                serde_json::from_slice(answer).context(understand)?;
            let text = format!(
                "{replaced} chunks written again; of {deleted} damaged and {missing} missing ones nobody has a good one; \
                 {left} are left for the next time\n"
            );
            (text, deleted + left + missing > 0)
        }
    })
}

fn stats(Stats { published, cache, tiers }: &Stats) -> String {
    let Published { contents, given, chunks, stored, by_kind } = published;
    let mut text = format!(
        "published   {contents} contents of {}, stored as {chunks} chunks in {} ({})\n",
        mib(*given),
        mib(*stored),
        ratio(*stored, *given),
    );
    for Kind { kind, contents, given, chunks, different } in by_kind {
        text +=
            &format!("  {kind:<10}{contents} of {}, {different} different chunks of {chunks}\n", mib(*given));
    }
    let Cache { copies, bytes, capacity, hits, fetched, refused, damaged, evicted, failed } = cache;
    text += &format!("this node   {copies} copies in {} of {}\n", mib(*bytes), mib(*capacity));
    text += &format!(
        "  {hits} read by the agent, {fetched} fetched, {refused} refused, {damaged} damaged and dropped, "
    );
    text += &format!("{evicted} evicted, {failed} failed\n");
    let Tiers { directory, peers, origin } = tiers;
    let Peers { hits, misses, liars } = peers;
    text += &format!("peers       {hits} chunks, {misses} not to be had, {liars} wrong shards\n");
    for (name, of) in [("directory", directory), ("origin", origin)] {
        let Origin { hits, wrong, late, failed, retries, hedges } = of;
        text += &format!("{name:<12}{hits} chunks, {wrong} wrong, {late} late, {failed} failed, ");
        text += &format!("{retries} asked again, {hedges} asked twice\n");
    }
    text
}

fn checked(checked: &Checked) -> (String, bool) {
    let Checked { chunks, damaged, missing, names, unreadable, copies, damaged_copies } = checked;
    let mut text = format!("{chunks} chunks read, {damaged} damaged, {missing} missing\n");
    names.iter().for_each(|name| text += &format!("  {name}\n"));
    unreadable.iter().for_each(|label| text += &format!("  {label} cannot be opened\n"));
    text +=
        &format!("{copies} copies of this node are whole, {damaged_copies} were damaged and are dropped\n");
    (text, damaged + missing > 0 || !unreadable.is_empty())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn ratio(stored: u64, given: u64) -> String {
    if given == 0 { "nothing".to_owned() } else { format!("{:.2} of it", stored as f64 / given as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(action: Action, answer: &'static str) -> (String, bool) {
        report(action, &Bytes::from_static(answer.as_bytes())).unwrap()
    }

    #[test]
    fn what_there_is_is_said() {
        let answer = r#"{"published":{"contents":3,"given":4194304,"chunks":40,"stored":1048576,"by_kind":[
            {"kind":"code","contents":3,"given":4194304,"chunks":64,"different":40}]},
            "cache":{"copies":2,"bytes":131072,"capacity":1073741824,"hits":1,"fetched":2,"refused":0,"damaged":1,
            "evicted":0,"failed":0},
            "tiers":{"directory":{"hits":0,"absent":0,"wrong":0,"late":0,"failed":0,"retries":0,"hedges":0},
            "peers":{"hits":5,"misses":0,"liars":1,"late":0,"failed":0,"sent":0,"unsent":0},
            "origin":{"hits":7,"absent":0,"wrong":2,"late":0,"failed":0,"retries":0,"hedges":3}}}"#;
        let (text, found) = said(Action::Stats, answer);
        assert!(
            text.contains("3 contents of 4.0 MiB, stored as 40 chunks in 1.0 MiB (0.25 of it)"),
            "{text}"
        );
        assert!(text.contains("code      3 of 4.0 MiB, 40 different chunks of 64"), "{text}");
        assert!(text.contains("2 copies in 0.1 MiB of 1024.0 MiB") && text.contains("1 damaged"), "{text}");
        assert!(text.contains("peers       5 chunks, 0 not to be had, 1 wrong shards"), "{text}");
        assert!(text.contains("origin      7 chunks, 2 wrong") && text.contains("3 asked twice"), "{text}");
        assert!(!found);
    }

    #[test]
    fn what_is_wrong_is_said_and_is_the_exit_status() {
        let whole = r#"{"chunks":4,"damaged":0,"missing":0,"names":[],"unreadable":[],"copies":2,"damaged_copies":1}"#;
        assert!(!said(Action::Verify, whole).1, "a copy that is dropped is fetched again");
        let hurt = r#"{"chunks":4,"damaged":1,"missing":0,"names":["ab"],"unreadable":[],"copies":2,"damaged_copies":0}"#;
        let (text, found) = said(Action::Verify, hurt);
        assert!(found && text.contains("1 damaged") && text.contains("  ab\n"), "{text}");
        assert!(!said(Action::Repair, r#"{"replaced":1,"deleted":0,"left":0,"missing":0}"#).1);
        assert!(said(Action::Repair, r#"{"replaced":0,"deleted":0,"left":0,"missing":1}"#).1);
        assert_eq!(said(Action::Gc, r#"{"kept":1,"deleted":2}"#).0, "2 chunks deleted, 1 kept\n");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(report(Action::Gc, &Bytes::from_static(b"{}")).is_err());
    }
}
