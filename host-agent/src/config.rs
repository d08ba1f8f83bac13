//! The agent's configuration: TOML file, the systemd credential merged over it, then flags.
//!
//! [`RawConfig`] is what someone wrote; [`Config`] is what was checked. Read once, by `main`.

mod buckets;
mod chunks;
mod concurrency;
mod destinations;
mod events;
mod function_urls;
mod logs;
mod network;
mod registries;
mod tls;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::{Uri, uri::Scheme};
use serde::Deserialize;

pub(crate) use buckets::{BucketPlace, NamedBucket};
#[cfg(test)]
pub(crate) use chunks::PeerAddress;
pub(crate) use chunks::{Bucket, Certificates, Chunks, Cluster};
pub(crate) use concurrency::Concurrency;
pub(crate) use destinations::{Destination, DestinationPlace, Webhook};
pub(crate) use events::Events;
pub(crate) use function_urls::{FunctionUrls, LABEL, UrlBase};
pub(crate) use logs::Logs;
pub(crate) use network::Network;
pub(crate) use registries::{Registry, RegistryCredential, RegistrySecret};
pub(crate) use tls::{Tls, TlsSource};

use buckets::RawCode;
use chunks::{RawChunks, is_bucket};
use concurrency::RawConcurrency;
use events::RawEvents;
use function_urls::RawFunctionUrls;
use logs::RawLogs;
use network::RawNetwork;
use registries::RawRegistry;
use tls::RawTls;

use crate::{
    certificate, functions::runtimes::StandIns, identity::Secret, sandbox::machine::MEMORY_PER_VCPU_MIB,
};

/// Name of the systemd credential (`$CREDENTIALS_DIRECTORY/tinderbox.agent`).
const CREDENTIAL: &str = "tinderbox.agent";

/// Of URLs that name none.
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// Longest configuration file that is read, in bytes; ours have a few hundred.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file could not be read.
    #[error("cannot read configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than any configuration.
    #[error("configuration {} is longer than {MAX_FILE_LEN} bytes", .0.display())]
    TooLong(PathBuf),
    /// A file is not TOML.
    #[error("configuration {} is not valid TOML", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A field is unknown or has the wrong type.
    #[error("configuration has a wrong field")]
    Field(#[source] Box<toml::de::Error>),
    /// A field's value makes no sense.
    #[error("configuration field `{field}`: {problem}")]
    Value {
        /// Name of the field.
        field: Cow<'static, str>,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Listening beyond loopback needs keys, or `auth = "optional"` said on purpose.
    #[error("refusing to listen on {0}, beyond loopback, without keys: add [[keys]] to the configuration")]
    NoKeys(SocketAddr),
    /// Peers beyond loopback are known by their certificates alone.
    #[error(
        "refusing to speak to peers on {0}, beyond loopback, without [chunks.certificates] in the configuration"
    )]
    NoCertificates(SocketAddr),
}

/// Whether requests must be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuthMode {
    /// Unsigned requests are refused.
    Required,
    /// Unsigned requests are taken; a signature that is there is verified when its key is known.
    Optional,
}

/// A key that clients sign with, who may do everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Public half.
    pub(crate) access_key_id: String,
    /// Secret half.
    pub(crate) secret_access_key: Secret<String>,
}

/// Checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Address of the HTTP API.
    pub(crate) listen: SocketAddr,
    /// Keys that clients may sign with.
    pub(crate) keys: Vec<Key>,
    /// Twelve digits.
    pub(crate) account_id: String,
    /// Region of requests that name none.
    pub(crate) region: String,
    /// Whether requests must be signed.
    pub(crate) auth: AuthMode,
    /// Where functions and code are kept.
    pub(crate) state_dir: PathBuf,
    /// Where our programs, the guest kernel and the runtimes are.
    pub(crate) lib_dir: PathBuf,
    /// Memory for sandboxes in MiB; `None`: measured.
    pub(crate) memory_mib: Option<u64>,
    /// Memory for which a function that serves has one processor.
    pub(crate) memory_mib_per_cpu: NonZeroU32,
    /// Limit of one init.
    pub(crate) init_timeout: Duration,
    /// Limit of one restore from a snapshot.
    pub(crate) restore_timeout: Duration,
    /// How long an idle sandbox is kept.
    pub(crate) idle_timeout: Duration,
    /// Whether first starts of functions resume snapshots of their runtimes.
    pub(crate) runtime_snapshots: bool,
    /// Whether a runtime without an image is served by another one's.
    pub(crate) runtime_stand_ins: StandIns,
    /// `mkfs.erofs` that makes code images.
    pub(crate) mkfs_erofs: PathBuf,
    /// Where chunks are kept and come from.
    pub(crate) chunks: Chunks,
    /// Where code comes from that is in no request.
    pub(crate) code_buckets: Vec<NamedBucket>,
    /// What functions have of the network.
    pub(crate) network: Network,
    /// Bounds of what is in flight.
    pub(crate) concurrency: Concurrency,
    /// Bounds of asynchronous calls.
    pub(crate) events: Events,
    /// Where functions' URLs lead.
    pub(crate) function_urls: FunctionUrls,
    /// Bounds of functions' logs.
    pub(crate) logs: Logs,
    /// Where images come from that nobody pushes.
    pub(crate) registries: Vec<Registry>,
    /// By which certificate clients know the node; none: they come by plain HTTP.
    pub(crate) tls: Option<Tls>,
}

/// What the files and flags say, unchecked.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    listen: String,
    keys: Vec<Key>,
    account_id: String,
    region: String,
    auth: AuthMode,
    state_dir: PathBuf,
    lib_dir: PathBuf,
    memory_mib: Option<u64>,
    memory_mib_per_cpu: u32,
    init_timeout_ms: u64,
    restore_timeout_ms: u64,
    idle_timeout_s: u64,
    runtime_snapshots: bool,
    runtime_stand_ins: bool,
    mkfs_erofs: PathBuf,
    chunks: RawChunks,
    code: RawCode,
    network: RawNetwork,
    concurrency: RawConcurrency,
    events: RawEvents,
    function_urls: RawFunctionUrls,
    logs: RawLogs,
    registries: Vec<RawRegistry>,
    tls: Option<RawTls>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9000".into(),
            keys: Vec::new(),
            account_id: "000000000000".into(),
            region: "us-east-1".into(),
            auth: AuthMode::Required,
            state_dir: "/var/lib/tinderbox".into(),
            lib_dir: "/usr/lib/tinderbox".into(),
            memory_mib: None,
            memory_mib_per_cpu: MEMORY_PER_VCPU_MIB,
            init_timeout_ms: 10_000,
            restore_timeout_ms: 10_000,
            idle_timeout_s: 600,
            runtime_snapshots: true,
            runtime_stand_ins: true,
            mkfs_erofs: "/usr/bin/mkfs.erofs".into(),
            chunks: RawChunks::default(),
            code: RawCode::default(),
            network: RawNetwork::default(),
            concurrency: RawConcurrency::default(),
            events: RawEvents::default(),
            function_urls: RawFunctionUrls::default(),
            logs: RawLogs::default(),
            registries: Vec::new(),
            tls: None,
        }
    }
}

impl Config {
    /// Reads `file` (defaults when `None`), merges the credential over it when `credentials` has one, then checks.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file or field.
    pub(crate) fn load(
        file: Option<&Path>,
        credentials: Option<&Path>,
        auth: Option<AuthMode>,
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read_table(path)?,
            None => toml::Table::new(),
        };
        let credential = credentials.map(|dir| dir.join(CREDENTIAL)).filter(|path| path.exists());
        if let Some(path) = credential {
            table.extend(read_table(&path)?);
        }
        let mut raw: RawConfig = table.try_into().map_err(|error| ConfigError::Field(Box::new(error)))?;
        raw.auth = auth.unwrap_or(raw.auth);
        raw.check(credentials)
    }
}

