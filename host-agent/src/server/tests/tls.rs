//! Clients that come by TLS, and that should.

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::certificate::{Certificate, tests::own};

pub(super) fn acceptor(certificate: &Certificate) -> TlsAcceptor {
    TlsAcceptor::from(Arc::clone(&certificate.server))
}

/// A client that trusts the certificate in `dir` and nothing else, and would speak these protocols.
pub(super) fn connector(
    dir: &std::path::Path,
    version: &'static rustls::SupportedProtocolVersion,
    protocols: &[&[u8]],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("tls/own.pem")).unwrap()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(client))
}

/// What a client is answered that trusts the certificate in `dir` and nothing else.
async fn ask(
    server: &Server,
    dir: &std::path::Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Result<String> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector(dir, version, &[]).connect(name, server.connect().await).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    // The server says that it closes, so that nobody can cut an answer off.
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn who_trusts_the_certificate_is_served_by_either_version_and_who_does_not_is_not_there() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    own(other.path());
    let server = Server::start_with(Some(acceptor(&own(dir.path()))), measure(), GENEROUS).await;
    for version in [&TLS12, &TLS13] {
        let answer = ask(&server, dir.path(), version).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET 0."), "{answer}");
        ask(&server, other.path(), version).await.unwrap_err();
    }
    server.stop.notify_one();
    server.task.await.unwrap();
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_so_and_who_says_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { handshake_timeout: Duration::from_millis(200), ..GENEROUS };
    let server = Server::start_with(Some(acceptor(&own(dir.path()))), measure(), bounds).await;
    let answer = server.say(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 400 ") && head.ends_with(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    assert_eq!(body, "This address speaks HTTPS, and you spoke HTTP.\n");
    assert_eq!(server.say(b"\x05\x01\x00").await, "");
    // A handshake that does not come, or does not go on.
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1]] {
        assert_eq!(server.say(begun).await, "", "{begun:?}");
    }
    ask(&server, dir.path(), &TLS13).await.unwrap();
}
