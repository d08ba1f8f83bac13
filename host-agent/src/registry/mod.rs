//! Container images in registries: what a tag names there, and archives of them, fetched by a helper that has a network and nothing else.
//!
//! ```text
//!  agent ── standard input: a `Request` as a line of JSON ──►┌────────────┐── HTTPS ──► registry, its token service,
//!        ◄─ standard error: `Found` or a `Refusal` as JSON ──│ pull-image │            whoever has its blobs
//!           standard output: the file of the archive ◄───────└────────────┘
//! ```
//!
//! The agent itself ([`Registries`]) connects to no registry. The helper reads what a registry says, follows where it leads and holds
//! the registry's credentials; it can open no file but those by which names are resolved, and what it writes is an archive like one
//! that was pushed: verified and flattened by the helper that has no network (`code::confined`). `docs/adr/0037-images-from-registries.md`.

mod addresses;
mod agent;
mod archive;
mod authorization;
mod blob;
mod client;
mod helper;
mod manifest;

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use self::agent::tests::Pretended;
#[cfg(test)]
pub(crate) use self::helper::filter;
pub(crate) use self::{
    agent::{Puller, Registries, archive_len},
    helper::pull,
};

/// What the helper is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    registry: Access,
    /// The image's name without the registry's host.
    repository: String,
    /// Which image of it.
    reference: Reference,
    /// What is wanted of it.
    wanted: Wanted,
    /// How fast it has to come.
    pace: Pace,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reference {
    Tag(String),
    /// SHA-256 of its manifest, or of an index of several, lower-case hexadecimal.
    Digest(String),
}

/// What is wanted of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Wanted {
    /// Which one it is.
    Digest,
    /// An archive of it, of at most so many bytes.
    Archive { max_len: u64 },
}

/// A registry, and what is needed to get at it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Access {
    /// `https://HOST[:PORT]`; `http://` only where that was configured.
    endpoint: String,
    /// Certificates of the authorities that servers may have theirs from, in PEM.
    authorities: String,
    credential: Credential,
    /// `HOST[:PORT]` beside the registry's own that may be asked for tokens, and told the password.
    token_host: Option<String>,
    /// `HOST[:PORT]` that blobs may be at, wherever that is.
    blob_hosts: Vec<String>,
}

/// Who asks.
#[derive(Clone, Serialize, Deserialize)]
enum Credential {
    Nobody,
    Password { user: String, password: String },
    Token(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Password { .. } => "Password(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

/// How fast a registry has to be; one that is slower is as good as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pace {
    /// Longest time for a connection, for an answer's head, and between two pieces of its body.
    silence: Duration,
    /// In each of which of a long body...
    window: Duration,
    /// ...so many bytes have to come.
    window_len: u64,
    /// From where a blob has broken off to where it goes on; twice as long each time that nothing more has come.
    pause: Duration,
}

/// The image that a reference means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// SHA-256 of its manifest, lower-case hexadecimal.
    pub(crate) digest: String,
    /// Bytes of configuration and layers as they are stored.
    pub(crate) size: u64,
}

/// Why a registry did not give an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has none.
    #[error("the registry has no such image")]
    Absent,
    /// It does not let the node have it.
    #[error("the registry does not let this node have it: {0}")]
    Denied(String),
    /// It is no image that could be a function's, or not what it should be.
    #[error("{0}")]
    Unsuitable(String),
    /// It cannot be reached, is too slow, or answers what no registry does: perhaps not the next time.
    #[error("{0}")]
    Unavailable(String),
}

/// What a server has said, short enough for a log.
fn shown(text: &str) -> String {
    /// Of a text that somebody else has written.
    const MAX_SHOWN: usize = 200;
    text.escape_debug().take(MAX_SHOWN).collect()
}
