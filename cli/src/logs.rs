//! `tinderbox logs`: what a function prints, and what the platform says of it, as it comes if that is wanted.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{client::Client, egress::segment, print};

/// How often a log that is followed is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// How far behind the last line another one may come: two sandboxes' lines are not written in the order of their times.
const OVERLAP_MS: u64 = 5_000;

/// Which lines.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Its name, or a log group's, which begins with a slash.
    function: String,
    /// Go on with what comes.
    #[arg(long)]
    follow: bool,
    /// How far back: 30s, 10m, 2h, 1d.
    #[arg(long, default_value = "10m", value_parser = duration)]
    since: Duration,
    /// Only what matches, as CloudWatch Logs reads patterns.
    #[arg(long, default_value = "")]
    filter: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    events: Vec<Event>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_id: String,
    log_stream_name: String,
    timestamp: u64,
    message: String,
}

/// Asks, and prints lines as they are found.
pub(crate) fn run(client: &Client, wanted: &Wanted, json: bool) -> Result<()> {
    let group = group(client, &wanted.function);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut from = u64::try_from(now.saturating_sub(wanted.since).as_millis()).unwrap_or(0);
    // What was printed of the time that is looked at again.
    let mut seen: HashMap<String, u64> = HashMap::new();
    loop {
        let mut token = None;
        loop {
            let page = page(client, &group, (from, token.as_deref()), &wanted.filter)?;
            for event in page.events {
                if seen.insert(event.event_id.clone(), event.timestamp).is_none() {
                    let line = if json {
                        serde_json::to_string(&event).context("write an event")?
                    } else {
                        text(&event)
                    };
                    print(&format!("{line}\n"))?;
                }
            }
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        if !wanted.follow {
            return Ok(());
        }
        let last = seen.values().max().copied().unwrap_or(from);
        from = from.max(last.saturating_sub(OVERLAP_MS));
        seen.retain(|_, at_ms| *at_ms >= from);
        thread::sleep(EVERY);
    }
}

/// The group that a function writes to. One that is gone wrote to that of its name, as far as is known.
fn group(client: &Client, function: &str) -> String {
    if function.starts_with('/') {
        return function.to_owned();
    }
    let path = format!("/2015-03-31/functions/{}/configuration", segment(function));
    let configuration = client.call("GET", &path, Vec::new());
    let configuration: Option<Value> = configuration.ok().and_then(|body| serde_json::from_slice(&body).ok());
    let group =
        configuration.and_then(|found| found["LoggingConfig"]["LogGroup"].as_str().map(str::to_owned));
    group.unwrap_or_else(|| format!("/aws/lambda/{function}"))
}

fn page(client: &Client, group: &str, (from, token): (u64, Option<&str>), filter: &str) -> Result<Page> {
    let mut body = json!({ "logGroupName": group, "startTime": from, "filterPattern": filter });
    if let Some(token) = token {
        body["nextToken"] = token.into();
    }
    let answer = client.ask_logs("FilterLogEvents", body.to_string().into_bytes())?;
    serde_json::from_slice(&answer).context("understand the node's answer")
}

/// `2026-11-26T12:00:00.000Z [$LATEST]0123abcd a line`: a stream's name without its day, and as much of the rest as tells it from others.
fn text(event: &Event) -> String {
    let stream = event.log_stream_name.rsplit('/').next().unwrap_or_default();
    let end = stream.find(']').map_or(0, |end| end + 1);
    let stream: String = stream.chars().take(end + 8).collect();
    let at = chrono::DateTime::from_timestamp_millis(i64::try_from(event.timestamp).unwrap_or(i64::MAX));
    let at = at.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default();
    // What a function says is a stranger's: no control character of it reaches a terminal.
    let message: String = event.message.trim_end().chars().flat_map(printable).collect();
    format!("{at} {stream} {message}")
}

fn printable(char: char) -> Box<dyn Iterator<Item = char>> {
    if char.is_control() && char != '\t' {
        Box::new(char.escape_default())
    } else {
        Box::new(std::iter::once(char))
    }
}

fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!("`{text}` is not a time such as 30s, 10m, 2h or 1d"),
    };
    let number: u32 =
        number.parse().with_context(|| format!("`{text}` is not a time such as 30s, 10m, 2h or 1d"))?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds);
        }
        for wrong in ["", "m", "10", "1w", "-1m", "1é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_is_one_whatever_a_function_prints() {
        let event = Event {
            event_id: "1".into(),
            log_stream_name: "2026/11/26/[$LATEST]0123456789abcdef".into(),
            timestamp: 1_767_225_600_123,
            message: "a\tb\u{1b}[2J\rc\n".into(),
        };
        assert_eq!(text(&event), "2026-01-01T00:00:00.123Z [$LATEST]01234567 a\tb\\u{1b}[2J\\rc");
    }
}
