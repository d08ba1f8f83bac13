//! Code that lies in a bucket: a directory's or a service's, which is this process and does as its objects are called.

use std::{convert::Infallible, os::unix::fs::symlink};

use axum::{
    extract::{Request as Asked, State},
    http::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;

use super::{
    keys::{Held, allow, is_denied},
    *,
};
use crate::{
    code::{MAX_ZIP_LEN, buckets::FETCH_TIMEOUT},
    server::{Bounds, Entrance, serve},
};

const FUNCTIONS: &str = "/2015-03-31/functions";
const NO_KEY: &str = "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.";
const NO_VERSION: &str = "Error occurred while GetObject. S3 Error Code: NoSuchVersion. S3 Error Message: The specified version does not exist.";
const NO_BUCKET: &str = "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist";
const UNAVAILABLE: &str = "The code's bucket cannot be read now. The node's log has the details.";

/// What the service was asked for.
type Seen = Arc<Mutex<Vec<String>>>;

async fn answer(State(seen): State<Seen>, request: Asked) -> Response {
    let path = request.uri().to_string();
    seen.lock().unwrap().push(path.clone());
    let signed = request.headers()["authorization"].to_str().unwrap();
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{signed}");
    let error = |status: u16, code: &str| {
        (StatusCode::from_u16(status).unwrap(), format!("<Error><Code>{code}</Code></Error>")).into_response()
    };
    let object = |len: u64, body: Body| {
        let headers = [
            (CONTENT_LENGTH, len.to_string()),
            (ETAG, "\"1\"".into()),
            (LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT".into()),
        ];
        (headers, body).into_response()
    };
    let whole = |content: &str| {
        let zip = zip_of("index.py", content);
        object(zip.len() as u64, zip.into())
    };
    let pieces = || stream::repeat(Ok::<_, Infallible>(Bytes::from(vec![0; 64 * 1024])));
    match path.as_str() {
        "/far/apps/v1/my%20app.zip" => whole("x = 1"),
        "/far/apps/v1/my%20app.zip?versionId=second" => whole("x = 2"),
        path if path.ends_with("?versionId=none") => error(404, "NoSuchVersion"),
        path if path.contains("?versionId=") => error(400, "InvalidArgument"),
        "/far/apps/elsewhere.zip" => error(404, "NoSuchBucket"),
        "/far/apps/theirs.zip" => error(403, "AccessDenied"),
        "/far/apps/broken.zip" => error(500, "InternalError"),
        "/far/apps/large.zip" => object(MAX_ZIP_LEN + 1, Body::from_stream(pieces())),
        "/far/apps/endless.zip" => Body::from_stream(pieces()).into_response(),
        "/far/apps/cut.zip" => object(1000, Body::from_stream(stream::iter([Ok::<_, Infallible>("PK")]))),
        "/far/apps/slow.zip" => object(
            1000,
            Body::from_stream(stream::iter([Ok::<_, Infallible>("PK")]).chain(stream::pending())),
        ),
        _ => error(404, "NoSuchKey"),
    }
}

/// A node with the buckets `near`, a folder with `app.zip` in it, and `far-away`, of a service.
async fn start() -> (Node, Seen) {
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
    tokio::spawn(serve(Entrance { listener, tls: None }, router, Bounds::NODE, std::future::pending()));
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "[[code.buckets]]\nname = 'near'\ndirectory = '{}'\n[[code.buckets]]\nname = 'far-away'\n[code.buckets.service]\n\
         endpoint = 'http://{address}'\nallow_http = true\nbucket = 'far'\nprefix = 'apps'\nregion = 'us-east-1'\n\
         access_key_id = 'AKID'\nsecret_access_key = 's'\n",
        dir.path().join("near").display()
    );
    let node = Node::with(dir, &more, watch::Sender::new(BEGIN_MS)).await;
    let folder = node.dir.path().join("near/v1");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("my app.zip"), zip_of("index.py", "x = 1")).unwrap();
    (node, seen)
}

fn object(bucket: &str, key: &str) -> Value {
    json!({ "S3Bucket": bucket, "S3Key": key })
}

impl Node {
    async fn create_of(&self, name: &str, code: Value) -> Got {
        self.create(&with(request(name), &[("/Code", code)])).await
    }

    /// Checks that code in a bucket is refused, and that nothing of it stays.
    async fn has_no_code(&self, code: &Value, (status, name, message): (u16, &str, &str)) {
        self.create_of("none", code.clone()).await.is_error(status, name, message);
        self.get(&format!("{FUNCTIONS}/none")).await.ok(404);
        let layer = json!({ "Content": code });
        self.call("POST", "/2018-10-31/layers/l/versions", layer.to_string())
            .await
            .is_error(status, name, message);
        self.has_all_memory();
    }

    fn has_all_memory(&self) {
        assert_eq!(self.body_budget.available_permits(), gate::BODY_BUDGET_KIB);
    }
}

