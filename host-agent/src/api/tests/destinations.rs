//! Buckets and webhooks as destinations: who may name them, what they are told, and that none of it is lost or in others' way.

use std::{path::Path, sync::Arc};

use super::*;
use crate::events::destinations::tests::Hook;

const CONFIG: &str = "/2019-09-25/functions/f/event-invoke-config";
const BUCKET: &str = "arn:aws:s3:::failures";
const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:told";
const AWAY: &str = "arn:aws:sns:us-east-1:000000000000:away";

/// A node that knows a bucket and two webhooks, of which the second one is another server.
async fn start() -> (Node, [Arc<Hook>; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let ((told, one), (away, two)) = (Hook::start(None).await, Hook::start(None).await);
    let webhook = |topic, address| {
        format!("[[events.webhooks]]\ntopic = '{topic}'\nurl = 'http://{address}/in'\nallow_http = true\n")
    };
    let folder = dir.path().join("failures");
    let bucket = format!("[[events.buckets]]\nname = 'failures'\ndirectory = '{}'\n", folder.display());
    let more = [webhook(TOPIC, one), webhook(AWAY, two), bucket].concat();
    let node = Node::with(dir, &more, watch::Sender::new(BEGIN_MS)).await;
    node.function("f").await;
    (node, [told, away])
}

fn told(success: &str, failure: &str) -> Value {
    let destination = |arn: &str| json!({ "Destination": arn });
    json!({
        "MaximumRetryAttempts": 0,
        "DestinationConfig": { "OnSuccess": destination(success), "OnFailure": destination(failure) },
    })
}

impl Node {
    async fn accept(&self, payload: &str) -> String {
        let headers = [("x-amz-invocation-type", "Event")];
        let got = self.invoke("/2015-03-31/functions/f/invocations", &headers, payload.to_owned()).await;
        assert_eq!(got.status, 202, "{:?}", got.body);
        got.header("x-amzn-requestid").unwrap().to_owned()
    }

    /// What the node says of a destination when that is so.
    async fn lane(&self, arn: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.get("/tinderbox/events").await.ok(200);
            let lanes = said["Destinations"].as_array().unwrap();
            let lane = lanes.iter().find(|lane| lane["Destination"] == arn).unwrap();
            if is_so(lane) {
                return lane.clone();
            }
            tokio::task::yield_now().await;
        }
    }
}

