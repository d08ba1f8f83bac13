//! The certificate that clients know this node by, and how it speaks TLS: configured, or its own, made at the first start.
//!
//! ```text
//! STATE/tls/own.pem     the node's own certificate and its key, for the agent's user alone
//! ```
//!
//! Read once, before the agent confines itself: a new certificate counts from the next start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    code::hex,
    config::{Tls, TlsSource},
    pem::{self, PemError},
};

/// What is spoken inside, the better one first.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file gives nothing.
    #[error("the certificate is not there")]
    Pem(#[from] PemError),
    /// The node's own cannot be kept.
    #[error("cannot keep the node's certificate in {}", path.display())]
    Keep {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The node's own cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Key and certificate do not fit each other.
    #[error("the certificate cannot be used")]
    Rustls(#[from] rustls::Error),
}

/// A certificate in use.
pub(crate) struct Certificate {
    /// How connections are made with it.
    pub(crate) server: Arc<ServerConfig>,
    /// The SHA-256 of it, in hexadecimal.
    pub(crate) fingerprint: String,
}

impl Certificate {
    /// As configured; the node's own is made if there is none yet.
    ///
    /// # Errors
    /// A file is not there, holds something else, or they do not fit each other.
    pub(crate) fn load(tls: &Tls, state_dir: &Path) -> Result<Self, CertificateError> {
        let own = state_dir.join("tls/own.pem");
        let (certificate, key) = match &tls.source {
            TlsSource::Files { certificate, key } => (certificate, key),
            TlsSource::Own => {
                if !own.exists() {
                    make(&own, &tls.names)?;
                }
                (&own, &own)
            }
        };
        let (chain, secret) = (pem::certificates(certificate)?, pem::key(key)?);
        let fingerprint = chain.first().map(|first| hex(&Sha256::digest(first))).unwrap_or_default();
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, secret)?;
        server.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { server: Arc::new(server), fingerprint })
    }
}

/// Makes a certificate that signs itself, beside its place, and moves it there when it is on the disk.
fn make(path: &Path, names: &[String]) -> Result<(), CertificateError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Tinderbox node");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let text = Zeroizing::new(format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()));
    let keep = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let unfinished = path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(dir)?.sync_all()
    };
    keep().map_err(|source| CertificateError::Keep { path: path.to_owned(), source })
}

/// How a node's own certificate calls an address that it listens on.
pub(crate) fn name_of(ip: IpAddr) -> Option<String> {
    (!ip.is_unspecified()).then(|| ip.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn own(dir: &Path) -> Certificate {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        Certificate::load(&Tls { source: TlsSource::Own, names }, dir).unwrap()
    }

    #[test]
    fn the_nodes_own_is_made_once_and_for_the_agent_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = own(dir.path()).fingerprint;
        assert_eq!((made.len(), own(dir.path()).fingerprint), (64, made.clone()));
        let path = dir.path().join("tls/own.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_ne!(own(dir.path()).fingerprint, made, "another key, another certificate");
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        own(dir.path());
        let good = dir.path().join("tls/own.pem");
        let load = |certificate: &Path, key: &Path| {
            let source = TlsSource::Files { certificate: certificate.into(), key: key.into() };
            Certificate::load(&Tls { source, names: Vec::new() }, dir.path()).map(|loaded| loaded.fingerprint)
        };
        assert_eq!(load(&good, &good).unwrap(), own(dir.path()).fingerprint);
        let (empty, absent) = (dir.path().join("empty"), dir.path().join("absent"));
        fs::write(&empty, "").unwrap();
        assert!(matches!(
            load(&empty, &good),
            Err(CertificateError::Pem(PemError::Absent { what: "certificate", .. }))
        ));
        assert!(matches!(
            load(&good, &empty),
            Err(CertificateError::Pem(PemError::Absent { what: "key", .. }))
        ));
        assert!(
            matches!(load(&absent, &good), Err(CertificateError::Pem(PemError::Read { path, .. })) if path == absent)
        );
        let other = tempfile::tempdir().unwrap();
        own(other.path());
        let other = other.path().join("tls/own.pem");
        assert!(matches!(load(&good, &other), Err(CertificateError::Rustls(_))));
    }
}
