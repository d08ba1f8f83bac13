//! Who is a peer: whoever has a certificate of the cluster's authority, and, where it is called, one for its id.
//!
//! TLS 1.3 alone, by rustls on aws-lc-rs. Files are read once: new ones count from the agent's next start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs, version::TLS13};

use crate::chunks::tiers::pem;
use crate::config::Certificates;

/// HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is not there.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Key, certificate and authority do not fit each other.
    #[error("the certificates for peers cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The authority cannot be used to verify peers.
    #[error("the authority for peers cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Both ends of a connection between peers.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Tls {
    /// From files.
    ///
    /// # Errors
    /// One is not there, is something else, or they do not fit each other.
    pub(crate) fn load(files: &Certificates) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.ca)? {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate)?;
        let key = key(&files.key)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Pem { path: path.to_owned(), what: "certificate" })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let content = read(path)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|_| TlsError::Pem { path: path.to_owned(), what: "key" })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    pem::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