/// All files below a folder.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_success_is_posted_to_a_webhook_and_a_failure_put_into_a_bucket() {
    let (node, [hook, _]) = start().await;
    let got = node.put(CONFIG, &told(TOPIC, BUCKET)).await.ok(200);
    assert_eq!(got["DestinationConfig"], told(TOPIC, BUCKET)["DestinationConfig"]);
    let request = node.accept(r#"{"a":1}"#).await;
    node.lane(TOPIC, |lane| lane["Delivered"] == 1).await;
    let (line, _, body) = hook.taken().pop().unwrap();
    let record: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(line, "POST /in");
    let context = &record["requestContext"];
    assert_eq!((&context["requestId"], &context["condition"]), (&json!(request), &json!("Success")));
    assert_eq!((&record["requestPayload"], &record["responsePayload"]), (&json!({"a":1}), &json!({"a":1})));

    let request = node.accept(r#"{"do":"fail"}"#).await;
    let lane = node.lane(BUCKET, |lane| lane["Delivered"] == 1 && lane["InFlight"] == 0).await;
    assert_eq!((&lane["Queued"], &lane["Failed"], &lane["Problem"]), (&json!(0), &json!(0), &Value::Null));
    let found = files(&node.dir.path().join("failures"));
    let [file] = &found[..] else { panic!("{found:?}") };
    let name = file.strip_prefix(node.dir.path()).unwrap().display().to_string();
    assert!(name.starts_with("failures/aws/lambda/async/f/2025/11/24/2025-11-24T16.00.00-"), "{name}");
    let record: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let context = &record["requestContext"];
    assert_eq!((&context["requestId"], &context["condition"]), (&json!(request), &json!("RetriesExhausted")));
    let said = node.get("/tinderbox/events").await.ok(200);
    assert_eq!((&said["Events"], &said["Bytes"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn what_the_configuration_does_not_name_is_refused_and_a_bucket_is_for_failures() {
    let (node, _) = start().await;
    let parameter = "InvalidParameterValueException";
    let unknown = "A destination that is no function, no queue and nothing that its configuration names is not supported by this \
                   Tinderbox node.";
    for arn in ["arn:aws:s3:::others", "arn:aws:sns:eu-west-1:000000000000:told", &format!("{TOPIC}2")] {
        node.put(CONFIG, &told("", arn)).await.is_error(400, parameter, unknown);
    }
    let misplaced = format!(
        "The provided destination config DestinationConfig(onSuccess=OnSuccess(destination={BUCKET}), \
         onFailure=OnFailure(destination={TOPIC})) is invalid."
    );
    node.put(CONFIG, &told(BUCKET, TOPIC)).await.is_error(400, parameter, &misplaced);
}

#[tokio::test]
async fn a_destination_that_is_away_holds_nobody_up_and_is_told_later_after_a_restart_too() {
    let (node, [hook, away]) = start().await;
    away.answers.lock().unwrap().extend([503, 503, 503]);
    node.put(CONFIG, &told(AWAY, TOPIC)).await.ok(200);
    let request = node.accept("1").await;
    let lane = node.lane(AWAY, |lane| lane["Failed"] == 1 && lane["InFlight"] == 0).await;
    assert_eq!((&lane["Queued"], &lane["Delivered"]), (&json!(1), &json!(0)));
    assert_eq!(lane["Problem"], "the webhook did not take a record: it answered 503 Service Unavailable");
    // It rests: a second one waits with it, and others are told meanwhile.
    let second = node.accept("2").await;
    node.lane(AWAY, |lane| lane["Queued"] == 2).await;
    node.accept(r#"{"do":"fail"}"#).await;
    node.lane(TOPIC, |lane| lane["Delivered"] == 1).await;
    assert_eq!((hook.taken().len(), away.taken().len()), (1, 1));

    let node = node.restarted().await;
    node.clock.send_modify(|now| *now += 1000);
    node.lane(AWAY, |lane| lane["Failed"] == 2 && lane["InFlight"] == 0).await;
    away.answers.lock().unwrap().clear();
    node.clock.send_modify(|now| *now += 300_000);
    node.lane(AWAY, |lane| lane["Delivered"] == 2 && lane["Queued"] == 0).await;
    let last = away.taken().into_iter().filter(|(.., body)| !body.is_empty()).map(|(_, headers, body)| {
        let record: Value = serde_json::from_slice(&body).unwrap();
        let id = headers["x-amz-sns-message-id"].to_str().unwrap().to_owned();
        (record["requestContext"]["requestId"].as_str().unwrap().to_owned(), id)
    });
    let told: BTreeMap<_, HashSet<_>> = last.fold(BTreeMap::new(), |mut told, (request, id)| {
        told.entry(request).or_insert_with(HashSet::new).insert(id);
        told
    });
    assert_eq!(told.keys().collect::<HashSet<_>>(), HashSet::from([&request, &second]));
    assert!(told.values().all(|ids| ids.len() == 1), "one name for each, however often it comes: {told:?}");
    assert!(node.invoker.seen.lock().unwrap().is_empty(), "no function was run again");
}

#[tokio::test]
async fn a_record_that_is_refused_or_too_old_is_lost_and_shown() {
    let (node, [_, away]) = start().await;
    node.put(CONFIG, &told(AWAY, "")).await.ok(200);
    away.answers.lock().unwrap().push_back(404);
    let request = node.accept("1").await;
    node.lane(AWAY, |lane| lane["Lost"] == 1 && lane["InFlight"] == 0).await;
    let shown = async || node.get("/tinderbox/events/f").await.ok(200);
    let said = shown().await;
    assert_eq!((&said["Delivered"], &said["Dropped"]), (&json!(1), &json!(1)));
    let dead = &said["DeadEvents"][0];
    assert_eq!((&dead["RequestId"], &dead["Condition"]), (&json!(request), &json!("DestinationFailed")));
    assert_eq!(dead["ErrorType"], AWAY);
    assert_eq!(dead["ErrorMessage"], "the webhook did not take a record: it answered 404 Not Found");

    away.answers.lock().unwrap().extend([500; 200]);
    node.accept("2").await;
    node.lane(AWAY, |lane| lane["Failed"] == 2).await;
    let mut attempts = 0;
    while node.lane(AWAY, |lane| lane["InFlight"] == 0).await["Lost"] == 1 {
        attempts += 1;
        assert!(attempts < 100, "six hours are 80 attempts");
        node.clock.send_modify(|now| *now += 300_000);
        let expected = attempts + 2;
        node.lane(AWAY, |lane| lane["Failed"].as_u64() >= Some(expected) || lane["Lost"] == 2).await;
    }
    assert_eq!(shown().await["DeadEvents"][0]["Condition"], "DestinationFailed");
}

#[tokio::test]
async fn a_dead_letter_goes_to_a_topic_as_a_message_with_what_went_wrong_and_to_no_bucket() {
    let (node, [hook, _]) = start().await;
    let path = "/2015-03-31/functions/f/configuration";
    let to = |arn: &str| json!({ "DeadLetterConfig": { "TargetArn": arn } });
    let message = "A DeadLetterConfig that is no queue and no topic that its configuration names is not supported by this \
                   Tinderbox node.";
    for arn in [BUCKET, &format!("{TOPIC}2")] {
        node.put(path, &to(arn)).await.is_error(400, "InvalidParameterValueException", message);
    }
    assert_eq!(node.put(path, &to(TOPIC)).await.ok(200)["DeadLetterConfig"]["TargetArn"], TOPIC);
    node.settled("f").await;
    node.put(CONFIG, &told("", "")).await.ok(200);
    hook.answers.lock().unwrap().push_back(503);
    let event = r#"{"do":"fail","errorMessage":"no"}"#;
    let request = node.accept(event).await;
    node.lane(TOPIC, |lane| lane["Failed"] == 1 && lane["InFlight"] == 0).await;
    let node = node.restarted().await;
    node.clock.send_modify(|now| *now += 1000);
    node.lane(TOPIC, |lane| lane["Delivered"] == 1).await;
    let taken = hook.taken();
    let [(.., first), (_, headers, last)] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!(first, last, "the same at each attempt");
    assert_eq!(headers.get("x-amz-sns-rawdelivery"), None);
    let letter: Value = serde_json::from_slice(last).unwrap();
    assert_eq!((&letter["Message"], &letter["TopicArn"]), (&json!(event), &json!(TOPIC)));
    assert_eq!(letter["MessageId"], headers["x-amz-sns-message-id"].to_str().unwrap());
    assert_eq!(letter["MessageAttributes"]["RequestID"], json!({ "Type": "String", "Value": request }));
    assert_eq!(letter["MessageAttributes"]["ErrorMessage"]["Value"], "no");
}
