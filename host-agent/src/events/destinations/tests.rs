//! Destinations by themselves, against a server that is this process.

use std::{collections::VecDeque, net::SocketAddr};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{super::record::tests::parcel, *};
use crate::{
    certificate::tests::own,
    config::Destination as Named,
    server::{Bounds, Entrance, serve},
};

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:t";
const RECORD: &str = r#"{"version":"1.0"}"#;

/// A server that keeps what it was sent, and answers 200 when it was told nothing else.
#[derive(Debug, Default)]
pub(crate) struct Hook {
    pub(crate) answers: Mutex<VecDeque<u16>>,
    pub(crate) requests: Mutex<Vec<(String, HeaderMap, Bytes)>>,
}

impl Hook {
    pub(crate) async fn start(tls: Option<TlsAcceptor>) -> (Arc<Self>, SocketAddr) {
        let hook = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&hook));
        tokio::spawn(serve(Entrance { listener, tls }, router, Bounds::NODE, std::future::pending()));
        (hook, address)
    }

    pub(crate) fn taken(&self) -> Vec<(String, HeaderMap, Bytes)> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

async fn answer(State(hook): State<Arc<Hook>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    hook.requests.lock().unwrap().push((format!("{} {}", head.method, head.uri), head.headers, body));
    let status = hook.answers.lock().unwrap().pop_front().unwrap_or(200);
    (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/elsewhere")]).into_response()
}

fn webhook(url: &str, ca: &Path, secrets: Option<&Path>) -> config::Webhook {
    let secret = |name: &str| secrets.map(|dir| dir.join(name));
    let (hmac_key, authorization) = (secret("key"), secret("authorization"));
    config::Webhook { url: url.parse().unwrap(), ca: ca.into(), hmac_key, authorization }
}

fn open(place: DestinationPlace, arn: &str, state: &Path) -> Result<Arc<Destinations>, DestinationError> {
    let text = format!("state_dir = '{}'", state.display());
    let file = state.join("agent.toml");
    fs::write(&file, text).unwrap();
    let mut config = config::Config::load(Some(&file), None, None).unwrap();
    config.events.destinations = vec![Named { arn: arn.into(), place }];
    Destinations::open(&config.events, state)
}

#[tokio::test]
async fn a_webhook_is_sent_the_record_signed_and_by_tls() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = own(dir.path());
    let (hook, address) = Hook::start(Some(TlsAcceptor::from(Arc::clone(&certificate.server)))).await;
    fs::write(dir.path().join("key"), "secret\n").unwrap();
    fs::write(dir.path().join("authorization"), "Bearer b\n").unwrap();
    let url = format!("https://localhost:{}/in?a=b", address.port());
    let ca = dir.path().join("tls/own.pem");
    let settings = webhook(&url, &ca, Some(dir.path()));
    let destinations = open(DestinationPlace::Webhook(settings), TOPIC, dir.path()).unwrap();
    let disk = Disk::of(dir.path());
    destinations.give(&parcel(TOPIC, RECORD), &disk).await.unwrap();
    let [(line, headers, body)] = &hook.taken()[..] else { panic!("one request") };
    assert_eq!((line.as_str(), &body[..]), ("POST /in?a=b", RECORD.as_bytes()));
    // printf '{"version":"1.0"}' | openssl dgst -sha256 -hmac secret
    let signature = "sha256=2919f99b8cde0440e0d5f483a95cb77e13ce303e3a7e8b09ce3e81d1bf998d0d";
    for (name, value) in [
        ("host", format!("localhost:{}", address.port()).as_str()),
        ("content-type", "application/json"),
        ("content-length", "17"),
        ("authorization", "Bearer b"),
        ("x-amz-sns-topic-arn", TOPIC),
        ("x-amz-sns-message-id", "8f0c1d8e-0000-4000-8000-000000000000"),
        ("x-tinderbox-signature-256", signature),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!format!("{destinations:?}").contains("Bearer"));

    // Whoever else has the address has another certificate.
    let other = tempfile::tempdir().unwrap();
    own(other.path());
    let settings = webhook(&url, &other.path().join("tls/own.pem"), None);
    let strangers = open(DestinationPlace::Webhook(settings), TOPIC, other.path()).unwrap();
    let error = strangers.give(&parcel(TOPIC, RECORD), &disk).await.unwrap_err();
    assert!(!error.is_final() && hook.taken().is_empty(), "{error}");
    assert!(strangers.past().all(|(_, past)| past.failed == 1 && past.problem.is_some()));
}

