//! Code from a bucket, on a booted test host whose configuration names one: a directory of its own.

use std::io::{Cursor, Write as _};

use serde_json::json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::client::tests_folder;
use crate::functions::Function;
use crate::host;
use crate::kills::{Agent, CONFIG};
use crate::sight::STATE;

const BUCKET: &str = "releases";
const KEY: &str = "hello/1.zip";

/// The function `hello` as others put it there.
fn zip() -> Vec<u8> {
    let source = std::fs::read(tests_folder().join("functions/hello/app.py")).expect("read hello");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", SimpleFileOptions::default().unix_permissions(0o644)).expect("begin a file");
    zip.write_all(&source).expect("write a file");
    zip.finish().expect("end a zip").into_inner()
}

#[test]
fn a_function_whose_code_is_in_a_bucket_is_made_and_answers() {
    let agent = Agent::alone();
    let folder = format!("{STATE}/{BUCKET}");
    let prepare = format!(
        "mkdir -p {folder}/hello && printf '\\n[[code.buckets]]\\nname = \"{BUCKET}\"\\ndirectory = \"{folder}\"\\n' >> {CONFIG}"
    );
    let prepared = host::run(&["sh", "-c", &prepare]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    host::write(&format!("{folder}/{KEY}"), &zip());
    host::run(&["chmod", "-R", "a+rX", &folder]);
    agent.kill();

    let code = |key: &str| json!({ "S3Bucket": BUCKET, "S3Key": key });
    let function = Function::python("hello").with("Code", code(KEY)).deploy(agent.client());
    assert_eq!(function.answer(json!({ "is": "well" }))["event"], json!({ "is": "well" }));
    for (bucket, key, says) in [
        (BUCKET, "hello/2.zip", "S3 Error Code: NoSuchKey"),
        (BUCKET, "../store.redb", "S3 Error Code: NoSuchKey"),
        ("elsewhere", KEY, "S3 Error Code: NoSuchBucket"),
    ] {
        let wanted = json!({ "S3Bucket": bucket, "S3Key": key });
        let error = function.call("update_function_code", wanted).expect_err("there is none");
        assert_eq!((error.status, error.code.as_str()), (400, "InvalidParameterValueException"));
        assert!(error.message.contains(says), "{bucket} {key}: {error:?}");
    }
    drop(function);
    host::run(&["rm", "-rf", &folder]);
    drop(agent);
}
