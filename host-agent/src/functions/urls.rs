//! A URL of a function: what is kept of it. Who serves it is `api::urls`.

use serde::{Deserialize, Serialize};

/// Letters and digits that URLs are named with: 32, so that a random byte's last five bits are one of them, and none is more
/// likely than another. AWS's.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How many of them: 160 bits, which nobody guesses.
pub(crate) const ID_LEN: usize = 32;

/// A URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionUrl {
    /// Its own name: the first label of its host.
    pub(crate) id: String,
    /// Who may use it.
    pub(crate) auth: UrlAuth,
    /// When its clients are answered.
    #[serde(default)]
    pub(crate) mode: UrlMode,
    /// What browsers are told, if anything.
    pub(crate) cors: Option<Cors>,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub(crate) last_modified_ms: i64,
}

/// Who may use a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UrlAuth {
    /// Everybody.
    #[serde(rename = "NONE")]
    Open,
    /// Who signs with a key of the node's.
    #[serde(rename = "AWS_IAM")]
    Signed,
}

impl UrlAuth {
    /// AWS's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "NONE",
            Self::Signed => "AWS_IAM",
        }
    }
}

/// When a URL's clients are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UrlMode {
    /// When the function has ended.
    #[default]
    #[serde(rename = "BUFFERED")]
    Buffered,
    /// While it answers, if it streams.
    #[serde(rename = "RESPONSE_STREAM")]
    Streamed,
}

impl UrlMode {
    /// AWS's word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Buffered => "BUFFERED",
            Self::Streamed => "RESPONSE_STREAM",
        }
    }
}

/// What pages of other origins may do with a URL, by the members and names of AWS's model, in which it is asked for, kept
/// and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Cors {
    /// Whether they may send cookies and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_credentials: Option<bool>,
    /// Headers that they may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_headers: Option<Vec<String>>,
    /// Methods that they may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_methods: Option<Vec<String>>,
    /// Which origins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_origins: Option<Vec<String>>,
    /// Headers that they may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expose_headers: Option<Vec<String>>,
    /// How long a browser may remember all that, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<i64>,
}

/// A name for a new URL.
///
/// # Errors
/// When the operating system has no randomness.
pub(crate) fn new_url_id() -> Result<String, getrandom::Error> {
    let mut random = [0; ID_LEN];
    getrandom::fill(&mut random)?;
    Ok(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// Whether a text could be the name of a URL.
pub(crate) fn is_url_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_well_formed_and_differ() {
        let names: std::collections::HashSet<_> = (0..100).map(|_| new_url_id().unwrap()).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| is_url_id(name)));
        for wrong in ["", &"a".repeat(31), &"a".repeat(33), &"A".repeat(32), &"1".repeat(32)] {
            assert!(!is_url_id(wrong), "{wrong}");
        }
    }
}
