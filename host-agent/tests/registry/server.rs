//! A small registry on the loopback, and a server beside it: paths, and what each is answered with. It takes what it is told to be, so it
//! can be as bad as one likes.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Status, more header fields, body.
    Is(u16, String, Vec<u8>),
    /// The first half of what was announced.
    HalfOf(Vec<u8>),
    /// From the byte that was asked for on, a third of all; so many bytes away from there.
    ThirdsOf(Vec<u8>, usize),
    /// This, a byte in a tenth of a second.
    Drips(Vec<u8>),
    /// More and more.
    Endless,
    /// Nothing, for as long as the other side waits.
    Silence,
}

/// What somebody has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// From which byte on.
    pub(crate) from: Option<usize>,
}

#[derive(Debug, Default)]
struct Told {
    answers: BTreeMap<String, Answer>,
    /// Below `/v2/`, this is wanted; without it there is a challenge.
    authorization: Option<(String, String)>,
    asked: Vec<Asked>,
}

/// A server that runs until the test's process ends.
#[derive(Clone)]
pub(crate) struct Server {
    told: Arc<Mutex<Told>>,
    pub(crate) port: u16,
    /// Its certificate in PEM, by which it is known, if it has one.
    pub(crate) certificate: String,
}

impl Server {
    /// That speaks plain HTTP.
    pub(crate) fn plain() -> Self {
        Self::start(None, String::new())
    }

    /// That speaks TLS, as `localhost` and 127.0.0.1.
    pub(crate) fn tls() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .unwrap();
        Self::start(Some(Arc::new(config)), certificate)
    }

    fn start(tls: Option<Arc<ServerConfig>>, certificate: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let told: Arc<Mutex<Told>> = Arc::default();
        let server = Self { told: Arc::clone(&told), port, certificate };
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (told, tls) = (Arc::clone(&told), tls.clone());
                // Whoever breaks a connection off is tested elsewhere.
                std::thread::spawn(move || match tls {
                    None => drop(serve(stream, &told)),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        drop(serve(StreamOwned::new(connection, stream), &told));
                    }
                });
            }
        });
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.certificate.is_empty() { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn answers(&self, path: &str, answer: Answer) {
        self.told.lock().unwrap().answers.insert(path.into(), answer);
    }

    pub(crate) fn has(&self, path: &str, media_type: &str, body: &[u8]) {
        let head = format!("content-type: {media_type}\r\n");
        self.answers(path, Answer::Is(200, head, body.to_vec()));
    }

    pub(crate) fn redirects(&self, path: &str, to: &str) {
        self.answers(path, Answer::Is(307, format!("location: {to}\r\n"), Vec::new()));
    }

    /// Wants that value of `Authorization`, and challenges who does not have it.
    pub(crate) fn wants(&self, authorization: &str, challenge: &str) {
        self.told.lock().unwrap().authorization = Some((authorization.into(), challenge.into()));
    }

    /// What was asked for since this was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.told.lock().unwrap().asked)
    }
}

fn serve(stream: impl Read + Write, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut authorization, mut from) = (None, None);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("authorization") {
            authorization = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("range") {
            let first = value.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            from = Some(first.unwrap().parse().unwrap());
        }
    }
    let answer = {
        let mut told = told.lock().unwrap();
        told.asked.push(Asked { path: path.clone(), authorization: authorization.clone(), from });
        let wanted = told.authorization.clone().filter(|_| path.starts_with("/v2/"));
        match wanted {
            Some((wanted, challenge)) if authorization.as_ref() != Some(&wanted) => {
                Answer::Is(401, format!("www-authenticate: {challenge}\r\n"), Vec::new())
            }
            _ => {
                let path = path.split('?').next().unwrap_or_default();
                told.answers.get(path).cloned().unwrap_or(Answer::Is(404, String::new(), Vec::new()))
            }
        }
    };
    write(stream.get_mut(), answer, from)
}

