//! The node's daemon: serves the Lambda HTTP API, keeps functions, and has them run in microVMs.
//!
//! ```text
//! host-agent serve [--config FILE] [--no-auth]
//! ```
//!
//! All HTTP and all async code of the product live in this process. It holds no capability and never links `vmm`.

mod api;
mod config;
mod functions;
mod invoke;
mod sandbox;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{AuthMode, Config};

const USAGE: &str = "usage: host-agent serve [--config FILE] [--no-auth]";

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// Serve until SIGTERM.
    Serve { config: Option<PathBuf>, auth: Option<AuthMode> },
}

fn main() -> ExitCode {
    let command = match parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(problem) => {
            eprintln!("host-agent: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Serve { config, auth } => serve(config, auth),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Command, String> {
    match args.next().as_deref() {
        Some("serve") => {}
        Some(other) => return Err(format!("unknown command `{other}`")),
        None => return Err("no command".into()),
    }
    let (mut config, mut auth) = (None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--config" => config = Some(args.next().ok_or("--config needs a file")?.into()),
            "--no-auth" => auth = Some(AuthMode::Optional),
            _ => return Err(format!("unknown argument `{arg}`")),
        }
    }
    Ok(Command::Serve { config, auth })
}

#[tokio::main]
async fn serve(file: Option<PathBuf>, auth: Option<AuthMode>) -> anyhow::Result<()> {
    start_log();
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let config = Arc::new(Config::load(file.as_deref(), credentials.as_deref(), auth)?);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let invoker = invoke::start(&config).context("cannot start the sandbox pool")?;
    let router = api::router();
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("listening socket has no address")?;
    tracing::info!("tinderbox: serving on {address}");

    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: finishing what runs"),
                _ = interrupt.recv() => tracing::info!("SIGINT: finishing what runs"),
            }
        })
        .await
        .context("the HTTP server failed")?;
    invoker.shutdown().await;
    Ok(())
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TINDERBOX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn the_command_line_is_read() {
        assert_eq!(check("serve"), Ok(Command::Serve { config: None, auth: None }));
        assert_eq!(
            check("serve --config a.toml --no-auth"),
            Ok(Command::Serve { config: Some("a.toml".into()), auth: Some(AuthMode::Optional) })
        );
        for wrong in ["", "run", "serve --config", "serve x"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
