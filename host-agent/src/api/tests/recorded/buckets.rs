//! As `scripts`, of code that lies in a bucket, here a directory of the node's.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const INVOKED: &str = "test_lambda.snapshot.json";
const BUCKET: &str = "recorded";

/// A node with the runtime of the recordings and a bucket, in which there are these objects.
async fn node(objects: &[(&str, &[u8])]) -> Node {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("runtimes")).unwrap();
    std::fs::write(dir.path().join("runtimes/python3.12.pack"), "").unwrap();
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    for (key, object) in objects {
        std::fs::write(bucket.join(key), object).unwrap();
    }
    let more = format!("[[code.buckets]]\nname = '{BUCKET}'\ndirectory = '{}'\n", bucket.display());
    Node::with(dir, &more, watch::Sender::new(BEGIN_MS)).await
}

/// What makes a function of an object, of the recordings' runtime.
fn of_object(key: &str) -> Value {
    let code = json!({ "S3Bucket": BUCKET, "S3Key": key });
    with(request("f"), &[("/Runtime", json!("python3.12")), ("/Code", code)])
}

#[tokio::test]
pub(super) async fn code_comes_from_a_bucket_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaFunction::test_lambda_code_location_s3") else {
        return;
    };
    let (first, second) = (zip_of("index.py", "x = 1"), zip_of("index.py", "x = 2"));
    let node = node(&[("first.zip", &first), ("second.zip", &second)]).await;
    let function = "/2015-03-31/functions/f";
    recorded.check("create_response_s3", &node.create(&of_object("first.zip")).await);
    node.settled("f").await;
    recorded.check("get-function-response", &node.get(function).await);
    let update = json!({ "S3Bucket": BUCKET, "S3Key": "second.zip" });
    recorded.check("update-function-response", &node.put(&format!("{function}/code"), &update).await);
    recorded.check("get-function-response-updated", &node.get(function).await);
    recorded.finish();
    let test = "TestLambdaFeatures::test_upload_lambda_from_s3";
    let Some(mut recorded) = Recorded::of(INVOKED, test) else { return };
    node.delete(function).await.ok(204);
    let members = [("/Handler", json!("handler.handler")), ("/Timeout", json!(10))];
    recorded.check("creation-response", &node.create(&with(of_object("first.zip"), &members)).await);
    recorded.finish();
}

/// It says so of itself, as the recorded one did.
#[tokio::test]
pub(super) async fn a_zip_in_a_bucket_that_is_too_large_is_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaSizeLimits::test_oversized_lambda") else { return };
    let mut zip = zip_of("index.py", "x").to_vec();
    let central = zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    zip[central + 24..central + 28].copy_from_slice(&262_144_001u32.to_le_bytes());
    let node = node(&[("large.zip", &zip)]).await;
    recorded.check("invalid_param_exc", &node.create(&of_object("large.zip")).await);
    recorded.finish();
}