#[tokio::test]
async fn code_in_a_bucket_is_what_the_same_zip_in_a_request_is() {
    let (node, seen) = start().await;
    let given = node.function("given").await;
    for (name, bucket) in [("of-near", "near"), ("of-far", "far-away")] {
        let made = node.create_of(name, object(bucket, "v1/my app.zip")).await.ok(201);
        assert_eq!((&made["CodeSha256"], &made["CodeSize"]), (&given["CodeSha256"], &given["CodeSize"]));
        node.settled(name).await;
        let got = node.get(&format!("{FUNCTIONS}/{name}")).await.ok(200);
        assert_eq!(got["Code"]["RepositoryType"], "S3");
        let location = got["Code"]["Location"].as_str().unwrap().split_once(":9000").unwrap().1;
        assert_eq!(node.get(location).await.body, zip_of("index.py", "x = 1"));
    }
    assert_eq!(*seen.lock().unwrap(), ["/far/apps/v1/my%20app.zip"]);

    // Another version of the object: looked at, then taken.
    let code = format!("{FUNCTIONS}/of-far/code");
    let mut second = object("far-away", "v1/my app.zip");
    second["S3ObjectVersion"] = json!("second");
    let dry = node.put(&code, &with(second.clone(), &[("/DryRun", json!(true))])).await.ok(200);
    assert_ne!(dry["CodeSha256"], given["CodeSha256"]);
    assert_eq!(node.settled("of-far").await["CodeSha256"], given["CodeSha256"]);
    let updated = node.put(&code, &second).await.ok(200);
    assert_eq!(updated["CodeSha256"], dry["CodeSha256"]);

    let layer =
        json!({ "Content": with(object("near", "v1/my app.zip"), &[("/S3ObjectVersion", json!("null"))]) });
    let layer = node.call("POST", "/2018-10-31/layers/l/versions", layer.to_string()).await.ok(201);
    assert_eq!(layer["Content"]["CodeSha256"], given["CodeSha256"]);
    node.has_all_memory();
}

#[tokio::test]
async fn what_is_not_to_be_had_is_said_in_the_words_of_aws() {
    let (node, _) = start().await;
    std::fs::write(node.dir.path().join("near/no.zip"), "no zip").unwrap();
    let denied = "Your access has been denied by S3, please make sure your request credentials have permission to GetObject for \
                  far-away/theirs.zip. S3 Error Code: AccessDenied. S3 Error Message: Access Denied";
    let no_zip = "Could not unzip uploaded file. Please check your file, then try to upload again.";
    let version = |bucket: &str, version: &str| {
        with(object(bucket, "v1/my app.zip"), &[("/S3ObjectVersion", json!(version))])
    };
    let invalid = |message: &'static str| (400, "InvalidParameterValueException", message);
    let unavailable = (503, "ServiceUnavailableException", UNAVAILABLE);
    for (code, said) in [
        (object("nobodys", "v1/my app.zip"), invalid(NO_BUCKET)),
        (object("near", "v2/my app.zip"), invalid(NO_KEY)),
        (object("near", "no.zip"), invalid(no_zip)),
        (version("near", "second"), invalid(NO_VERSION)),
        (object("far-away", "none.zip"), invalid(NO_KEY)),
        (object("far-away", "elsewhere.zip"), invalid(NO_BUCKET)),
        (version("far-away", "none"), invalid(NO_VERSION)),
        (version("far-away", "no version"), invalid(NO_VERSION)),
        (object("far-away", "theirs.zip"), (403, "AccessDeniedException", denied)),
        (object("far-away", "broken.zip"), unavailable),
        (object("far-away", "cut.zip"), unavailable),
        (json!({ "S3Bucket": "near" }), invalid("Please provide a source for function code.")),
        (
            with(object("near", "v1/my app.zip"), &[("/S3ObjectStorageMode", json!("REFERENCE"))]),
            invalid("S3ObjectStorageMode REFERENCE is not supported by this Tinderbox node."),
        ),
        (
            with(object("near", "v1/my app.zip"), &[("/ZipFile", json!(zip_base64("x = 1")))]),
            invalid("Please do not provide other FunctionCode parameters when providing a ZipFile."),
        ),
    ] {
        node.has_no_code(&code, said).await;
    }
}

#[tokio::test]
async fn an_object_is_read_as_far_as_a_zip_may_be_long() {
    let (node, _) = start().await;
    let file = std::fs::File::create(node.dir.path().join("near/large.zip")).unwrap();
    file.set_len(MAX_ZIP_LEN + 1).unwrap();
    let large = "Code in a bucket must not be larger than 52428800 bytes on this Tinderbox node.";
    let said = (400, "InvalidParameterValueException", large);
    for bucket in ["near", "far-away"] {
        node.has_no_code(&object(bucket, "large.zip"), said).await;
    }
    // One that does not say how long it is is not begun.
    let said = (503, "ServiceUnavailableException", UNAVAILABLE);
    node.has_no_code(&object("far-away", "endless.zip"), said).await;
    // As long as may be, and read to its end.
    file.set_len(MAX_ZIP_LEN).unwrap();
    let no_zip = "Could not unzip uploaded file. Please check your file, then try to upload again.";
    node.has_no_code(&object("near", "large.zip"), (400, "InvalidParameterValueException", no_zip)).await;
}

