//! The node's daemon: serves the Lambda HTTP API, keeps functions, and has them run in microVMs.
//!
//! ```text
//! host-agent serve [--config FILE] [--no-auth]
//! host-agent unzip-code --dir DIR [--layers N]    internal: the confined helpers, see `code::confined`
//! host-agent flatten-image --dir DIR --room LEN
//! host-agent pack-code --mkfs FILE --dir DIR
//! host-agent pull-image                           the one that has a network, see `registry`
//! ```
//!
//! All HTTP and all async code of the product live in this process. It holds no capability and never links `vmm`.

mod api;
mod auth;
mod certificate;
mod chunks;
mod code;
mod config;
mod confine;
mod disk;
mod events;
mod functions;
mod identity;
mod invoke;
mod log;
mod logs;
mod network;
mod node_state;
mod pem;
mod registry;
mod s3;
mod sandbox;
mod server;
mod snapshots;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use cluster_store::{RedbStore, Store};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificate::Certificate,
    chunks::Chunks,
    code::{Builder, CodeStore, buckets::CodeBuckets},
    config::{AuthMode, Config},
    disk::Disk,
    events::{Clock, Destinations, Events},
    functions::Functions,
    identity::AccessKeys,
    invoke::concurrency::Concurrency,
    logs::LogStore,
    network::{Network, Policies},
    node_state::NodeState,
    registry::{Puller, Registries},
    server::{Bounds, Entrance},
};

const USAGE: &str = "usage: host-agent serve [--config FILE] [--no-auth]";

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// Serve until SIGTERM.
    Serve { config: Option<PathBuf>, auth: Option<AuthMode> },
    /// Be the confined helper that reads a zip, and so many layers' beside it.
    UnzipCode { dir: PathBuf, layers: usize },
    /// Be the confined helper that reads a container image, for a tar of at most so many bytes.
    FlattenImage { dir: PathBuf, room: u64 },
    /// Be the confined helper that makes one image.
    PackCode { mkfs: PathBuf, dir: PathBuf },
    /// Be the confined helper that asks a registry.
    PullImage,
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
        Command::UnzipCode { dir, layers } => return code::confined::unzip(&dir, layers),
        Command::FlattenImage { dir, room } => return code::confined::flatten(&dir, room),
        Command::PullImage => return registry::pull(),
        Command::PackCode { mkfs, dir } => return code::confined::pack(&mkfs, &dir),
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
    let command = args.next().ok_or("no command")?;
    let (mut config, mut auth, mut mkfs, mut dir) = (None, None, None, None);
    let (mut layers, mut room) = (0, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).ok_or(format!("{arg} needs a value"));
        match (command.as_str(), arg.as_str()) {
            ("serve", "--config") => config = Some(value()?),
            ("serve", "--no-auth") => auth = Some(AuthMode::Optional),
            ("pack-code", "--mkfs") => mkfs = Some(value()?),
            ("pack-code" | "unzip-code" | "flatten-image", "--dir") => dir = Some(value()?),
            ("flatten-image", "--room") => {
                let len = args.next().and_then(|len| len.parse().ok());
                room = Some(len.ok_or("--room needs a number")?);
            }
            ("unzip-code", "--layers") => {
                let count = args.next().and_then(|count| count.parse().ok());
                layers = count.ok_or("--layers needs a number")?;
            }
            _ => return Err(format!("unknown argument `{arg}`")),
        }
    }
    match (command.as_str(), mkfs, dir, room) {
        ("serve", ..) => Ok(Command::Serve { config, auth }),
        ("pull-image", ..) => Ok(Command::PullImage),
        ("unzip-code", _, Some(dir), _) => Ok(Command::UnzipCode { dir, layers }),
        ("flatten-image", _, Some(dir), Some(room)) => Ok(Command::FlattenImage { dir, room }),
        ("pack-code", Some(mkfs), Some(dir), _) => Ok(Command::PackCode { mkfs, dir }),
        ("unzip-code" | "flatten-image" | "pack-code", ..) => {
            Err(format!("{command} needs its directory and what else it works with"))
        }
        (other, ..) => Err(format!("unknown command `{other}`")),
    }
}