fn write(to: &mut (impl Read + Write), answer: Answer, from: Option<usize>) -> std::io::Result<()> {
    let head = |status: u16, more: &str, len: usize| {
        format!("HTTP/1.1 {status} X\r\n{more}content-length: {len}\r\nconnection: close\r\n\r\n")
    };
    match answer {
        Answer::Is(status, more, body) => {
            to.write_all(head(status, &more, body.len()).as_bytes())?;
            to.write_all(&body)?;
        }
        Answer::HalfOf(body) => {
            to.write_all(head(200, "", body.len()).as_bytes())?;
            to.write_all(&body[..body.len() / 2])?;
        }
        Answer::ThirdsOf(body, away) => {
            let (first, part) = (from.unwrap_or(0), body.len().div_ceil(3));
            let rest = &body[first + away..];
            let range =
                format!("content-range: bytes {}-{}/{}\r\n", first + away, body.len() - 1, body.len());
            let (status, more) = if first == 0 { (200, "") } else { (206, range.as_str()) };
            to.write_all(head(status, more, rest.len()).as_bytes())?;
            to.write_all(&rest[..part.min(rest.len())])?;
        }
        Answer::Drips(body) => {
            to.write_all(head(200, "", body.len()).as_bytes())?;
            for byte in body {
                to.write_all(&[byte])?;
                to.flush()?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Answer::Endless => {
            to.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n")?;
            loop {
                to.write_all(&[b' '; 64 * 1024])?;
            }
        }
        Answer::Silence => drop(to.read(&mut [0; 1])?),
    }
    to.flush()
}

/// Names of media types, of the OCI's or of Docker's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Types {
    pub(crate) index: &'static str,
    pub(crate) manifest: &'static str,
    pub(crate) config: &'static str,
    pub(crate) layer: &'static str,
}

pub(crate) const OCI: Types = Types {
    index: "application/vnd.oci.image.index.v1+json",
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar",
};

pub(crate) const DOCKER: Types = Types {
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar",
};

/// The paths of an image of `team/app`.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) size: usize,
    pub(crate) manifest: Vec<u8>,
    /// Digests and bytes: layers and configuration.
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    pub(crate) types: Types,
}

pub(crate) fn digits(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a manifest or a blob is.
pub(crate) fn path(kind: &str, reference: &str) -> String {
    format!("/v2/team/app/{kind}/{reference}")
}

impl Image {
    /// With two layers, of which one is there twice.
    pub(crate) fn of(types: Types) -> Self {
        let layer = |name: &str, content: &[u8]| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, name, content).unwrap();
            tar.into_inner().unwrap()
        };
        let (first, second) = (layer("app/run", &[7; 300_000]), layer("app/more", b"more"));
        let layers = [&first, &second, &second];
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digits(layer))).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Entrypoint": ["/app/run"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": format!("sha256:{}", digits(bytes)), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types.manifest, "config": descriptor(types.config, &config),
            "layers": layers.map(|layer| descriptor(types.layer, layer)),
        });
        let manifest = manifest.to_string().into_bytes();
        let size = config.len() + layers.iter().map(|layer| layer.len()).sum::<usize>();
        let blobs = [config, first, second].map(|blob| (digits(&blob), blob));
        Self { digest: digits(&manifest), size, manifest, blobs: blobs.into(), types }
    }

    /// What the helper says that it has found.
    pub(crate) fn found(&self) -> Value {
        json!({ "digest": self.digest, "size": self.size })
    }

    /// An index that has it for this machine, among others.
    pub(crate) fn index(&self) -> Vec<u8> {
        let of = |architecture: &str, digest: &str| {
            json!({
                "mediaType": self.types.manifest, "digest": format!("sha256:{digest}"), "size": self.manifest.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let manifests = [of("arm64", &"0".repeat(64)), of("amd64", &self.digest)];
        let index = json!({ "schemaVersion": 2, "mediaType": self.types.index, "manifests": manifests });
        index.to_string().into_bytes()
    }

    /// Has a server serve its manifest, by an index under the tag `v1`.
    pub(crate) fn serve_manifest(&self, server: &Server) {
        server.has(&path("manifests", "v1"), self.types.index, &self.index());
        server.has(
            &path("manifests", &format!("sha256:{}", self.digest)),
            self.types.manifest,
            &self.manifest,
        );
    }

    /// Has a server serve all of it.
    pub(crate) fn serve(&self, server: &Server) {
        self.serve_manifest(server);
        for (digest, blob) in &self.blobs {
            server.has(&path("blobs", &format!("sha256:{digest}")), "application/octet-stream", blob);
        }
    }

    /// The path of the longest blob.
    pub(crate) fn long_blob(&self) -> String {
        path("blobs", &format!("sha256:{}", self.blobs[1].0))
    }
}

/// Nobody listens at the port of this.
pub(crate) fn nobody() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    port
}
