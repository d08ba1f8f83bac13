//! ListFunctions from the first page to the last.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{Figure, Plan, agent::Agent, connection::Connection, functions::FUNCTIONS, signed};

/// Whole lists, enough for a median.
const LISTS: u32 = 5;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    functions: Vec<Listed>,
    next_marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    function_name: String,
}

/// How long a page takes, wherever it is, and a whole list.
pub(crate) fn measure(plan: &Plan, agent: &Agent) -> Result<Vec<Figure>> {
    let mut connection = Connection::open(agent.address)?;
    let (mut pages_us, mut lists_ms) = (Vec::new(), Vec::new());
    for _ in 0..LISTS {
        let before = pages_us.len();
        list(plan, &mut connection, &mut pages_us)?;
        lists_ms.push(pages_us.iter().skip(before).sum::<f64>() / 1e3);
    }
    Ok(vec![Figure::new("api_list_page", "us", pages_us), Figure::new("api_list_all", "ms", lists_ms)])
}

/// Goes through all pages, of which each function is on one.
fn list(plan: &Plan, connection: &mut Connection, pages_us: &mut Vec<f64>) -> Result<()> {
    let mut path = format!("{FUNCTIONS}/");
    let mut names = Vec::new();
    loop {
        let request = signed::request("GET", &path, "")?;
        let started = Instant::now();
        let answer = connection.ask(&request, 200)?;
        pages_us.push(started.elapsed().as_secs_f64() * 1e6);
        let page: Page = serde_json::from_slice(answer).context("understand a page")?;
        names.extend(page.functions.into_iter().map(|listed| listed.function_name));
        let Some(marker) = page.next_marker else { break };
        path = format!("{FUNCTIONS}/?Marker={}", in_a_query(&marker));
    }
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == plan.functions as usize, "{} of {} are listed", names.len(), plan.functions);
    Ok(())
}

/// A marker's bytes as a query has them.
fn in_a_query(marker: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
        other => format!("%{other:02X}"),
    };
    marker.bytes().map(escape).collect()
}