/// Confines the process while it has one thread, and only then becomes the node's agent.
fn serve(file: Option<PathBuf>, auth: Option<AuthMode>) -> anyhow::Result<()> {
    log::start();
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let config = Config::load(file.as_deref(), credentials.as_deref(), auth)?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot create {}", config.state_dir.display()))?;
    // Before the agent is confined: of these files it reads those again that may be renewed.
    let certificate = config.tls.as_ref().map(|tls| Certificate::load(tls, &config.state_dir));
    let certificate = certificate.transpose().context("cannot speak TLS")?;
    let destinations = Destinations::open(&config.events, &config.state_dir);
    let destinations = destinations.context("cannot use a destination of events")?;
    let code_buckets = CodeBuckets::open(&config.code_buckets).context("cannot use a bucket of code")?;
    let mut node = NodeState::look();
    node.certificate = certificate.as_ref().map(|certificate| certificate.in_use.clone());
    let registries = Registries::open(&config.registries, Puller::Helper);
    let registries = registries.context("cannot use a registry")?;
    node.landlock = confine::enter(&config)?.landlock;
    tracing::info!("confined by landlock {} and a filter of system calls", node.landlock);
    for (kind, state) in node.vulnerable() {
        tracing::warn!("the processor is open to {kind}: {state}");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(run(Arc::new(config), node, certificate, destinations, (registries, code_buckets)))
}

async fn run(
    config: Arc<Config>,
    node: NodeState,
    certificate: Option<Certificate>,
    destinations: Arc<Destinations>,
    (registries, code_buckets): (Registries, CodeBuckets),
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let disk = Disk::of(&config.state_dir);
    let chunks = Chunks::start(&config.chunks, &config.state_dir, &disk)
        .await
        .context("cannot open the chunk store")?;
    let network = Arc::new(Network::start(&config.network, gateway_api::SOCKET.into()));
    let logs = open_logs(&config, &disk).await?;
    let (kept, networks) =
        ((Arc::clone(&disk), Arc::clone(&chunks), Arc::clone(&logs)), Arc::clone(&network));
    let invoker = invoke::start(&config, kept, networks);
    let invoker = invoker.context("cannot start the sandbox pool")?;
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(config.state_dir.join("store.redb")).await?);
    let builder = Builder::Helper { mkfs: config.mkfs_erofs.clone() };
    let code = CodeStore::open(&config.state_dir, builder, Arc::clone(&disk), Arc::clone(&chunks))?;
    let policies = Policies::open(Arc::clone(&store), network, Arc::clone(&invoker)).await?;
    let access_keys = AccessKeys::open(Arc::clone(&store), chunks.roots()).await;
    let access_keys = Arc::new(access_keys.context("cannot open the access keys")?);
    let functions = Functions::open(store, Arc::new(code), Arc::clone(&invoker), registries).await?;
    let concurrency = Arc::new(Concurrency::new(&config.concurrency));
    let parts = events::Parts {
        functions: Arc::clone(&functions),
        invoker: Arc::clone(&invoker),
        concurrency: Arc::clone(&concurrency),
        disk,
        clock: Clock::Wall,
        account_id: config.account_id.clone(),
        destinations,
    };
    let events = Events::open(&config.state_dir, &config.events, parts).await?;
    let calls = (concurrency, Arc::clone(&events));
    let kept = (chunks, policies, Arc::clone(&logs));
    let pulling = Arc::clone(&functions);
    let code = (functions, code_buckets);
    let app = api::App::new(&config, code, Arc::clone(&invoker), kept, calls, access_keys, node);
    let tls = certificate.as_ref().map(|certificate| TlsAcceptor::from(Arc::clone(&certificate.server)));
    let entrance = listen(config.listen, tls.clone()).await?;
    let urls = match config.function_urls.listen {
        Some(own) => Some(listen(own, tls).await?),
        None => None,
    };
    let address = entrance.listener.local_addr().context("listening socket has no address")?;
    tracing::info!(target: log::NOTICE, "tinderbox: serving on {address}");
    if let Some(certificate) = &certificate {
        let fingerprint = certificate.in_use.fingerprint();
        tracing::info!(target: log::NOTICE, "tinderbox: by TLS, certificate SHA-256 {fingerprint}");
        certificate.renewal().into_iter().for_each(|renewal| drop(tokio::spawn(renewal.follow())));
    }

    // The invoker drains from the signal on, beside the servers, which end when their last request is answered: the
    // bound on the drain is the bound on all of them.
    let (stopping, stopped) = watch::channel(());
    let stop = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.changed().await) }
    };
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(target: log::NOTICE, "SIGTERM: finishing what runs"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what runs"),
        }
        drop(stopping);
    };
    let serving_urls = async {
        if let Some(entrance) = urls {
            server::serve(entrance, api::url_router(Arc::clone(&app)), Bounds::NODE, stop()).await;
        }
    };
    let drain = async {
        stop().await;
        pulling.stop_pulls();
        events.stop();
        invoker.shutdown().await;
        events.drained().await;
        logs.close().await;
    };
    let serving = server::serve(entrance, api::router(Arc::clone(&app)), Bounds::NODE, stop());
    tokio::join!(signals, serving, serving_urls, drain);
    Ok(())
}

async fn open_logs(config: &Config, disk: &Arc<Disk>) -> anyhow::Result<Arc<LogStore>> {
    let (state_dir, config::Logs { limits, rate }) = (config.state_dir.clone(), config.logs);
    let disk = Arc::clone(disk);
    // It reads what an agent before this one left.
    let opened = tokio::task::spawn_blocking(move || LogStore::open(&state_dir, limits, rate, disk));
    opened.await.context("open the logs")?.context("cannot open the logs")
}

async fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> anyhow::Result<Entrance> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    Ok(Entrance { listener, tls })
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
        assert_eq!(
            check("pack-code --mkfs m --dir d"),
            Ok(Command::PackCode { mkfs: "m".into(), dir: "d".into() })
        );
        assert_eq!(check("pull-image"), Ok(Command::PullImage));
        assert_eq!(check("unzip-code --dir d"), Ok(Command::UnzipCode { dir: "d".into(), layers: 0 }));
        assert_eq!(
            check("unzip-code --dir d --layers 2"),
            Ok(Command::UnzipCode { dir: "d".into(), layers: 2 })
        );
        assert_eq!(
            check("flatten-image --dir d --room 7"),
            Ok(Command::FlattenImage { dir: "d".into(), room: 7 })
        );
        for wrong in [
            "",
            "flatten-image --dir d",
            "flatten-image --dir d --room x",
            "unzip-code --dir d --layers x",
            "run",
            "serve --config",
            "serve x",
            "pack-code --mkfs m",
            "unzip-code --mkfs m",
            "serve --dir d",
            "pull-image --dir d",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