#[tokio::test]
async fn a_bucket_that_hangs_ends_in_time_and_holds_up_no_other() {
    let (node, seen) = start().await;
    let slow = || node.create_of("slow", object("far-away", "slow.zip"));
    let begun = tokio::time::Instant::now();
    let beside = async {
        while seen.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        // The third and the fourth of them wait for their turn, and this one does not.
        node.create_of("f", object("near", "v1/my app.zip")).await.ok(201);
        node.settled("f").await;
        assert_eq!(seen.lock().unwrap().len(), 2);
        tokio::time::pause();
    };
    let (one, two, three, four, ()) = tokio::join!(slow(), slow(), slow(), slow(), beside);
    for late in [one, two, three, four] {
        late.is_error(503, "ServiceUnavailableException", UNAVAILABLE);
    }
    assert!(begun.elapsed() < FETCH_TIMEOUT * 2);
    node.has_all_memory();
}

#[tokio::test]
async fn no_key_leads_out_of_its_bucket() {
    let (node, seen) = start().await;
    let dir = node.dir.path();
    let zip = zip_of("index.py", "secret = 1");
    std::fs::write(dir.join("theirs.zip"), &zip).unwrap();
    symlink(dir.join("theirs.zip"), dir.join("near/link.zip")).unwrap();
    symlink(dir, dir.join("near/up")).unwrap();
    nix::unistd::mkfifo(&dir.join("near/pipe.zip"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let absolute = dir.join("theirs.zip").display().to_string();
    let long = "a".repeat(300);
    for key in [
        "../theirs.zip",
        "v1/../../theirs.zip",
        "v1/./my app.zip",
        "/v1/my app.zip",
        "v1//my app.zip",
        "v1/my app.zip/",
        "v1",
        "v1/",
        ".",
        "..",
        "/",
        "v1/my app.zip\0",
        "v1\0/my app.zip",
        "%2e%2e/theirs.zip",
        "..\\theirs.zip",
        "link.zip",
        "up/theirs.zip",
        "pipe.zip",
        &absolute,
        &long,
    ] {
        let refused = node.create_of("f", object("near", key)).await;
        refused.is_error(400, "InvalidParameterValueException", NO_KEY);
        let refused = node.create_of("f", object("far-away", key)).await;
        refused.is_error(400, "InvalidParameterValueException", NO_KEY);
    }
    // What the service is asked for is below the prefix, and the key, all of it.
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|path| path.starts_with("/far/apps/") && !path.contains("..\\")), "{seen:?}");
    assert!(!seen.iter().any(|path| path.contains("my%20app.zip") && !path.contains("%00")), "{seen:?}");
    assert!(seen.contains(&"/far/apps/%252e%252e/theirs.zip".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn who_may_not_read_an_object_may_not_have_it_run() {
    let (node, _) = start().await;
    let statements = json!([
        allow("lambda:*", "*"),
        allow("s3:GetObject", "arn:aws:s3:::near/v1/*"),
        { "Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::near/v1/secret*" },
    ]);
    let key = Held::make(&node, statements).await;
    let create = async |code: Value| {
        let body = with(request("f"), &[("/Code", code)]).to_string();
        key.call(&node, "POST", FUNCTIONS, &body).await
    };
    let theirs = "arn:aws:s3:::far-away/v1/my app.zip";
    is_denied(&create(object("far-away", "v1/my app.zip")).await, "s3:GetObject", theirs);
    // Nor does it learn which buckets and objects there are.
    is_denied(&create(object("nobodys", "k")).await, "s3:GetObject", "arn:aws:s3:::nobodys/k");
    is_denied(&create(object("near", "v2/../v1/x")).await, "s3:GetObject", "arn:aws:s3:::near/v2/../v1/x");
    assert_eq!(create(object("near", "v1/secret.zip")).await.status, 403);
    create(object("near", "v1/my app.zip")).await.ok(201);
    node.settled("f").await;
    let second = with(object("near", "v1/my app.zip"), &[("/S3ObjectVersion", json!("null"))]);
    let versioned = "arn:aws:s3:::near/v1/my app.zip";
    for (method, path, body) in [
        ("PUT", format!("{FUNCTIONS}/f/code"), second.clone()),
        ("PUT", format!("{FUNCTIONS}/f/code"), with(second.clone(), &[("/DryRun", json!(true))])),
        ("POST", "/2018-10-31/layers/l/versions".into(), json!({ "Content": second })),
    ] {
        let got = key.call(&node, method, &path, &body.to_string()).await;
        is_denied(&got, "s3:GetObjectVersion", versioned);
    }
    key.call(&node, "PUT", &format!("{FUNCTIONS}/f/code"), &object("near", "v1/my app.zip").to_string())
        .await
        .ok(200);
}
