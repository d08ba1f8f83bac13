//! The table `[tls]`: whether clients come by TLS, and by which certificate they know the node.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, value};

/// Names of the systemd credentials that are taken when the configuration names no files.
const CERTIFICATE: &str = "tinderbox.tls.certificate";
const KEY: &str = "tinderbox.tls.key";

/// Most names of a certificate of the node's own.
const MAX_NAMES: usize = 32;

/// How clients are spoken to, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Where the certificate is from.
    pub(crate) source: TlsSource,
    /// What one of the node's own is for.
    pub(crate) names: Vec<String>,
}

/// Where a certificate is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsSource {
    /// The node makes it.
    Own,
    /// Systemd's credentials, which stay as they are while the agent runs.
    Credentials {
        /// As of files.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// PEM files, which somebody may renew.
    Files {
        /// With those of authorities between it and the root behind it.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTls {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    names: Vec<String>,
}

impl RawTls {
    /// `own`: names that the node has anyway.
    pub(super) fn check(self, own: Vec<String>, credentials: Option<&Path>) -> Result<Tls, ConfigError> {
        let source = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => TlsSource::Files { certificate, key },
            (None, None) => in_credentials(credentials).unwrap_or(TlsSource::Own),
            _ => return Err(value("tls", "certificate and key are both there, or neither".into())),
        };
        if self.names.len() > MAX_NAMES {
            return Err(value("tls.names", format!("{} names, {MAX_NAMES} are the most", self.names.len())));
        }
        let is_name = |name: &String| {
            !name.is_empty()
                && name.len() <= 253
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-*:".contains(&byte))
        };
        if let Some(wrong) = self.names.iter().find(|name| !is_name(name)) {
            return Err(value("tls.names", format!("`{wrong}` is no name and no address")));
        }
        Ok(Tls { source, names: own.into_iter().chain(self.names).collect() })
    }
}

fn in_credentials(dir: Option<&Path>) -> Option<TlsSource> {
    let (certificate, key) = (dir?.join(CERTIFICATE), dir?.join(KEY));
    (certificate.exists() && key.exists()).then_some(TlsSource::Credentials { certificate, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, credentials: Option<&Path>) -> Result<Tls, String> {
        let raw: RawTls = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check(vec!["localhost".into()], credentials).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_is_the_nodes_own_unless_files_are_there() {
        let own = check("names = ['node.example.net', '10.0.0.1']", None).unwrap();
        assert_eq!(
            (own.source, own.names.join(" ").as_str()),
            (TlsSource::Own, "localhost node.example.net 10.0.0.1")
        );
        let files = check("certificate = 'c'\nkey = 'k'", None).unwrap().source;
        assert_eq!(files, TlsSource::Files { certificate: "c".into(), key: "k".into() });
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check("", Some(dir.path())).unwrap().source, TlsSource::Own);
        let (certificate, key) = (dir.path().join(CERTIFICATE), dir.path().join(KEY));
        std::fs::write(&certificate, "").unwrap();
        std::fs::write(&key, "").unwrap();
        let found = check("", Some(dir.path())).unwrap().source;
        assert_eq!(found, TlsSource::Credentials { certificate, key });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            ("certificate = 'c'", "certificate and key"),
            ("key = 'k'", "certificate and key"),
            ("names = ['a b']", "tls.names"),
            ("names = ['']", "tls.names"),
            ("name = 'x'", "name"),
        ] {
            let problem = check(text, None).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
