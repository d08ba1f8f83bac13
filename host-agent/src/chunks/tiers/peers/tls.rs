//! Who is a peer: whoever has a certificate of the cluster's authority, and, where it is called, one for its id.
//!
//! TLS 1.3 alone, by rustls on aws-lc-rs. Files are read once: new ones count from the agent's next start.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs, version::TLS13};

use crate::config::Certificates;
use crate::pem::{self, PemError};

/// HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file gives nothing.
    #[error("the certificates for peers are not there")]
    Pem(#[from] PemError),
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
        for authority in pem::certificates(&files.ca)? {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let chain = pem::certificates(&files.certificate)?;
        let key = pem::key(&files.key)?;
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
