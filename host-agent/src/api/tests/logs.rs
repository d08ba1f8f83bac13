//! The logs' operations, as CloudWatch Logs answers them.

use guest_protocol::{LogChunk, LogFormat, LogSource};

use super::*;
use crate::logs::{GroupName, StreamId};

const GROUP: &str = "/aws/lambda/f";

impl Node {
    /// Lines that a sandbox of `f` prints.
    fn prints(&self, stream: &str, text: &str) {
        let group = GroupName { region: "us-east-1".into(), name: GROUP.into() };
        let id = StreamId { group, stream: stream.into(), format: LogFormat::Text };
        self.logs.source(id).write(&LogChunk { source: LogSource::Function, bytes: text.into() });
    }

    async fn logs(&self, operation: &str, body: &Value) -> Got {
        let request = Request::builder().method("POST").uri("/").header("host", "node:9000");
        let request = request.header("x-amz-target", format!("Logs_20140328.{operation}"));
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    async fn found(&self, members: Value) -> Vec<String> {
        let mut body = json!({ "logGroupName": GROUP });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let found = self.logs("FilterLogEvents", &body).await.ok(200);
        let messages = found["events"].as_array().unwrap().iter();
        messages.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }
}

#[track_caller]
fn refused(got: &Got, status: u16, name: &str, message: &str) {
    let body = got.json();
    assert_eq!(
        (got.status.as_u16(), &body["__type"], &body["message"]),
        (status, &name.into(), &message.into())
    );
    assert_eq!(got.header("content-type"), Some("application/x-amz-json-1.1"));
    assert_eq!(got.header("x-amzn-requestid").map(str::len), Some(36));
}

#[tokio::test]
async fn events_are_filtered_by_stream_time_and_pattern() {
    let node = Node::new().await;
    node.prints("2026/11/26/[1]a", "START\nan ERROR\n{\"level\":\"WARN\"}\n");
    node.prints("2026/11/26/[$LATEST]b", "other\n");
    let all = ["START\n", "an ERROR\n", "{\"level\":\"WARN\"}\n", "other\n"];
    assert_eq!(node.found(json!({})).await, all);
    assert_eq!(node.found(json!({ "logStreamNames": ["2026/11/26/[$LATEST]b"] })).await, all[3..]);
    assert_eq!(node.found(json!({ "logStreamNamePrefix": "2026/11/26/[1]" })).await, all[..3]);
    assert_eq!(node.found(json!({ "filterPattern": "?ERROR ?START" })).await, all[..2]);
    assert_eq!(node.found(json!({ "filterPattern": "{ $.level = \"WARN\" }" })).await, all[2..3]);
    assert!(node.found(json!({ "endTime": 1 })).await.is_empty());
    assert!(node.found(json!({ "startTime": i64::MAX })).await.is_empty());
    let arn = format!("arn:aws:logs:us-east-1:000000000000:log-group:{GROUP}");
    let by_arn = node.logs("FilterLogEvents", &json!({ "logGroupIdentifier": arn })).await.ok(200);
    assert_eq!(by_arn["events"].as_array().unwrap().len(), 4);
    assert_eq!(by_arn["events"][0]["eventId"].as_str().unwrap().len(), 56);
    assert_eq!((&by_arn["searchedLogStreams"], &by_arn["nextToken"]), (&json!([]), &Value::Null));
}

/// In an array the gate and the operation would find different members.
#[tokio::test]
async fn an_array_is_no_request() {
    let node = Node::new().await;
    node.prints("s", "kept\n");
    for operation in
        ["FilterLogEvents", "GetLogEvents", "DescribeLogStreams", "DeleteLogGroup", "DeleteLogStream"]
    {
        let got = node.logs(operation, &json!([GROUP, "s"])).await;
        assert_eq!(
            (got.status.as_u16(), &got.json()["__type"]),
            (400, &json!("SerializationException")),
            "{operation}"
        );
    }
    assert_eq!(node.found(json!({})).await, ["kept\n"]);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let node = Node::new().await;
    node.prints("s", "1\n2\n3\n4\n5\n");
    let (mut body, mut pages) = (json!({ "logGroupName": GROUP, "limit": 2 }), Vec::new());
    loop {
        let page = node.logs("FilterLogEvents", &body).await.ok(200);
        pages.push(page["events"].as_array().unwrap().len());
        if page["nextToken"].is_null() {
            break;
        }
        body["nextToken"] = page["nextToken"].clone();
    }
    assert_eq!(pages, [2, 2, 1]);

    let stream = json!({ "logGroupName": GROUP, "logStreamName": "s", "limit": 2 });
    let get = async |members: &[(&str, Value)]| {
        let got = node.logs("GetLogEvents", &with(stream.clone(), members)).await.ok(200);
        let events = got["events"].as_array().unwrap().iter();
        let text: String = events.map(|event| event["message"].as_str().unwrap().trim_end()).collect();
        (text, got["nextForwardToken"].clone(), got["nextBackwardToken"].clone())
    };
    let (text, forward, backward) = get(&[]).await;
    assert_eq!(text, "45", "the last ones, unless asked for the first");
    let (text, again, _) = get(&[("/nextToken", forward.clone())]).await;
    assert_eq!((text.as_str(), &again), ("", &forward), "the same token at the end");
    node.prints("s", "6\n");
    assert_eq!(get(&[("/nextToken", forward)]).await.0, "6");
    let (text, _, backward) = get(&[("/nextToken", backward)]).await;
    assert_eq!(text, "23");
    let (text, _, backward) = get(&[("/nextToken", backward)]).await;
    assert_eq!(text, "1");
    let (text, _, again) = get(&[("/nextToken", backward.clone())]).await;
    assert_eq!((text.as_str(), again), ("", backward), "and at the beginning");
    let (text, forward, _) = get(&[("/startFromHead", true.into())]).await;
    assert_eq!((text.as_str(), get(&[("/nextToken", forward)]).await.0.as_str()), ("12", "34"));
}

#[tokio::test]
async fn groups_and_streams_are_described() {
    let node = Node::new().await;
    for stream in ["c", "a", "b"] {
        node.prints(stream, "x\n");
    }
    let names = |got: Value, list: &str, name: &str| -> Vec<String> {
        let items = got[list].as_array().unwrap().iter();
        items.map(|item| item[name].as_str().unwrap().to_owned()).collect()
    };
    let streams = async |members: &[(&str, Value)]| {
        let body = with(json!({ "logGroupName": GROUP }), members);
        node.logs("DescribeLogStreams", &body).await.ok(200)
    };
    assert_eq!(names(streams(&[]).await, "logStreams", "logStreamName"), ["a", "b", "c"]);
    let first = streams(&[("/limit", 2.into()), ("/descending", true.into())]).await;
    let token = first["nextToken"].clone();
    assert_eq!(names(first, "logStreams", "logStreamName"), ["c", "b"]);
    let rest = streams(&[("/nextToken", token), ("/descending", true.into())]).await;
    assert_eq!(names(rest, "logStreams", "logStreamName"), ["a"]);
    let last = streams(&[("/orderBy", "LastEventTime".into()), ("/descending", true.into())]).await;
    assert_eq!(last["logStreams"].as_array().unwrap().len(), 3);
    assert!(last["logStreams"][0]["lastEventTimestamp"].as_u64() > Some(BEGIN_MS));

    let groups = node.logs("DescribeLogGroups", &json!({ "logGroupNamePrefix": "/aws/" })).await.ok(200);
    let arn = format!("arn:aws:logs:us-east-1:000000000000:log-group:{GROUP}");
    assert_eq!(groups["logGroups"][0]["logGroupArn"], arn);
    assert_eq!(groups["logGroups"][0]["retentionInDays"], 30);
    let none = node.logs("DescribeLogGroups", &json!({ "logGroupNamePattern": "zz" })).await.ok(200);
    assert_eq!(none, json!({ "logGroups": [] }));
}

#[tokio::test]
async fn groups_are_tidied_up() {
    let node = Node::new().await;
    node.prints("a", "x\n");
    node.prints("b", "y\n");
    let named = json!({ "logGroupName": GROUP });
    let done = node.logs("PutRetentionPolicy", &with(named.clone(), &[("/retentionInDays", 7.into())])).await;
    assert!((done.status.as_u16(), done.body.is_empty()) == (200, true));
    let groups = node.logs("DescribeLogGroups", &json!({})).await.ok(200);
    assert_eq!(groups["logGroups"][0]["retentionInDays"], 7);
    node.logs("DeleteRetentionPolicy", &named).await.ok(200);
    node.logs("DeleteLogStream", &with(named.clone(), &[("/logStreamName", "a".into())])).await.ok(200);
    assert_eq!(node.found(json!({})).await, ["y\n"]);
    let gone = node.logs("GetLogEvents", &with(named.clone(), &[("/logStreamName", "a".into())])).await;
    refused(&gone, 400, "ResourceNotFoundException", "The specified log stream does not exist.");
    node.logs("DeleteLogGroup", &named).await.ok(200);
    let gone = node.logs("DeleteLogGroup", &named).await;
    refused(&gone, 400, "ResourceNotFoundException", "The specified log group does not exist.");
}

/// What Terraform's `aws_cloudwatch_log_group` asks for.
#[tokio::test]
async fn a_group_may_be_made_before_its_first_line() {
    let node = Node::new().await;
    let named = json!({ "logGroupName": GROUP });
    let made = node.logs("CreateLogGroup", &with(named.clone(), &[("/tags", json!({}))])).await;
    assert!((made.status.as_u16(), made.body.is_empty()) == (200, true));
    let again = node.logs("CreateLogGroup", &named).await;
    refused(&again, 400, "ResourceAlreadyExistsException", "The specified log group already exists");
    node.logs("PutRetentionPolicy", &with(named.clone(), &[("/retentionInDays", 7.into())])).await.ok(200);
    let found = node.logs("DescribeLogGroups", &json!({ "logGroupNamePrefix": GROUP })).await.ok(200);
    let group = &found["logGroups"][0];
    assert_eq!((&group["logGroupName"], &group["retentionInDays"]), (&json!(GROUP), &json!(7)));
    assert_eq!(group["storedBytes"], 0);
    let arn = json!({ "resourceArn": group["logGroupArn"] });
    assert_eq!(node.logs("ListTagsForResource", &arn).await.ok(200), json!({ "tags": {} }));
    assert!(node.found(json!({})).await.is_empty());
    node.prints("a", "x\n");
    assert_eq!(node.found(json!({})).await, ["x\n"]);
    node.logs("DeleteLogGroup", &named).await.ok(200);
    for absent in [arn, json!({ "resourceArn": "arn:aws:lambda:us-east-1:000000000000:function:f" })] {
        let gone = node.logs("ListTagsForResource", &absent).await;
        refused(&gone, 400, "ResourceNotFoundException", "The specified log group does not exist.");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_in_the_protocols_shape() {
    let node = Node::new().await;
    let parameter = async |operation, body: Value, message: &str| {
        refused(&node.logs(operation, &body).await, 400, "InvalidParameterException", message);
    };
    let violation = |text: &str| format!("1 validation error detected: {text}");
    parameter(
        "PutRetentionPolicy",
        json!({ "logGroupName": "a b", "retentionInDays": 1 }),
        &violation(
            "Value 'a b' at 'logGroupName' failed to satisfy constraint: Member must satisfy regular expression pattern: \
             [\\.\\-_/#A-Za-z0-9]+",
        ),
    )
    .await;
    parameter(
        "FilterLogEvents",
        json!({ "logGroupName": GROUP, "limit": 10_001 }),
        &violation(
            "Value '10001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 10000",
        ),
    )
    .await;
    parameter(
        "GetLogEvents",
        json!({ "logGroupName": GROUP }),
        &violation("Value null at 'logStreamName' failed to satisfy constraint: Member must not be null"),
    )
    .await;
    let token = json!({ "logGroupName": GROUP, "nextToken": "*" });
    parameter("FilterLogEvents", token, "The specified nextToken is invalid.").await;
    let pattern = json!({ "logGroupName": GROUP, "filterPattern": "%x%" });
    let message = "Regular expressions in filter patterns are not supported by this Tinderbox node.";
    parameter("FilterLogEvents", pattern, message).await;
    let both = json!({ "logGroupName": GROUP, "orderBy": "LastEventTime", "logStreamNamePrefix": "x" });
    let message = "Cannot order by LastEventTime with a logStreamNamePrefix.";
    parameter("DescribeLogStreams", both, message).await;
    let other = node.logs("TagResource", &json!({})).await;
    refused(&other, 400, "UnknownOperationException", "TagResource is not supported on this node.");
    let unsupported = async |operation, members: Value| {
        let mut body = json!({ "logGroupName": "x" });
        let member = members.as_object().unwrap().keys().next().unwrap().clone();
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        parameter(operation, body, &format!("{member} is not supported by this Tinderbox node.")).await;
    };
    for members in [
        json!({ "logGroupIdentifiers": [GROUP] }),
        json!({ "accountIdentifiers": ["111111111111"] }),
        json!({ "includeLinkedAccounts": true }),
    ] {
        unsupported("DescribeLogGroups", members).await;
    }
    for members in [
        json!({ "tags": { "a": "b" } }),
        json!({ "kmsKeyId": "arn:aws:kms:us-east-1:000000000000:key/x" }),
        json!({ "logGroupClass": "INFREQUENT_ACCESS" }),
        json!({ "deletionProtectionEnabled": true }),
    ] {
        unsupported("CreateLogGroup", members).await;
    }
    assert_eq!(node.logs("DescribeLogGroups", &json!({})).await.ok(200)["logGroups"], json!([]));
    let elsewhere = json!({ "logGroupIdentifier": "arn:aws:logs:eu-west-1:000000000000:log-group:x" });
    let elsewhere = node.logs("FilterLogEvents", &elsewhere).await;
    refused(&elsewhere, 400, "ResourceNotFoundException", "The specified log group does not exist.");
    assert_eq!(node.call("POST", "/", "{}").await.status, 404);
}
