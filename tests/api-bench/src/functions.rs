//! The functions that there are: all of one code, so that there is one image of it.

use std::io::{Cursor, Write as _};

use anyhow::{Context, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::{Plan, agent::Agent, connection::Connection, signed};

pub(crate) const FUNCTIONS: &str = "/2015-03-31/functions";

/// The name of one.
pub(crate) fn name(number: u32) -> String {
    format!("function-{number:05}")
}

/// Creates all of them.
pub(crate) fn create(plan: &Plan, agent: &Agent) -> Result<()> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default()).context("a zip")?;
    zip.write_all(b"def handler(event, context):\n    return event\n").context("a zip")?;
    let zip = BASE64_STANDARD.encode(zip.finish().context("a zip")?.into_inner());
    let mut connection = Connection::open(agent.address)?;
    for number in 0..plan.functions {
        let body = json!({
            "FunctionName": name(number),
            "Runtime": "python3.13",
            "Handler": "app.handler",
            "Role": "arn:aws:iam::000000000000:role/bench",
            "Environment": { "Variables": { "STAGE": "bench", "NUMBER": number.to_string() } },
            "Code": { "ZipFile": zip },
        });
        let request = signed::request("POST", FUNCTIONS, &body.to_string())?;
        connection.ask(&request, 201).with_context(|| format!("create {}", name(number)))?;
    }
    Ok(())
}
