//! TLS to a node whose certificate somebody vouches for: the authorities of a file, or that the file holds the certificate itself.

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Where Debian keeps the authorities of the public web.
pub(crate) const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Longest file of authorities, in bytes: four times what distributions ship.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// How to come to one node.
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.name).finish()
    }
}

impl Tls {
    /// To the node of that name, with or without a port.
    pub(crate) fn new(ca: &Path, authority: &str) -> Result<Self> {
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        let host = if port.ends_with(']') { authority } else { host };
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.with_context(|| format!("`{host}` is no name that a certificate is for"))?;
        let failed = || format!("cannot read authorities from {}", ca.display());
        let mut text = Vec::new();
        File::open(ca)
            .with_context(failed)?
            .take(MAX_FILE_LEN + 1)
            .read_to_end(&mut text)
            .with_context(failed)?;
        ensure!(text.len() as u64 <= MAX_FILE_LEN, "{} is longer than {MAX_FILE_LEN} bytes", ca.display());
        let mut roots = RootCertStore::empty();
        let found: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
        roots.add_parsable_certificates(found);
        ensure!(!roots.is_empty(), "{} holds no certificate in PEM", ca.display());
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("speak TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
    }

    /// A node's end of a connection that is known to be its.
    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await;
        connected.context("speak TLS; does the node, and is --ca its authority or its certificate?")
    }
}
