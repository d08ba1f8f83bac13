//! A bucket of a service that is this process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use super::super::super::{directory::Directory, tests::Published};
use super::*;
use crate::{config::Bucket, server::Bounds};

/// What a service has seen and has.
#[derive(Debug, Default)]
struct Service {
    objects: Mutex<BTreeMap<String, Bytes>>,
    requests: Mutex<Vec<(Method, String)>>,
    /// That it has no such bucket.
    is_elsewhere: AtomicBool,
    /// Answers that are an error before it is well.
    refusals: Mutex<u32>,
}

async fn answer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert!(is_signed(&head.headers), "{head:?}");
    let path = head.uri.path().to_owned();
    service.requests.lock().unwrap().push((head.method.clone(), path.clone()));
    let mut refusals = service.refusals.lock().unwrap();
    if *refusals > 0 {
        *refusals -= 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if service.is_elsewhere.load(Ordering::Relaxed) {
        let text = "<Error><Code>NoSuchBucket</Code></Error>";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let mut objects = service.objects.lock().unwrap();
    match (head.method, objects.get(&path).cloned()) {
        (Method::PUT, _) => {
            objects.insert(path, body);
            [(header::ETAG, "\"1\"")].into_response()
        }
        (Method::DELETE, _) => {
            objects.remove(&path);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::GET, Some(object)) => described(object.len(), object.into()),
        (Method::HEAD, Some(object)) => described(object.len(), Body::empty()),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn described(len: usize, body: Body) -> Response {
    let headers = [
        (header::CONTENT_LENGTH, len.to_string()),
        (header::ETAG, "\"1\"".into()),
        (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT".into()),
    ];
    (headers, body).into_response()
}

/// Whether it says who it is from, and that its content is what was signed.
fn is_signed(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value("authorization").starts_with("AWS4-HMAC-SHA256 Credential=AKID/")
        && value("authorization").contains("/eu-central-9/s3/aws4_request")
        && !value("x-amz-date").is_empty()
        && value("x-amz-content-sha256").len() == 64
}

/// A service and an origin in a bucket of it.
async fn start() -> (Arc<Service>, Origin) {
    let service = Arc::new(Service::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Bucket {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        bucket: "chunks".into(),
        region: "eu-central-9".into(),
        access_key_id: "AKID".into(),
        secret_access_key: "secret".into(),
        prefix: "node/here".into(),
        allow_http: true,
        ca: "none".into(),
    };
    let router = Router::new().fallback(answer).with_state(Arc::clone(&service));
    let entrance = crate::server::Entrance { listener, tls: None };
    tokio::spawn(crate::server::serve(entrance, router, Bounds::NODE, std::future::pending()));
    (service, Origin::bucket(&settings).unwrap())
}

/// A directory with that content published as `root`, and the names that it needs.
fn published(bodies: &[&[u8]]) -> (Published, Directory, Vec<ChunkName>) {
    let published = Published::new(bodies);
    std::fs::write(published.dir.path().join("roots/root"), "a root").unwrap();
    let directory = Directory::new(Arc::clone(&published.store));
    (published, directory, bodies.iter().map(|body| ChunkName::of(body)).collect())
}

#[tokio::test]
async fn what_was_published_is_there_for_others_root_last() {
    let (_published, directory, names) = published(&[b"one", b"two", b"three"]);
    let (service, bucket) = start().await;
    let label: Label = "root".parse().unwrap();
    bucket.publish(&directory, &label, &names.iter().copied().collect()).await.unwrap();
    let put = |requests: &[(Method, String)]| -> Vec<String> {
        requests.iter().filter(|(method, _)| *method == Method::PUT).map(|(_, path)| path.clone()).collect()
    };
    let paths = put(&service.requests.lock().unwrap());
    assert_eq!(paths.len(), 4);
    assert_eq!(paths[3], "/chunks/node/here/roots/root");
    let first = names[0].to_string();
    assert!(paths.contains(&format!("/chunks/node/here/chunks/{}/{first}", &first[..2])), "{paths:?}");
    assert_eq!(bucket.fetch(&names[1], MAX_LEN, 1).await.unwrap(), "two");

    // Nothing that is whole is sent again.
    let cut = service.objects.lock().unwrap().get_mut(&paths[0]).map(|object| object.split_off(1));
    assert!(cut.is_some());
    service.requests.lock().unwrap().clear();
    bucket.publish(&directory, &label, &names.iter().copied().collect()).await.unwrap();
    assert_eq!(put(&service.requests.lock().unwrap()), [&*paths[0], &*paths[3]]);

    bucket.retract(&label).await.unwrap();
    bucket.retract(&label).await.unwrap();
    assert_eq!(service.objects.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_root_is_not_put_before_what_it_needs() {
    let (_published, directory, mut names) = published(&[b"one"]);
    names.push(ChunkName::of(b"not here"));
    let (service, bucket) = start().await;
    let refused = bucket.publish(&directory, &"root".parse().unwrap(), &names.into_iter().collect()).await;
    assert!(matches!(refused, Err(UploadError::Read { source: OriginError::Absent, .. })), "{refused:?}");
    assert!(!service.objects.lock().unwrap().keys().any(|path| path.contains("roots")));
}

#[tokio::test]
async fn a_service_that_is_busy_is_asked_again_by_us_alone() {
    let (service, bucket) = start().await;
    let path = format!("/chunks/{}", bucket.chunk(&name()));
    service.objects.lock().unwrap().insert(path, BODY.into());
    *service.refusals.lock().unwrap() = 2;
    assert_eq!(bucket.fetch(&name(), MAX_LEN, ATTEMPTS).await.unwrap(), BODY);
    assert_eq!(
        bucket.counters.stats(),
        OriginStats { hits: 1, failed: 2, retries: 2, ..OriginStats::default() }
    );
    assert_eq!(service.requests.lock().unwrap().len(), 3);
    let absent = bucket.fetch(&ChunkName::of(b"none"), MAX_LEN, ATTEMPTS).await;
    assert!(matches!(absent, Err(OriginError::Absent)));
    service.is_elsewhere.store(true, Ordering::Relaxed);
    let failed = bucket.fetch(&name(), MAX_LEN, 1).await;
    assert!(matches!(failed, Err(OriginError::Failed(_))), "{failed:?}");
}
