//! Tests of signatures: AWS's published example, what is refused and how, and an independent signer as an oracle.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use axum::http::Request;
use proptest::prelude::*;

use super::*;
use crate::identity::tests::none;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn authenticator(mode: AuthMode) -> Authenticator {
    let key = Key { access_key_id: KEY.into(), secret_access_key: SECRET.to_owned().into() };
    Authenticator { keys: vec![key], access_keys: none(), mode, region: "us-east-1".into() }
}

fn at(date: &str) -> DateTime<Utc> {
    NaiveDateTime::parse_from_str(date, DATE_FORMAT).unwrap().and_utc()
}

/// A request as the independent signer sends it.
struct Sent {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether the body is what stands for a payload that comes otherwise.
    is_precomputed: bool,
}

impl Sent {
    fn new(method: &str, path: &str, body: &[u8]) -> Self {
        let headers = vec![("host".into(), "127.0.0.1:9000".into())];
        let uri = format!("http://127.0.0.1:9000{path}");
        Self { method: method.into(), uri, headers, body: body.into(), is_precomputed: false }
    }

    fn signed(self, when: DateTime<Utc>, key: &str, secret: &str, region: &str, in_query: bool) -> Self {
        self.signed_for("lambda", when, (key, secret), region, in_query)
    }

    fn signed_for(
        mut self,
        service: &str,
        when: DateTime<Utc>,
        (key, secret): (&str, &str),
        region: &str,
        in_query: bool,
    ) -> Self {
        let identity = Credentials::new(key, secret, None, None, "test").into();
        let mut settings = SigningSettings::default();
        if in_query {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(Duration::from_secs(900));
        }
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(SystemTime::from(when))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let body = match std::str::from_utf8(&self.body) {
            Ok(text) if self.is_precomputed => SignableBody::Precomputed(text.into()),
            _ => SignableBody::Bytes(&self.body),
        };
        let request = SignableRequest::new(&self.method, &self.uri, headers, body).unwrap();
        let (instructions, _) = sign(request, &params).unwrap().into_parts();
        let (added, query) = instructions.into_parts();
        for header in added {
            self.headers.push((header.name().into(), header.value().into()));
        }
        for (name, value) in query {
            let value = utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC).to_string();
            self.uri += &format!("{}{name}={value}", if self.uri.contains('?') { "&" } else { "?" });
        }
        self
    }

    fn parts(&self) -> Parts {
        let mut request = Request::builder().method(self.method.as_str()).uri(&self.uri);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The region that the request is accepted for, or the error's name.
    fn judged(&self, mode: AuthMode, now: DateTime<Utc>) -> Result<String, &'static str> {
        let claim = authenticator(mode).identify(&self.parts(), now).map_err(|error| error.name())?;
        read(&claim, &self.parts().headers, &[&self.body]).map_err(|error| error.name())?;
        Ok(claim.region)
    }
}

/// Reads and verifies a body that arrives in these pieces; its decoded bytes.
fn read(claim: &Claim, headers: &HeaderMap, pieces: &[&[u8]]) -> Result<Vec<u8>, ApiError> {
    let mut payload = claim.payload(headers)?;
    let mut body = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(data) = payload.next(&mut rest)? {
            body.extend_from_slice(data);
        }
    }
    claim.verify(&payload.finish()?).map(|()| body)
}

mod streaming;
mod suite;

use percent_encoding::utf8_percent_encode;

const NOW: &str = "20261123T120000Z";

fn good() -> Sent {
    Sent::new("POST", "/2015-03-31/functions", b"{}").signed(at(NOW), KEY, SECRET, "eu-west-1", false)
}