#[tokio::test]
async fn what_a_webhook_answers_is_a_status_and_no_way_to_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (hook, address) = Hook::start(None).await;
    let settings = webhook(&format!("http://{address}"), "none".as_ref(), None);
    let destinations = open(DestinationPlace::Webhook(settings), TOPIC, dir.path()).unwrap();
    let give = async || destinations.give(&parcel(TOPIC, RECORD), &Disk::of(dir.path())).await;
    for (status, is_final) in [
        (302, true),
        (307, true),
        (400, true),
        (404, true),
        (410, true),
        (408, false),
        (429, false),
        (503, false),
    ] {
        hook.answers.lock().unwrap().push_back(status);
        let error = give().await.unwrap_err();
        assert_eq!(error.is_final(), is_final, "{status}");
        assert!(describe(&error).contains(&status.to_string()), "{}", describe(&error));
    }
    give().await.unwrap();
    let lines: Vec<_> = hook.taken().into_iter().map(|(line, ..)| line).collect();
    assert_eq!(lines, ["POST /"; 9]);
    let (_, past) = destinations.past().next().unwrap();
    assert_eq!(past, Past { delivered: 1, failed: 8, ..Past::default() });
    let unknown = destinations.give(&parcel("arn:aws:s3:::b", RECORD), &Disk::of(dir.path())).await;
    assert!(matches!(unknown, Err(GiveError::Unknown)));
}

#[tokio::test]
async fn a_bucket_has_a_record_where_aws_puts_it_once_however_often_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/failures");
    let arn = "arn:aws:s3:::failures";
    let place = DestinationPlace::Directory(folder.clone());
    let destinations = open(place, arn, dir.path()).unwrap();
    let name = "aws/lambda/async/f/2025/11/24/2025-11-24T16.00.00-8f0c1d8e-0000-4000-8000-000000000000";
    for _ in 0..2 {
        destinations.give(&parcel(arn, RECORD), &Disk::of(dir.path())).await.unwrap();
    }
    assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), RECORD);
    assert_eq!(fs::read_dir(folder.join("aws/lambda/async/f/2025/11/24")).unwrap().count(), 1);

    let (hook, address) = Hook::start(None).await;
    let text = format!(
        "endpoint = 'http://{address}'\nallow_http = true\nbucket = 'far'\nregion = 'us-east-1'\nprefix = 'a/b'\n\
         access_key_id = 'a'\nsecret_access_key = 's'"
    );
    let bucket = DestinationPlace::Bucket(toml::from_str(&text).unwrap());
    let destinations = open(bucket, arn, dir.path()).unwrap();
    // It answers without an ETag, which no S3 does, but it has the object.
    let _ = destinations.give(&parcel(arn, RECORD), &Disk::of(dir.path())).await;
    let (line, headers, body) = hook.taken().pop().unwrap();
    assert_eq!((line, &body[..]), (format!("PUT /far/a/b/{name}"), RECORD.as_bytes()));
    assert!(headers["authorization"].to_str().unwrap().starts_with("AWS4-HMAC-SHA256 Credential=a/"));
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let check = |settings| open(DestinationPlace::Webhook(settings), TOPIC, dir.path()).unwrap_err();
    let url = "https://localhost";
    let error = check(webhook(url, &dir.path().join("none"), None));
    assert!(describe(&error).contains("none"), "{}", describe(&error));
    own(dir.path());
    fs::write(dir.path().join("key"), "\n").unwrap();
    fs::write(dir.path().join("authorization"), "b").unwrap();
    let error = check(webhook(url, &dir.path().join("tls/own.pem"), Some(dir.path())));
    assert!(describe(&error).contains("key holds nothing"), "{}", describe(&error));
    fs::write(dir.path().join("key"), "k").unwrap();
    fs::write(dir.path().join("authorization"), "a\nb").unwrap();
    let error = check(webhook("http://localhost", "none".as_ref(), Some(dir.path())));
    assert!(describe(&error).contains("authorization"), "{}", describe(&error));
    // Without a runtime: the agent is confined before it has one.
    let text = "bucket = 'far'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 's'\nca = ";
    let bucket = |ca: &Path| {
        let settings = toml::from_str(&format!("{text}'{}'", ca.display())).unwrap();
        open(DestinationPlace::Bucket(settings), "arn:aws:s3:::b", dir.path())
    };
    bucket(&dir.path().join("tls/own.pem")).unwrap();
    assert!(bucket(&dir.path().join("key")).is_err());
    let file = DestinationPlace::Directory(dir.path().join("key"));
    assert!(open(file, "arn:aws:s3:::b", dir.path()).is_err());
}
