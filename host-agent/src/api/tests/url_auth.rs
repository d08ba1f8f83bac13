//! URLs that take signed requests only, and who gets through.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};

use super::*;

/// What a client signs with.
pub(super) struct Signer<'a> {
    pub(super) key: &'a str,
    pub(super) secret: &'a str,
    pub(super) region: &'static str,
    pub(super) service: &'static str,
    pub(super) location: SignatureLocation,
}

pub(super) const GOOD: Signer<'static> = Signer {
    key: KEY,
    secret: SECRET,
    region: "us-east-1",
    service: "lambda",
    location: SignatureLocation::Headers,
};

impl Signer<'_> {
    /// A request of its, signed for `host`.
    fn request(&self, host: &str, path: &str, body: &str) -> axum::http::request::Builder {
        self.request_by("POST", host, path, body)
    }

    pub(super) fn request_by(
        &self,
        method: &str,
        host: &str,
        path: &str,
        body: &str,
    ) -> axum::http::request::Builder {
        self.request_with(method, (host, path), body, &[])
    }

    /// The same with headers, which are signed.
    pub(super) fn request_with(
        &self,
        method: &str,
        (host, path): (&str, &str),
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> axum::http::request::Builder {
        let identity = Credentials::new(self.key, self.secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        settings.signature_location = self.location;
        settings.expires_in =
            (self.location == SignatureLocation::QueryParams).then_some(Duration::from_secs(60));
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let uri = format!("http://{host}{path}");
        let body = SignableBody::Bytes(body.as_bytes());
        let signed = headers.iter().copied().chain([("host", host)]);
        let signable = SignableRequest::new(method, &uri, signed, body).unwrap();
        let (added, query) = sign(signable, &params).unwrap().into_parts().0.into_parts();
        let mut path = path.to_owned();
        for (name, value) in query {
            let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            path += &format!("{}{name}={value}", if path.contains('?') { "&" } else { "?" });
        }
        let request = Request::builder().method(method).uri(path).header("host", host);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        added.iter().fold(request, |request, header| request.header(header.name(), header.value()))
    }
}

async fn node() -> (Node, String) {
    let node = Node::new().await;
    node.function("f").await;
    let path = "/2021-10-31/functions/f/url";
    let made = node.call("POST", path, json!({ "AuthType": "AWS_IAM" }).to_string()).await.ok(201);
    let url: axum::http::Uri = made["FunctionUrl"].as_str().unwrap().parse().unwrap();
    let host = url.authority().unwrap().to_string();
    (node, host)
}

#[tokio::test]
async fn who_signs_gets_through_and_is_named() {
    let (node, host) = node().await;
    let in_query = Signer { location: SignatureLocation::QueryParams, ..GOOD };
    for signer in [GOOD, in_query] {
        let request = signer.request(&host, "/a%20b/c?x=y", "{}");
        let event = node.send(request.body("{}".into()).unwrap()).await.ok(200);
        let context = &event["requestContext"];
        assert_eq!((&event["rawPath"], &context["accountId"]), (&json!("/a%20b/c"), &json!("000000000000")));
        assert_eq!(context["authorizer"]["iam"]["accessKey"], KEY);
    }
}

/// Unsigned requests are taken by this node's API, and not by this URL.
#[tokio::test]
async fn nobody_else_does() {
    let (node, host) = node().await;
    let signed = |signer: &Signer| signer.request(&host, "/", "{}");
    let other_host = GOOD.request("node:9000", "/", "{}").body(Body::from("{}")).unwrap();
    let (mut moved, _) = other_host.into_parts();
    moved.headers.insert("host", host.parse().unwrap());
    for (what, request) in [
        (
            "unsigned",
            Request::builder().method("POST").uri("/").header("host", &host).body("{}".into()).unwrap(),
        ),
        ("another secret", signed(&Signer { secret: "other", ..GOOD }).body("{}".into()).unwrap()),
        ("another region", signed(&Signer { region: "eu-west-1", ..GOOD }).body("{}".into()).unwrap()),
        ("another service", signed(&Signer { service: "s3", ..GOOD }).body("{}".into()).unwrap()),
        ("another body", signed(&GOOD).body("{ }".into()).unwrap()),
        ("another path", signed(&GOOD).uri("/other").body("{}".into()).unwrap()),
        ("another method", signed(&GOOD).method("PUT").body("{}".into()).unwrap()),
        ("another host", Request::from_parts(moved, Body::from("{}"))),
    ] {
        let got = node.send(request).await;
        assert_eq!((got.status.as_u16(), got.json()), (403, json!({ "Message": "Forbidden" })), "{what}");
    }
    assert!(node.invoker.seen.lock().unwrap().is_empty());
    let path = "/2021-10-31/functions/f/url";
    node.put(path, &json!({ "AuthType": "NONE" })).await.ok(200);
    node.open("f", "").await;
    node.send(signed(&Signer { secret: "other", ..GOOD }).body("{}".into()).unwrap()).await.ok(200);
}
