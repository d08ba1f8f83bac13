//! The operator's tool: `tinderbox keys create|list|disable|enable|delete|set-policy`, `tinderbox chunks stats|verify|gc|repair`,
//! `tinderbox egress get|set|unset`, `tinderbox images push|list|rm`, `tinderbox events`, `tinderbox logs`, `tinderbox deploy`, `tinderbox runtimes` and `tinderbox node`
//! against a node.
//!
//! A node has no shell, so everything is asked over its API, signed as every request is. What comes back is text for people, or
//! with `--json` the node's own answer.

mod chunks;
mod client;
mod deploy;
mod egress;
mod events;
mod images;
mod keys;
mod logs;
mod node;
mod runtimes;
mod tls;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use client::Client;

/// Asks a Tinderbox node.
#[derive(Debug, Parser)]
#[command(name = "tinderbox", version)]
struct Args {
    /// The node, as http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "AWS_ENDPOINT_URL", default_value = "http://127.0.0.1:9000", global = true)]
    endpoint: String,
    /// PEM file of who signed an https:// node's certificate, or of that certificate itself.
    #[arg(long, env = "AWS_CA_BUNDLE", default_value = tls::AUTHORITIES, global = true)]
    ca: PathBuf,
    /// The region that requests are signed for.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1", global = true)]
    region: String,
    /// The node's answer as it is.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Access keys, and what each may do.
    #[command(subcommand)]
    Keys(keys::Action),
    /// What images, code and snapshots consist of.
    #[command(subcommand)]
    Chunks(chunks::Action),
    /// How it is closed, as its kernel says.
    Node,
    /// The runtimes that it has images of, and whose functions they serve.
    Runtimes,
    /// Where sandboxes of a function may go.
    #[command(subcommand)]
    Egress(egress::Action),
    /// Container images, which functions can be made of.
    #[command(subcommand)]
    Images(images::Action),
    /// Makes the node's functions be what a template says that `sam build` or `cdk synth` wrote.
    Deploy(deploy::Wish),
    /// How asynchronous calls stand: all of them, or those of a function with the last that were given up.
    ///
    /// What lies in a queue is read by GET /tinderbox/queues/NAME, 4 MiB of lines at a time; x-tinderbox-left says how many bytes are behind them. A
    /// DELETE with the answer's ETag as If-Match takes away what was read, and the next GET goes on there.
    Events {
        /// Its name.
        function: Option<String>,
    },
    /// What a function prints, and what the platform says of it.
    Logs(logs::Wanted),
}

/// Prints an answer. Who reads it may have seen enough, as `head` has: then nothing is left to do.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        printed => printed.context("print the answer"),
    }
}

fn main() -> ExitCode {
    let Args { endpoint, ca, region, json, command } = Args::parse();
    let done = Client::new(&endpoint, &ca, &region).and_then(|client| match command {
        Command::Keys(action) => keys::run(&client, action, json),
        Command::Chunks(action) => chunks::run(&client, action, json),
        Command::Node => node::run(&client, json).map(|()| ExitCode::SUCCESS),
        Command::Runtimes => runtimes::run(&client, json).map(|()| ExitCode::SUCCESS),
        Command::Egress(action) => egress::run(&client, action, json),
        Command::Images(action) => images::run(&client, action, json),
        Command::Deploy(wish) => deploy::run(&client, wish, &region, json),
        Command::Events { function } => events::run(&client, function, json).map(|()| ExitCode::SUCCESS),
        Command::Logs(wanted) => logs::run(&client, &wanted, json).map(|()| ExitCode::SUCCESS),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tinderbox: {error:#}");
            ExitCode::from(2)
        }
    }
}