/// The signing key of AWS's documentation ("Deriving the signing key"): secret, 20150830, us-east-1, iam.
#[test]
fn the_signing_key_is_the_published_one() {
    let credential = Credential::parse(&format!("{KEY}/20150830/us-east-1/iam/aws4_request")).unwrap();
    let key = hex(credential.signing_key(SECRET).expose());
    assert_eq!(key, "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
}

/// The example request of AWS's documentation: ListUsers of IAM, canonical request hash and all.
#[test]
fn the_canonical_request_is_the_published_one() {
    let parts = Request::builder()
        .uri("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08")
        .header("host", "iam.amazonaws.com")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .header("x-amz-date", "20150830T123600Z")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let fields = Fields {
        signed_headers: ["content-type", "host", "x-amz-date"].map(String::from).into(),
        ..Fields::default()
    };
    let canonical = format!("{}\n{}", canonical::head(&parts, &fields).unwrap(), hex(&Sha256::digest(b"")));
    assert_eq!(
        hex(&Sha256::digest(canonical)),
        "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    );
}

#[test]
fn a_good_signature_is_taken_for_its_region() {
    assert_eq!(good().judged(AuthMode::Required, at(NOW)), Ok("eu-west-1".into()));
    assert_eq!(good().judged(AuthMode::Optional, at(NOW)), Ok("eu-west-1".into()));
}

#[test]
fn a_request_is_for_the_service_that_it_is_signed_for() {
    let asked = |path: &str, target: Option<&str>, service: &str| {
        let mut sent = Sent::new("POST", path, b"{}");
        sent.headers.extend(target.map(|target| ("x-amz-target".to_owned(), target.to_owned())));
        let sent = sent.signed_for(service, at(NOW), (KEY, SECRET), "eu-west-1", false);
        sent.judged(AuthMode::Required, at(NOW))
    };
    let target = Some("Logs_20140328.FilterLogEvents");
    assert_eq!(asked("/", target, "logs"), Ok("eu-west-1".into()));
    for (path, target, service) in [
        ("/", target, "lambda"),
        ("/", Some("Other_1.X"), "logs"),
        ("/", None, "logs"),
        ("/2015-03-31/functions", target, "logs"),
    ] {
        assert_eq!(
            asked(path, target, service),
            Err("InvalidSignatureException"),
            "{path} {target:?} {service}"
        );
    }
    // Somebody on the way puts the target in.
    let mut sent =
        Sent::new("POST", "/", b"{}").signed_for("logs", at(NOW), (KEY, SECRET), "eu-west-1", false);
    sent.headers.push(("x-amz-target".into(), "Logs_20140328.DeleteLogGroup".into()));
    assert_eq!(sent.judged(AuthMode::Required, at(NOW)), Err("IncompleteSignatureException"));
}

#[test]
fn a_changed_request_is_refused() {
    let change = |change: fn(&mut Sent)| {
        let mut sent = good();
        change(&mut sent);
        sent.judged(AuthMode::Required, at(NOW)).unwrap_err()
    };
    assert_eq!(change(|sent| sent.body = b"{ }".into()), "InvalidSignatureException");
    assert_eq!(change(|sent| sent.method = "PUT".into()), "InvalidSignatureException");
    assert_eq!(change(|sent| sent.uri += "?x=1"), "InvalidSignatureException");
    assert_eq!(change(|sent| sent.headers[0].1 = "other".into()), "InvalidSignatureException");
    let other = Sent::new("GET", "/", b"").signed(at(NOW), KEY, "other secret", "us-east-1", false);
    assert_eq!(other.judged(AuthMode::Required, at(NOW)), Err("InvalidSignatureException"));
    assert_eq!(other.judged(AuthMode::Optional, at(NOW)), Err("InvalidSignatureException"));
}

#[test]
fn strangers_and_the_unsigned_are_refused_unless_auth_is_optional() {
    let stranger = Sent::new("GET", "/", b"").signed(at(NOW), "AKIDOTHER", SECRET, "eu-west-3", false);
    assert_eq!(stranger.judged(AuthMode::Required, at(NOW)), Err("UnrecognizedClientException"));
    assert_eq!(stranger.judged(AuthMode::Optional, at(NOW)), Ok("eu-west-3".into()));
    let unsigned = Sent::new("GET", "/", b"");
    assert_eq!(unsigned.judged(AuthMode::Required, at(NOW)), Err("MissingAuthenticationTokenException"));
    assert_eq!(unsigned.judged(AuthMode::Optional, at(NOW)), Ok("us-east-1".into()));
}

#[test]
fn a_signature_is_good_for_five_minutes_either_way() {
    for (now, taken) in [
        ("20261123T120500Z", true),
        ("20261123T120501Z", false),
        ("20261123T115500Z", true),
        ("20261123T115459Z", false),
        ("20271123T120000Z", false),
    ] {
        let judged = good().judged(AuthMode::Required, at(now));
        assert_eq!(judged.is_ok(), taken, "{now}");
        assert!(taken || judged == Err("InvalidSignatureException"));
    }
    let said = |now: &str| {
        let parts = good().parts();
        authenticator(AuthMode::Required).identify(&parts, at(now)).unwrap_err().message().to_owned()
    };
    assert_eq!(
        said("20261123T121500Z"),
        "Signature expired: 20261123T120000Z is now earlier than 20261123T121000Z (20261123T121500Z - 5 min.)"
    );
    assert_eq!(
        said("20261123T114500Z"),
        "Signature not yet current: 20261123T120000Z is still later than 20261123T115000Z (20261123T114500Z + 5 min.)"
    );
}

/// A node gives no temporary credentials.
#[test]
fn the_token_of_a_session_is_refused() {
    for in_query in [false, true] {
        let mut sent = Sent::new("GET", "/", b"");
        if in_query {
            sent.uri += "?X-Amz-Security-Token=token";
        } else {
            sent.headers.push((SECURITY_TOKEN.into(), "token".into()));
        }
        let sent = sent.signed(at(NOW), KEY, SECRET, "us-east-1", in_query);
        assert_eq!(sent.judged(AuthMode::Required, at(NOW)), Err("UnrecognizedClientException"));
        assert_eq!(sent.judged(AuthMode::Optional, at(NOW)), Err("UnrecognizedClientException"));
    }
}

/// With `Date` the same is signed as with `X-Amz-Date`, and both are said to be missing.
#[test]
fn a_request_is_dated_by_either_header() {
    let credential = Credential::parse(&format!("{KEY}/20261123/eu-west-1/lambda/aws4_request")).unwrap();
    let judged = |dates: &[(&str, &str)], signs: &str| {
        let mut sent = Sent::new("GET", "/2015-03-31/functions", b"");
        let dates = dates.iter().map(|(name, date)| ((*name).to_owned(), (*date).to_owned()));
        sent.headers.extend(dates);
        let fields =
            Fields { signed_headers: signs.split(';').map(String::from).collect(), ..Fields::default() };
        let request =
            format!("{}\n{}", canonical::head(&sent.parts(), &fields).unwrap(), hex(&Sha256::digest(b"")));
        let text = format!("{ALGORITHM}\n{NOW}\n{}\n{}", credential.scope(), hex(&Sha256::digest(request)));
        let key = credential.signing_key(SECRET);
        let signature = hex(&mac(key.expose()).chain_update(text).finalize().into_bytes());
        let line = format!(
            "{ALGORITHM} Credential={KEY}/{}, SignedHeaders={signs}, Signature={signature}",
            credential.scope()
        );
        sent.headers.push(("authorization".into(), line));
        sent.judged(AuthMode::Required, at(NOW))
    };
    const SIGNED: &str = "date;host";
    let of_http = "Mon, 23 Nov 2026 12:00:00 GMT";
    for date in [NOW, of_http] {
        assert_eq!(judged(&[("date", date)], SIGNED), Ok("eu-west-1".into()), "{date}");
    }
    // It is in what is signed beside the headers, as `X-Amz-Date` is.
    assert_eq!(judged(&[("date", of_http)], "host"), Ok("eu-west-1".into()));
    let (late, wrong) = ("Mon, 23 Nov 2026 12:00:01 GMT", Err("InvalidSignatureException"));
    assert_eq!(judged(&[("date", late)], "host"), wrong);
    assert_eq!(judged(&[("date", "Mon, 23 Nov 2026 12:06:00 GMT")], SIGNED), wrong, "it is not yet then");
    assert_eq!(judged(&[("date", "Tue, 24 Nov 2026 12:00:00 GMT")], SIGNED), wrong, "the scope's day");
    // The other one comes first.
    assert_eq!(judged(&[("date", late), ("x-amz-date", NOW)], "host"), Ok("eu-west-1".into()));
    assert_eq!(judged(&[("date", NOW), ("x-amz-date", "20261123T120001Z")], "host"), wrong);
    let incomplete = Err("IncompleteSignatureException");
    assert_eq!(judged(&[("date", "now")], SIGNED), incomplete);
    assert_eq!(judged(&[], "host"), incomplete);
    let sent = good();
    let rest = sent.headers.into_iter().filter(|(name, _)| name != "x-amz-date").collect();
    let refused =
        Fields::of(&Sent { headers: rest, ..Sent::new("POST", "/2015-03-31/functions", b"{}") }.parts());
    let said = format!("{:?}", refused.map(|_| ()).unwrap_err());
    assert!(said.contains("requires existence of either a 'X-Amz-Date' or a 'Date' header."), "{said}");
}

#[test]
fn a_presigned_url_lives_for_a_week_at_most() {
    let presigned = |expires: &str| {
        let sent = Sent::new("GET", "/", b"").signed(at(NOW), KEY, SECRET, "us-east-1", true);
        let uri = sent.uri.replace("X-Amz-Expires=900", &format!("X-Amz-Expires={expires}"));
        Sent { uri, ..sent }.judged(AuthMode::Required, at(NOW))
    };
    for wrong in ["0", "-1", "604801", "x", "99999999999999999999"] {
        assert_eq!(presigned(wrong), Err("IncompleteSignatureException"), "{wrong}");
    }
    assert_eq!(presigned("604800"), Err("InvalidSignatureException"), "the signature is over it");
}

#[test]
fn authorization_headers_that_make_no_sense_are_refused() {
    let good = good();
    let value = &good.headers.iter().find(|(name, _)| name == "authorization").unwrap().1;
    for (broken, error) in [
        ("x".to_owned(), "IncompleteSignatureException"),
        (String::new(), "IncompleteSignatureException"),
        ("Bearer abc".to_owned(), "IncompleteSignatureException"),
        (value.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-MD5"), "IncompleteSignatureException"),
        (value.replace("Signature=", "Sig="), "IncompleteSignatureException"),
        (value.replace("/lambda/", "/s3/"), "InvalidSignatureException"),
        (value.replace("/aws4_request", "/aws3_request"), "InvalidSignatureException"),
        (value.replace("20261123/", "20261122/"), "InvalidSignatureException"),
        (value.replace("/eu-west-1/", "/../"), "InvalidSignatureException"),
        (value.replace("host;", ""), "IncompleteSignatureException"),
        (value.replace("host;", "host;x-not-there;"), "InvalidSignatureException"),
        (format!("{value}00"), "InvalidSignatureException"),
    ] {
        let mut sent = Sent::new("POST", "/2015-03-31/functions", b"{}");
        sent.headers.extend(good.headers.iter().filter(|(name, _)| name == "x-amz-date").cloned());
        sent.headers.push(("authorization".into(), broken.clone()));
        assert_eq!(sent.judged(AuthMode::Required, at(NOW)), Err(error), "{broken}");
    }
}

#[test]
fn a_declared_payload_must_be_the_body_or_unsigned() {
    let with = |declared: &str, body: &[u8]| {
        let mut sent = Sent::new("POST", "/", body);
        sent.headers.push((CONTENT_SHA256.into(), declared.into()));
        sent
    };
    let declared = hex(&Sha256::digest(b"x"));
    let honest = with(&declared, b"x").signed(at(NOW), KEY, SECRET, "us-east-1", false);
    assert_eq!(honest.judged(AuthMode::Required, at(NOW)), Ok("us-east-1".into()));
    let mut swapped = honest;
    swapped.body = b"y".into();
    assert_eq!(swapped.judged(AuthMode::Required, at(NOW)), Err("InvalidSignatureException"));
}

#[test]
fn a_presigned_url_is_good_until_it_expires() {
    let sent = || {
        Sent::new("GET", "/2015-03-31/functions?MaxItems=1", b"").signed(
            at(NOW),
            KEY,
            SECRET,
            "us-east-1",
            true,
        )
    };
    assert_eq!(sent().judged(AuthMode::Required, at("20261123T121459Z")), Ok("us-east-1".into()));
    assert_eq!(sent().judged(AuthMode::Required, at("20261123T121501Z")), Err("InvalidSignatureException"));
    let mut changed = sent();
    changed.uri = changed.uri.replace("MaxItems=1", "MaxItems=2");
    assert_eq!(changed.judged(AuthMode::Required, at(NOW)), Err("InvalidSignatureException"));
}

/// What is promised of a request that somebody overheard: while its time lasts it is taken as often as it comes, as by AWS, and
/// only it is: whatever the signature covers cannot be another, and that is all but headers that are not named.
#[test]
fn a_request_may_be_sent_again_while_its_time_lasts_and_nothing_else_with_its_signature() {
    let late = at(NOW) + MAX_SKEW;
    for now in [at(NOW), at(NOW), late] {
        assert_eq!(good().judged(AuthMode::Required, now), Ok("eu-west-1".into()));
    }
    let second = TimeDelta::seconds(1);
    assert_eq!(good().judged(AuthMode::Required, late + second), Err("InvalidSignatureException"));
    type Change = fn(&mut Sent);
    let header = |sent: &mut Sent, name: &str, value: &str| {
        let old = sent.headers.iter_mut().find(|(given, _)| given == name).unwrap();
        value.clone_into(&mut old.1);
    };
    let changes: [(&str, Change); 9] = [
        ("method", |sent| sent.method = "PUT".into()),
        ("path", |sent| sent.uri += "/other"),
        ("query", |sent| sent.uri += "?Qualifier=2"),
        ("body", |sent| sent.body = b"{ }".into()),
        ("host", |sent| sent.headers[0].1 = "127.0.0.1:9001".into()),
        ("an older time", |sent| retimed(sent, "20261123T115959Z")),
        ("a newer time", |sent| retimed(sent, "20261123T120001Z")),
        ("region", |sent| reauthorized(sent, "eu-west-1", "eu-west-2")),
        ("service", |sent| reauthorized(sent, "/lambda/", "/iam/")),
    ];
    for (what, change) in changes {
        let mut sent = good();
        change(&mut sent);
        let judged = sent.judged(AuthMode::Required, at(NOW));
        assert!(judged.is_err(), "another {what} is taken: {judged:?}");
        assert_eq!(sent.judged(AuthMode::Optional, at(NOW)), judged, "{what}");
    }
    let mut more = good();
    more.headers.push(("x-unsigned".into(), "a".into()));
    assert_eq!(more.judged(AuthMode::Required, at(NOW)), Ok("eu-west-1".into()));
    header(&mut more, "x-unsigned", "b");
    assert_eq!(more.judged(AuthMode::Required, at(NOW)), Ok("eu-west-1".into()));
}

fn retimed(sent: &mut Sent, date: &str) {
    let time = sent.headers.iter_mut().find(|(name, _)| name == "x-amz-date").unwrap();
    date.clone_into(&mut time.1);
}

fn reauthorized(sent: &mut Sent, old: &str, new: &str) {
    let line = sent.headers.iter_mut().find(|(name, _)| name == "authorization").unwrap();
    line.1 = line.1.replace(old, new);
}

proptest! {
    /// What the independent signer signs is taken, however odd path, query, headers and body are; with one byte of
    /// the body changed it is not.
    #[test]
    fn the_oracle_agrees(
        segments in prop::collection::vec("[a-zA-Z0-9:$_.~-]{1,12}", 1..5),
        query in prop::collection::vec(("[a-zA-Z]{1,6}", "[ -~]{0,12}"), 0..4),
        headers in prop::collection::vec(("x-amz-[a-f]{1,6}", "[!-~]{1,8}( {1,3}[!-~]{1,8}){0,2}"), 0..4),
        body in prop::collection::vec(any::<u8>(), 1..200),
        in_query: bool,
    ) {
        let encode = |text: &str| utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let path: Vec<_> = segments.iter().map(|segment| encode(segment)).collect();
        let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mut uri = format!("/{}", path.join("/"));
        if !query.is_empty() {
            uri += &format!("?{}", query.join("&"));
        }
        let mut sent = Sent::new("POST", &uri, &body);
        sent.headers.extend(headers.iter().cloned());
        sent.headers.dedup_by(|a, b| a.0 == b.0);
        let mut sent = sent.signed(at(NOW), KEY, SECRET, "us-east-1", in_query);
        prop_assert_eq!(sent.judged(AuthMode::Required, at(NOW)), Ok("us-east-1".to_owned()));
        sent.body[0] ^= 1;
        prop_assert_eq!(sent.judged(AuthMode::Required, at(NOW)), Err("InvalidSignatureException"));
    }
}
