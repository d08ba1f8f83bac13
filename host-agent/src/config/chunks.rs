//! The table `[chunks]`: how much of this node's disk chunks may take, where they come from, and who else has them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, is_loopback, is_region, value};

/// Fewest peers: a chunk's five shards are to be on as many of them.
const MIN_PEERS: usize = 5;

/// Most peers. All are scored for each chunk that is read, and each has a connection to each.
const MAX_PEERS: usize = 256;

/// Longest id: that of a host in the DNS.
const MAX_ID_LEN: usize = 63;

const MIB: u64 = 1024 * 1024;

/// Largest cache that makes sense to be asked for: 1 PiB.
const MAX_MIB: u64 = 1 << 30;

/// Where chunks are, checked.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    /// Bound of the cache of this node's own copies.
    pub(crate) cache_bytes: u64,
    /// Bound of the shards that are kept for all.
    pub(crate) shards_bytes: u64,
    /// The bucket that all nodes share; none where the node's directory is the origin.
    pub(crate) origin: Option<Bucket>,
    /// The nodes that keep shards.
    pub(crate) cluster: Option<Cluster>,
}

/// A bucket of an S3-compatible service.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bucket {
    /// `https://HOST[:PORT]`; absent: that of AWS for the region.
    pub(crate) endpoint: Option<String>,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    /// Before the names of objects; empty for a bucket of its own.
    #[serde(default)]
    pub(crate) prefix: String,
    /// Whether an endpoint may be `http://`.
    #[serde(default)]
    pub(crate) allow_http: bool,
    /// Who may have signed the endpoint's certificate, in PEM.
    #[serde(default = "system_authorities")]
    pub(crate) ca: PathBuf,
}

/// All nodes that keep shards.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Which of `peers` is this node.
    pub(crate) id: String,
    /// Address for the others.
    pub(crate) listen: SocketAddr,
    /// All of them.
    pub(crate) peers: Vec<PeerAddress>,
    /// None on loopback alone.
    pub(crate) certificates: Option<Certificates>,
}

/// A node that keeps shards.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerAddress {
    /// What its certificate is for.
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
}

/// PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificates {
    /// Who signs the certificates of peers.
    pub(crate) ca: PathBuf,
    /// This node's, for its id.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Where Debian keeps the authorities of the public web.
pub(super) fn system_authorities() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}

/// What the file says, unchecked.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawChunks {
    cache_mib: u64,
    shards_mib: u64,
    origin: Option<Bucket>,
    id: Option<String>,
    peer_listen: Option<SocketAddr>,
    peers: Vec<PeerAddress>,
    certificates: Option<Certificates>,
}

impl Default for RawChunks {
    fn default() -> Self {
        Self {
            cache_mib: 4096,
            shards_mib: 4096,
            origin: None,
            id: None,
            peer_listen: None,
            peers: Vec::new(),
            certificates: None,
        }
    }
}

impl RawChunks {
    pub(super) fn check(self) -> Result<Chunks, ConfigError> {
        for (field, number) in [("chunks.cache_mib", self.cache_mib), ("chunks.shards_mib", self.shards_mib)]
        {
            if number == 0 || number > MAX_MIB {
                return Err(value(field, format!("{number} is not between 1 and {MAX_MIB}")));
            }
        }
        if let Some(bucket) = &self.origin {
            bucket.check("chunks.origin")?;
        }
        let (cache_bytes, shards_bytes) = (self.cache_mib * MIB, self.shards_mib * MIB);
        let cluster = match (self.id, self.peer_listen) {
            (Some(id), Some(listen)) => {
                let cluster = Cluster { id, listen, peers: self.peers, certificates: self.certificates };
                cluster.check()?;
                Some(cluster)
            }
            (None, None) if self.peers.is_empty() && self.certificates.is_none() => None,
            (None, _) => {
                return Err(value("chunks.id", "peers need to know which of them this node is".into()));
            }
            (_, None) => {
                return Err(value("chunks.peer_listen", "peers need an address of this node".into()));
            }
        };
        Ok(Chunks { cache_bytes, shards_bytes, origin: self.origin, cluster })
    }
}

impl Bucket {
    /// `table`: where the configuration has it.
    pub(super) fn check(&self, table: &str) -> Result<(), ConfigError> {
        let wrong = |field: &str, problem| Err(value(format!("{table}.{field}"), problem));
        if let Some(endpoint) = &self.endpoint {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                return wrong("endpoint", format!("`{endpoint}` does not begin with https://"));
            }
            if plain && !self.allow_http {
                let problem =
                    format!("`{endpoint}` is not encrypted; `allow_http = true` says that it need not be");
                return wrong("endpoint", problem);
            }
        }
        if !is_bucket(&self.bucket) {
            return wrong("bucket", format!("`{}` is not the name of a bucket", self.bucket));
        }
        if !is_region(&self.region) {
            return wrong("region", format!("`{}` is not the name of a region", self.region));
        }
        if self.access_key_id.is_empty() || self.secret_access_key.is_empty() {
            return Err(value(table.to_owned(), "the key has an empty half".into()));
        }
        let parts = |byte: u8| is_in_bucket(byte) || byte == b'/';
        if self.prefix.split('/').any(|part| part.is_empty() || part.starts_with('.'))
            && !self.prefix.is_empty()
            || !self.prefix.bytes().all(parts)
        {
            return wrong("prefix", format!("`{}` is not a path of names", self.prefix));
        }
        Ok(())
    }
}

/// Whether `name` may be a bucket's.
pub(super) fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len()) && name.bytes().all(is_in_bucket)
}

fn is_in_bucket(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)
}

