//! The certificate that clients know this node by, and how it speaks TLS: configured, or its own, made at the first start.
//!
//! ```text
//! STATE/tls/own.pem     the node's own certificate and its key, for the agent's user alone
//! ```
//!
//! One that the configuration names files of may be renewed while the agent runs ([`renewal`]); any other is read once, before the
//! agent confines itself.

mod renewal;

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
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

use self::renewal::Files;
pub(crate) use self::renewal::{InUse, Renewal};
use crate::{
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
    /// It, and what comes after it.
    pub(crate) in_use: InUse,
    /// Where it is renewed, if it is.
    renewed: Option<Files>,
}

impl Certificate {
    /// As configured; the node's own is made if there is none yet.
    ///
    /// # Errors
    /// A file is not there, holds something else, or they do not fit each other.
    pub(crate) fn load(tls: &Tls, state_dir: &Path) -> Result<Self, CertificateError> {
        let own = state_dir.join("tls/own.pem");
        let files = match &tls.source {
            TlsSource::Files { certificate, key } | TlsSource::Credentials { certificate, key } => {
                Files { certificate: certificate.clone(), key: key.clone() }
            }
            TlsSource::Own => {
                if !own.exists() {
                    make(&own, &tls.names)?;
                }
                Files { certificate: own.clone(), key: own }
            }
        };
        let in_use = InUse::new(pair(&files)?);
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(in_use.clone()));
        server.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
        let renewed = Some(files).filter(|_| matches!(tls.source, TlsSource::Files { .. }));
        Ok(Self { server: Arc::new(server), in_use, renewed })
    }

    /// What follows its files, if somebody may renew it.
    pub(crate) fn renewal(&self) -> Option<Renewal> {
        let files = self.renewed.clone()?;
        Some(Renewal { files, in_use: self.in_use.clone(), seen: None })
    }
}

/// A certificate and the key for it.
fn pair(files: &Files) -> Result<CertifiedKey, CertificateError> {
    let (chain, key) = (pem::certificates(&files.certificate)?, pem::key(&files.key)?);
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
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
        let made = own(dir.path()).in_use.fingerprint();
        assert_eq!((made.len(), own(dir.path()).in_use.fingerprint()), (64, made.clone()));
        let path = dir.path().join("tls/own.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_ne!(own(dir.path()).in_use.fingerprint(), made, "another key, another certificate");
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        own(dir.path());
        let good = dir.path().join("tls/own.pem");
        let load = |certificate: &Path, key: &Path| {
            let source = TlsSource::Files { certificate: certificate.into(), key: key.into() };
            Certificate::load(&Tls { source, names: Vec::new() }, dir.path())
                .map(|loaded| loaded.in_use.fingerprint())
        };
        assert_eq!(load(&good, &good).unwrap(), own(dir.path()).in_use.fingerprint());
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

    #[test]
    fn a_certificate_that_is_renewed_counts_and_a_broken_one_does_not() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (own(dir.path()), own(other.path()));
        let (old, new) = (old.in_use.fingerprint(), new.in_use.fingerprint());
        let read = |dir: &Path| fs::read(dir.join("tls/own.pem")).unwrap();
        let (certificate, key) = (dir.path().join("certificate"), dir.path().join("key"));
        let write = |path: &Path, content: &[u8]| {
            // As who renews one does it, so that nobody reads half of it.
            fs::write(path.with_extension("new"), content).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        };
        write(&certificate, &read(dir.path()));
        write(&key, &read(dir.path()));
        let source = TlsSource::Files { certificate: certificate.clone(), key: key.clone() };
        let loaded = Certificate::load(&Tls { source, names: Vec::new() }, dir.path()).unwrap();
        let mut renewal = loaded.renewal().unwrap();
        renewal.look().unwrap();
        assert_eq!(loaded.in_use.fingerprint(), old);
        // A certificate without its key, one that is cut off, none: said once, and the old one stays.
        write(&certificate, &read(other.path()));
        assert!(matches!(renewal.look(), Err(CertificateError::Rustls(_))));
        renewal.look().unwrap();
        write(&certificate, &read(other.path())[..200]);
        assert!(matches!(renewal.look(), Err(CertificateError::Pem(_))));
        fs::remove_file(&certificate).unwrap();
        assert!(matches!(renewal.look(), Err(CertificateError::Pem(PemError::Read { .. }))));
        renewal.look().unwrap();
        assert_eq!(loaded.in_use.fingerprint(), old);
        write(&certificate, &read(other.path()));
        write(&key, &read(other.path()));
        renewal.look().unwrap();
        assert_eq!(loaded.in_use.fingerprint(), new);
        assert_eq!(serde_json::to_value(&loaded.in_use).unwrap(), new);
        assert!(own(dir.path()).renewal().is_none(), "nobody renews the node's own");
    }
}