impl RawConfig {
    fn check(self, credentials: Option<&Path>) -> Result<Config, ConfigError> {
        let listen: SocketAddr = self.listen.parse().map_err(|_| ConfigError::Value {
            field: "listen".into(),
            problem: format!("`{}` is not an address with a port, such as 127.0.0.1:9000", self.listen),
        })?;
        if self.account_id.len() != 12 || !self.account_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(value("account_id", format!("`{}` is not twelve digits", self.account_id)));
        }
        if !is_region(&self.region) {
            return Err(value("region", format!("`{}` is not the name of a region", self.region)));
        }
        for key in &self.keys {
            if key.access_key_id.is_empty() || key.secret_access_key.expose().is_empty() {
                return Err(value("keys", "a key has an empty half".into()));
            }
        }
        if self.keys.is_empty() && self.auth == AuthMode::Required && !is_loopback(listen.ip()) {
            return Err(ConfigError::NoKeys(listen));
        }
        for (field, number) in [
            ("init_timeout_ms", self.init_timeout_ms),
            ("restore_timeout_ms", self.restore_timeout_ms),
            ("idle_timeout_s", self.idle_timeout_s),
        ] {
            if number == 0 || number > u64::from(u32::MAX) {
                return Err(value(field, format!("{number} is not between 1 and {}", u32::MAX)));
            }
        }
        // Helpers are given them, and begin in a directory of their own.
        for (field, path) in [("state_dir", &self.state_dir), ("mkfs_erofs", &self.mkfs_erofs)] {
            if !path.is_absolute() {
                return Err(value(field, format!("`{}` does not begin at the root", path.display())));
            }
        }
        if self.memory_mib == Some(0) {
            return Err(value("memory_mib", "0 leaves no room for a sandbox".into()));
        }
        let function_urls =
            self.function_urls.check(listen, if self.tls.is_some() { "https" } else { "http" })?;
        let own = || {
            let below = format!("*.{LABEL}.{}.{}", self.region, function_urls.base.domain);
            ["localhost".to_owned(), below].into_iter().chain(certificate::name_of(listen.ip())).collect()
        };
        let tls = self.tls.map(|tls| tls.check(own(), credentials)).transpose()?;
        Ok(Config {
            listen,
            keys: self.keys,
            account_id: self.account_id,
            region: self.region,
            auth: self.auth,
            state_dir: self.state_dir,
            lib_dir: self.lib_dir,
            memory_mib: self.memory_mib,
            memory_mib_per_cpu: NonZeroU32::new(self.memory_mib_per_cpu)
                .ok_or_else(|| value("memory_mib_per_cpu", "0 is no memory".into()))?,
            init_timeout: Duration::from_millis(self.init_timeout_ms),
            restore_timeout: Duration::from_millis(self.restore_timeout_ms),
            idle_timeout: Duration::from_secs(self.idle_timeout_s),
            runtime_snapshots: self.runtime_snapshots,
            runtime_stand_ins: if self.runtime_stand_ins { StandIns::Allowed } else { StandIns::Refused },
            mkfs_erofs: self.mkfs_erofs,
            chunks: self.chunks.check()?,
            code_buckets: self.code.check()?,
            network: self.network.check()?,
            concurrency: self.concurrency.check()?,
            events: self.events.check()?,
            function_urls,
            logs: self.logs.check()?,
            registries: registries::check(self.registries)?,
            tls,
        })
    }
}

/// Where a URL leads to: its port, or that of its scheme.
pub(crate) fn port_of(url: &Uri) -> u16 {
    url.port_u16().unwrap_or(if url.scheme() == Some(&Scheme::HTTP) { HTTP_PORT } else { HTTPS_PORT })
}

/// Whether `name` looks like a region: the request's credential scope or the configuration brought it.
pub(crate) fn is_region(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

fn value(field: impl Into<Cow<'static, str>>, problem: String) -> ConfigError {
    ConfigError::Value { field: field.into(), problem }
}

fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE_LEN {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    text.parse().map_err(|error| ConfigError::Parse { path: path.to_owned(), source: Box::new(error) })
}

#[cfg(test)]
mod tests;