impl Cluster {
    fn check(&self) -> Result<(), ConfigError> {
        let Self { id, listen, peers, certificates } = self;
        if !(MIN_PEERS..=MAX_PEERS).contains(&peers.len()) {
            let problem =
                format!("{} are not between {MIN_PEERS} and {MAX_PEERS}, this one included", peers.len());
            return Err(value("chunks.peers", problem));
        }
        if let Some(peer) = peers.iter().find(|peer| !is_id(&peer.id)) {
            let problem =
                format!("id `{}` is not 1 to {MAX_ID_LEN} lower-case letters, digits and hyphens", peer.id);
            return Err(value("chunks.peers", problem));
        }
        let mut ids = BTreeSet::new();
        if let Some(twice) = peers.iter().find(|peer| !ids.insert(&peer.id)) {
            return Err(value("chunks.peers", format!("id `{}` is there twice", twice.id)));
        }
        if !ids.contains(id) {
            return Err(value("chunks.id", format!("`{id}` is none of the peers")));
        }
        let beyond = peers.iter().map(|peer| &peer.address).chain([listen]).find(|at| !is_loopback(at.ip()));
        match (beyond, certificates) {
            (Some(address), None) => Err(ConfigError::NoCertificates(*address)),
            _ => Ok(()),
        }
    }
}

/// A name that a certificate can be for.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(table: &str) -> Result<Chunks, ConfigError> {
        let raw: RawChunks = toml::from_str(table).map_err(|error| ConfigError::Field(Box::new(error)))?;
        raw.check()
    }

    /// Five peers on that address, `a` to `e`.
    fn peers(ip: &str) -> String {
        ["a", "b", "c", "d", "e"]
            .map(|id| format!("[[peers]]\nid = '{id}'\naddress = '{ip}:9001'\n"))
            .concat()
    }

    const BUCKET: &str =
        "[origin]\nbucket = 'chunks'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 's'\n";
    const CERTIFICATES: &str = "[certificates]\nca = 'ca'\ncertificate = 'c'\nkey = 'k'\n";

    #[test]
    fn nothing_said_is_a_directory_and_no_peers() {
        let chunks = load("").unwrap();
        assert_eq!(chunks.cache_bytes, 4 << 30);
        assert!(chunks.origin.is_none() && chunks.cluster.is_none());
    }

    #[test]
    fn a_cluster_is_read() {
        let table =
            format!("id = 'c'\npeer_listen = '10.0.0.3:9001'\n{}{CERTIFICATES}{BUCKET}", peers("10.0.0.1"));
        let chunks = load(&table).unwrap();
        assert_eq!(chunks.cluster.unwrap().peers.len(), 5);
        assert_eq!(chunks.origin.unwrap().prefix, "");
    }

    #[test]
    fn beyond_loopback_peers_need_certificates() {
        for (listen, others) in [("0.0.0.0:1", "127.0.0.1"), ("127.0.0.1:1", "10.0.0.1")] {
            let table = format!("id = 'a'\npeer_listen = '{listen}'\n{}", peers(others));
            assert!(matches!(load(&table), Err(ConfigError::NoCertificates(_))), "{table}");
            load(&format!("{table}{CERTIFICATES}")).unwrap();
        }
        load(&format!("id = 'a'\npeer_listen = '127.0.0.1:1'\n{}", peers("127.0.0.1"))).unwrap();
    }

    #[test]
    fn a_wrong_field_is_named() {
        let here = "id = 'a'\npeer_listen = '127.0.0.1:1'\n";
        let peers = peers("127.0.0.1");
        let origin = |from: &str, to: &str| BUCKET.replace(from, to);
        for (table, names) in [
            ("cache_mib = 0".into(), "chunks.cache_mib"),
            ("shards_mib = 2000000000".into(), "chunks.shards_mib"),
            ("cache = 1".into(), "cache"),
            (peers.clone(), "chunks.id"),
            (CERTIFICATES.into(), "chunks.id"),
            (format!("id = 'a'\n{peers}"), "chunks.peer_listen"),
            (format!("id = 'f'\npeer_listen = '127.0.0.1:1'\n{peers}"), "chunks.id"),
            (here.into(), "chunks.peers"),
            (format!("{here}{}", peers.replace("'b'", "'a'")), "twice"),
            (format!("{here}{}", peers.replace("'b'", "'B'")), "`B`"),
            (format!("{here}{}", peers.replace(":9001", "")), "address"),
            (origin("'chunks'", "'../x'"), "chunks.origin.bucket"),
            (origin("us-east-1", "?"), "chunks.origin.region"),
            (origin("'s'", "''"), "chunks.origin"),
            (format!("{BUCKET}prefix = '/a'"), "chunks.origin.prefix"),
            (format!("{BUCKET}prefix = 'a/../b'"), "chunks.origin.prefix"),
            (format!("{BUCKET}endpoint = 'ftp://x'"), "chunks.origin.endpoint"),
            (format!("{BUCKET}endpoint = 'http://x'"), "allow_http"),
            (format!("{BUCKET}endpoint = 1"), "endpoint"),
        ] {
            let text = format!("{:?}", anyhow::Error::from(load(&table).unwrap_err()));
            assert!(text.contains(names), "{table}: {text}");
        }
        load(&format!("{BUCKET}endpoint = 'http://x'\nallow_http = true\nprefix = 'a/b'")).unwrap();
    }

    #[test]
    fn a_bucket_does_not_print_its_secret() {
        let table = BUCKET.replace("'s'", "'hidden'");
        assert!(!format!("{:?}", load(&table).unwrap()).contains("hidden"));
    }
}
