//! One signed request to a node, and its answer.

use std::{env, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime,
    time::timeout,
};

use crate::tls::Tls;

/// How long a node may take: it reads all that it has to verify it.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Longest answer: what is damaged is a list.
const MAX_ANSWER_LEN: usize = 64 << 20;

/// Header that names an operation where the path does not.
const TARGET: &str = "x-amz-target";

/// What is asked for.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    /// What it is signed for.
    service: &'a str,
    target: Option<&'a str>,
}

/// Where a node is and who asks.
#[derive(Debug)]
pub(crate) struct Client {
    authority: String,
    /// None: the node speaks plain HTTP.
    tls: Option<Tls>,
    region: String,
    /// None: requests are not signed, which a node without keys takes.
    credentials: Option<Credentials>,
}

impl Client {
    /// Of an endpoint, whose certificate `ca` vouches for if it has one, with the credentials of the environment.
    pub(crate) fn new(endpoint: &str, ca: &Path, region: &str) -> Result<Self> {
        let (rest, port) = match endpoint.strip_prefix("https://") {
            Some(rest) => (Some(rest), 443),
            None => (endpoint.strip_prefix("http://"), 80),
        };
        let authority =
            rest.map(|rest| rest.trim_end_matches('/')).filter(|authority| !authority.contains('/'));
        let authority = authority
            .with_context(|| format!("`{endpoint}` is not http://HOST:PORT or https://HOST:PORT"))?;
        let tls = if port == 443 { Some(Tls::new(ca, authority)?) } else { None };
        let authority =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") };
        let key = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = match (key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Some(Credentials::from_keys(id, secret, key("AWS_SESSION_TOKEN"))),
            (None, None) => None,
            _ => bail!("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY one is set, the other is not"),
        };
        Ok(Self { authority, tls, region: region.to_owned(), credentials })
    }

    /// Asks, and returns the answer if it is a good one.
    pub(crate) fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes> {
        self.ask(&Asked { method, path, service: "lambda", target: None }, body)
    }

    /// The same; none if the node answers that there is no such thing.
    pub(crate) fn find(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Option<Bytes>> {
        let (status, answer) =
            self.exchanged(&Asked { method, path, service: "lambda", target: None }, body)?;
        if status == StatusCode::NOT_FOUND { Ok(None) } else { good(status, answer).map(Some) }
    }

    /// The same of an operation of CloudWatch Logs.
    pub(crate) fn ask_logs(&self, operation: &str, body: Vec<u8>) -> Result<Bytes> {
        let target = format!("Logs_20140328.{operation}");
        self.ask(&Asked { method: "POST", path: "/", service: "logs", target: Some(&target) }, body)
    }

    fn ask(&self, asked: &Asked<'_>, body: Vec<u8>) -> Result<Bytes> {
        let (status, answer) = self.exchanged(asked, body)?;
        good(status, answer)
    }

    fn exchanged(&self, asked: &Asked<'_>, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start")?;
        let called = runtime.block_on(async { timeout(TIMEOUT, self.exchange(asked, body)).await });
        called.unwrap_or_else(|_| bail!("{} did not answer within {} s", self.authority, TIMEOUT.as_secs()))
    }

    async fn exchange(&self, asked: &Asked<'_>, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", self.authority))?;
        match &self.tls {
            None => self.converse(stream, asked, body).await,
            Some(tls) => self.converse(tls.connect(stream).await?, asked, body).await,
        }
    }

    async fn converse<S>(&self, stream: S, asked: &Asked<'_>, body: Vec<u8>) -> Result<(StatusCode, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
        tokio::spawn(connection);
        let answer = sender.send_request(self.request(asked, body)?).await;
        let answer = answer.map_err(|error| {
            let strange = error.is_parse() && self.tls.is_none();
            let attempted =
                if strange { "what answers speaks no HTTP; is it https://?" } else { "ask the node" };
            anyhow::Error::new(error).context(attempted)
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_LEN).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error)).context("read the node's answer")?.to_bytes();
        Ok((status, body))
    }

    fn request(&self, asked: &Asked<'_>, body: Vec<u8>) -> Result<Request<Full<Bytes>>> {
        let Asked { method, path, service, target } = *asked;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", self.authority);
        let mut request = Request::builder().method(method).uri(path).header("host", &self.authority);
        if let Some(target) = target {
            request = request.header(TARGET, target).header("content-type", "application/x-amz-json-1.1");
        }
        if let Some(credentials) = &self.credentials {
            let identity = credentials.clone().into();
            let params = v4::SigningParams::builder()
                .identity(&identity)
                .region(&self.region)
                .name(service)
                .time(std::time::SystemTime::now())
                .settings(SigningSettings::default())
                .build()
                .context("sign the request")?;
            let named = target.map(|target| (TARGET, target));
            let headers = [("host", self.authority.as_str())].into_iter().chain(named);
            let signable = SignableRequest::new(method, uri, headers, SignableBody::Bytes(&body));
            let signed =
                sign(signable.context("sign the request")?, &params.into()).context("sign the request")?;
            let (instructions, _signature) = signed.into_parts();
            for (name, value) in instructions.headers() {
                request = request.header(name, value);
            }
        }
        request.body(Full::from(body)).context("make the request")
    }
}

/// An answer that is a good one.
fn good(status: StatusCode, answer: Bytes) -> Result<Bytes> {
    ensure!(status.is_success(), "the node answers {status}: {}", message_in(&answer));
    Ok(answer)
}

/// What an error document says.
fn message_in(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = document.as_ref().and_then(|document| {
        ["Message", "message"].iter().find_map(|name| document.get(*name).and_then(|said| said.as_str()))
    });
    said.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let new = |endpoint: &str| Client::new(endpoint, Path::new("/nowhere"), "r");
        let authority = |endpoint: &str| new(endpoint).map(|client| client.authority).ok();
        assert_eq!(authority("http://node:9000/").as_deref(), Some("node:9000"));
        assert_eq!(authority("http://node").as_deref(), Some("node:80"));
        assert!(format!("{:#}", new("https://node").unwrap_err()).contains("/nowhere"));
        for wrong in ["node:9000", "ftp://node", "http://node/path", ""] {
            assert_eq!(authority(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let client = Client::new("http://127.0.0.1:1", Path::new("/nowhere"), "r").unwrap();
        assert!(
            format!("{:#}", client.call("GET", "/", Vec::new()).unwrap_err())
                .contains("cannot connect to 127.0.0.1:1")
        );
    }

    #[test]
    fn a_refusal_is_said_in_the_nodes_words() {
        assert_eq!(message_in(br#"{"Message":"no"}"#), "no");
        assert_eq!(message_in(b"bad gateway"), "bad gateway");
    }
}
