//! Asynchronous events: accepted, delivered, tried again, given up, told of, and none of them lost with the agent.

use super::*;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function";
const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";
const CONFIG: &str = "/2019-09-25/functions/f/event-invoke-config";

impl Node {
    async fn event(&self, name: &str, payload: &str) -> Got {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        self.invoke(&path, &[("x-amz-invocation-type", "Event")], payload.to_owned()).await
    }

    /// Sends an event and returns its request's id.
    pub(super) async fn accepted(&self, name: &str, payload: &str) -> String {
        let got = self.event(name, payload).await;
        assert_eq!((got.status.as_u16(), got.body.len()), (202, 0), "{:?}", got.body);
        got.header("x-amzn-requestid").unwrap().to_owned()
    }

    /// What the node says of a function's events when that is the case.
    pub(super) async fn when(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.get(&format!("/tinderbox/events/{name}")).await.ok(200);
            if is_so(&said) {
                return said;
            }
            tokio::task::yield_now().await;
        }
    }

    /// What it says when none is left.
    pub(super) async fn drained(&self, name: &str) -> Value {
        self.when(name, |said| said["Queued"] == 0 && said["InFlight"] == 0).await
    }

    /// Waits until a count is reached while all that there is waits for a later time.
    async fn counted(&self, name: &str, count: &str, reached: u64) {
        self.when(name, |said| said[count] == reached && said["InFlight"] == 0).await;
    }

    fn later(&self, seconds: u64) {
        self.clock.send_modify(|now| *now += seconds * 1000);
    }

    pub(super) fn seen(&self) -> Vec<Invocation> {
        std::mem::take(&mut self.invoker.seen.lock().unwrap())
    }

    pub(super) async fn queue(&self) -> Vec<Value> {
        let got = self.get("/tinderbox/queues/q").await;
        assert_eq!(got.status, 200);
        got.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
    }

    async fn destinations(&self, success: &str, failure: &str) {
        let destination = |arn: &str| json!({ "Destination": arn });
        let config = json!({
            "DestinationConfig": { "OnSuccess": destination(success), "OnFailure": destination(failure) },
        });
        self.put(CONFIG, &config).await.ok(200);
    }
}

fn parse(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap()
}

#[tokio::test]
async fn an_event_is_accepted_and_delivered_under_its_requests_id() {
    let node = Node::new().await;
    node.function("f").await;
    let context = BASE64_STANDARD.encode(r#"{"custom":{"k":"v"}}"#);
    let headers = [
        ("x-amz-invocation-type", "Event"),
        ("x-amz-client-context", &context),
        ("x-amzn-trace-id", "Root=1-2-3"),
    ];
    let got = node.invoke("/2015-03-31/functions/f:$LATEST/invocations", &headers, r#"{"a":"é"}"#).await;
    assert_eq!((got.status.as_u16(), got.body.len()), (202, 0));
    assert_eq!(got.header("x-amz-executed-version"), None);
    let said = node.when("f", |said| said["Delivered"] == 1 && said["InFlight"] == 0).await;
    assert_eq!((&said["Dead"], &said["DeadEvents"]), (&json!(0), &json!([])));
    let seen = node.seen().pop().unwrap();
    assert_eq!(Some(seen.request_id.as_str()), got.header("x-amzn-requestid"));
    assert_eq!(seen.payload, r#"{"a":"é"}"#);
    assert_eq!(seen.invoked_arn, format!("{ARN}:f:$LATEST"));
    assert_eq!(seen.client_context.as_deref(), Some(r#"{"custom":{"k":"v"}}"#));
    assert_eq!(seen.trace_id.as_deref(), Some("Root=1-2-3"));

    let old = node.call("POST", "/2014-11-13/functions/f/invoke-async/", "").await;
    assert_eq!((old.status.as_u16(), old.body.len()), (202, 0));
    node.when("f", |said| said["Delivered"] == 2).await;
    let seen = node.seen().pop().unwrap();
    assert_eq!((&seen.payload[..], seen.invoked_arn), (&b"{}"[..], format!("{ARN}:f")));
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let node = Node::new().await;
    node.function("f").await;
    let string = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    node.accepted("f", &string(1024 * 1024)).await;
    let refused = node.event("f", &string(1024 * 1024 + 1)).await;
    let message = "Request must be smaller than 1048576 bytes for the InvokeFunction operation";
    refused.is_error(413, "RequestTooLargeException", message);
    let path = "/2014-11-13/functions/f/invoke-async/";
    let refused = node.call("POST", path, string(1024 * 1024 + 1)).await;
    let message = "Request must be smaller than 1048576 bytes for the InvokeAsync operation";
    refused.is_error(413, "RequestTooLargeException", message);
    for refused in [node.event("f", "{bad").await, node.call("POST", path, "{bad").await] {
        assert_eq!(refused.header("x-amzn-errortype"), Some("InvalidRequestContentException"));
    }
    let message = format!("Function not found: {ARN}:nope:$LATEST");
    node.event("nope", "{}").await.is_error(404, "ResourceNotFoundException", &message);
    let path = path.replace("/f/", "/nope/");
    node.call("POST", &path, "{}").await.is_error(404, "ResourceNotFoundException", &message);
    node.drained("f").await;
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn a_function_that_fails_is_tried_three_times_and_its_destination_told() {
    let node = Node::new().await;
    node.function("f").await;
    node.destinations("", QUEUE).await;
    let event = r#"{"do":"fail","errorType":"E","errorMessage":"no"}"#;
    let request = node.accepted("f", event).await;
    node.counted("f", "Retried", 1).await;
    node.later(59);
    node.accepted("f", "1").await;
    node.counted("f", "Delivered", 1).await;
    assert_eq!(node.seen().len(), 2, "it is not tried again before a minute has passed");
    node.later(1);
    node.counted("f", "Retried", 2).await;
    assert_eq!(node.queue().await, [] as [Value; 0]);
    node.later(120);
    let said = node.drained("f").await;
    assert_eq!((&said["Dead"], &said["Retried"], &said["Delivered"]), (&json!(1), &json!(2), &json!(1)));
    assert!(node.seen().iter().all(|seen| seen.request_id == request));
    let records = node.queue().await;
    let [record] = &records[..] else { panic!("{records:?}") };
    let payload: Value = parse(event.as_bytes());
    assert_eq!(
        record["requestContext"],
        json!({
            "requestId": request,
            "functionArn": format!("{ARN}:f:$LATEST"),
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        })
    );
    assert_eq!((&record["requestPayload"], &record["responsePayload"]), (&payload, &payload));
    let dead = &said["DeadEvents"][0];
    assert_eq!((&dead["RequestId"], &dead["Condition"]), (&json!(request), &json!("RetriesExhausted")));
    assert_eq!((&dead["ErrorType"], &dead["ErrorMessage"]), (&json!("E"), &json!("no")));

    // It is shown after a restart, until the function is deleted.
    let node = node.restarted().await;
    assert_eq!(node.drained("f").await["DeadEvents"][0], *dead);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    assert_eq!(node.drained("f").await["DeadEvents"], json!([]));
}

#[tokio::test]
async fn ages_and_attempts_are_as_configured() {
    let node = Node::new().await;
    node.function("f").await;
    let config = |age: u64, attempts: u64| {
        let destination = json!({ "OnFailure": { "Destination": QUEUE } });
        json!({
            "MaximumEventAgeInSeconds": age,
            "MaximumRetryAttempts": attempts,
            "DestinationConfig": destination,
        })
    };
    let condition = |records: &[Value]| {
        let context = records.last().unwrap()["requestContext"].clone();
        (context["condition"].as_str().unwrap().to_owned(), context["approximateInvokeCount"].clone())
    };
    for (age, attempts, expected) in [(21_600, 0, ("RetriesExhausted", 1)), (60, 2, ("EventAgeExceeded", 1))]
    {
        node.put(CONFIG, &config(age, attempts)).await.ok(200);
        node.accepted("f", r#"{"do":"fail"}"#).await;
        node.drained("f").await;
        assert_eq!(condition(&node.queue().await), (expected.0.into(), json!(expected.1)));
    }
    // The node's own failures count by time alone: after 1, 2, 4, … seconds.
    node.accepted("f", r#"{"do":"lose"}"#).await;
    for (failure, wait) in (1..=5).zip([1, 2, 4, 8, 16]) {
        node.counted("f", "Retried", failure).await;
        node.later(wait);
    }
    let said = node.drained("f").await;
    assert_eq!(said["Retried"], 5);
    assert_eq!(condition(&node.queue().await), ("EventAgeExceeded".into(), json!(0)));
    assert_eq!(node.queue().await.last().unwrap().get("responsePayload"), None);
}

#[tokio::test]
async fn what_is_throttled_waits_without_being_an_attempt() {
    let node = Node::new().await;
    node.function("f").await;
    node.put(CONFIG, &json!({ "MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60 })).await.ok(200);
    node.accepted("f", r#"{"do":"throttle"}"#).await;
    for (throttled, wait) in (1..=5).zip([1, 2, 4, 8, 16]) {
        node.counted("f", "Throttled", throttled).await;
        node.later(wait);
    }
    node.counted("f", "Throttled", 6).await;
    assert_eq!(node.seen().len(), 6);
    node.later(32);
    let said = node.drained("f").await;
    assert_eq!((&said["Retried"], &said["Dead"]), (&json!(0), &json!(1)));
    assert_eq!(said["DeadEvents"][0]["Condition"], "EventAgeExceeded");
}

#[tokio::test]
async fn reserved_concurrency_is_kept_and_nothing_waits_longer_than_for_that() {
    let node = Node::new().await;
    node.function("f").await;
    let reserve = |count: u32| json!({ "ReservedConcurrentExecutions": count });
    let path = "/2017-10-31/functions/f/concurrency";
    node.put(path, &reserve(1)).await.ok(200);
    for _ in 0..3 {
        node.accepted("f", r#"{"do":"hold"}"#).await;
    }
    let said = node.when("f", |said| said["Throttled"].as_u64() > Some(0) && said["InFlight"] == 1).await;
    assert_eq!((&said["Queued"], &said["OldestAgeInSeconds"]), (&json!(2), &json!(0)));
    assert_eq!(node.seen().len(), 1, "one at a time");
    node.invoker.released.send_replace(true);
    assert_eq!(node.drained("f").await["Delivered"], 3, "the clock stands still");

    node.put(path, &reserve(0)).await.ok(200);
    node.accepted("f", "1").await;
    let said = node.drained("f").await;
    assert_eq!(said["DeadEvents"][0]["Condition"], "ZeroReservedConcurrency");
    assert_eq!(node.seen().len(), 2);
}

#[tokio::test]
async fn another_function_is_a_destination_and_a_circle_of_them_ends() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    node.destinations(&format!("{ARN}:g"), "").await;
    node.accepted("f", r#"{"a":1}"#).await;
    node.when("g", |said| said["Delivered"] == 1).await;
    let seen = node.seen();
    let record = parse(&seen[1].payload);
    assert_eq!(seen[1].function.id.name, "g");
    assert_ne!(seen[0].request_id, seen[1].request_id);
    assert_eq!(record["requestContext"]["condition"], "Success");
    assert_eq!((&record["requestPayload"], &record["responsePayload"]), (&json!({"a":1}), &json!({"a":1})));
    assert_eq!(record["responseContext"], json!({ "statusCode": 200, "executedVersion": "$LATEST" }));

    let back = json!({ "DestinationConfig": { "OnSuccess": { "Destination": format!("{ARN}:f") } } });
    node.put(&CONFIG.replace("/f/", "/g/"), &back).await.ok(200);
    node.accepted("f", "1").await;
    node.when("f", |said| said["Delivered"] == 18).await;
    node.drained("f").await;
    node.drained("g").await;
    assert_eq!(node.seen().len(), 34, "each came back to itself sixteen times");
}

#[tokio::test]
async fn a_dead_letter_queue_has_the_event_and_what_went_wrong() {
    let node = Node::new().await;
    let body = with(request("f"), &[("/DeadLetterConfig", json!({ "TargetArn": QUEUE }))]);
    let created = node.create(&body).await.ok(201);
    assert_eq!(created["DeadLetterConfig"], json!({ "TargetArn": QUEUE }));
    node.settled("f").await;
    node.put(CONFIG, &json!({ "MaximumRetryAttempts": 0 })).await.ok(200);
    let request = node.accepted("f", r#"{"do":"fail","errorMessage":"no"}"#).await;
    node.drained("f").await;
    let letters = node.queue().await;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter["Body"], json!({ "do": "fail", "errorMessage": "no" }));
    assert_eq!(letter["MessageAttributes"]["RequestID"]["StringValue"], request);
    assert_eq!(letter["MessageAttributes"]["ErrorMessage"]["StringValue"], "no");

    let path = "/2015-03-31/functions/f/configuration";
    let kept = node.put(path, &json!({ "DeadLetterConfig": {} })).await.ok(200);
    assert_eq!(kept["DeadLetterConfig"], json!({ "TargetArn": QUEUE }), "as recorded");
    let none = node.put(path, &json!({ "DeadLetterConfig": { "TargetArn": "" } })).await.ok(200);
    assert_eq!(none.get("DeadLetterConfig"), None);
    let topic = json!({ "DeadLetterConfig": { "TargetArn": QUEUE.replace("sqs", "sns") } });
    let message = "A DeadLetterConfig that is no queue and no topic that its configuration names is not supported by this Tinderbox node.";
    node.put(path, &topic).await.is_error(400, "InvalidParameterValueException", message);
}

#[tokio::test]
async fn a_queue_that_is_full_has_its_record_when_there_is_room() {
    let node =
        Node::with(tempfile::tempdir().unwrap(), "[events]\nqueue_mib = 1", watch::Sender::new(BEGIN_MS))
            .await;
    node.function("f").await;
    node.destinations(QUEUE, "").await;
    let event = format!("\"{}\"", "x".repeat(300 * 1024));
    node.accepted("f", &event).await;
    node.drained("f").await;
    let second = node.accepted("f", &event).await;
    let said = node.when("f", |said| said["Delivered"] == 2 && said["InFlight"] == 0).await;
    assert_eq!(said["Queued"], 1, "its outcome waits");
    let read = node.get("/tinderbox/queues/q").await;
    assert_eq!(read.header("x-tinderbox-left"), Some("0"));
    let taken = || {
        let request = Request::builder().method("DELETE").uri("/tinderbox/queues/q");
        request.header("if-match", read.header("etag").unwrap()).body(Body::empty()).unwrap()
    };
    node.send(taken()).await.ok(204);
    node.later(2);
    node.drained("f").await;
    let records = node.queue().await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["requestContext"]["requestId"], second);
    assert_eq!(node.seen().len(), 2, "the function was not run again");
    assert_eq!(node.send(taken()).await.status, 412, "it takes nothing that was not read");
    assert_eq!(node.call("DELETE", "/tinderbox/queues/q", Body::empty()).await.status, 400);
    assert_eq!(node.get("/tinderbox/queues/no%20name").await.status, 400);
}

#[tokio::test]
async fn events_of_what_is_gone_are_dropped_and_counted() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let alias = json!({ "Name": "live", "FunctionVersion": "1" }).to_string();
    node.call("POST", "/2015-03-31/functions/f/aliases", alias).await.ok(201);
    node.accepted("f:live", r#"{"do":"fail"}"#).await;
    node.counted("f", "Retried", 1).await;
    assert_eq!(node.seen()[0].function.version, "1", "an alias is looked up");
    node.call("DELETE", "/2015-03-31/functions/f/aliases/live", Body::empty()).await.ok(204);
    node.later(60);
    assert_eq!(node.drained("f").await["Dropped"], 1);
    node.accepted("f", r#"{"do":"fail"}"#).await;
    node.counted("f", "Retried", 2).await;
    node.seen();
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    node.function("f").await;
    node.later(60);
    assert_eq!(node.drained("f").await["Dropped"], 2, "it is not this function's");
    assert_eq!(node.seen().len(), 0);
}

#[tokio::test]
async fn what_was_accepted_is_delivered_by_the_next_agent() {
    let node = Node::new().await;
    node.function("f").await;
    node.events.stop();
    let mut requests = Vec::new();
    for number in 0..200 {
        requests.push(node.accepted("f", &number.to_string()).await);
    }
    let said = node.get("/tinderbox/events/f").await.ok(200);
    assert_eq!((&said["Queued"], &said["InFlight"]), (&json!(200), &json!(0)));
    let node = node.restarted().await;
    assert_eq!(node.drained("f").await["Delivered"], 200);
    let mut seen: Vec<_> = node.seen().into_iter().map(|seen| seen.request_id).collect();
    // Some are delivered at the same time: as sets they are the same.
    seen.sort();
    requests.sort();
    assert_eq!(seen, requests);
    assert_eq!(node.restarted().await.drained("f").await["Delivered"], 0, "once");
}

#[tokio::test]
async fn a_queue_without_room_takes_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::with(dir, "[events]\nmax_count = 2", watch::Sender::new(BEGIN_MS)).await;
    node.function("f").await;
    node.events.stop();
    node.accepted("f", "1").await;
    node.accepted("f", "2").await;
    let full = node.event("f", "3").await;
    full.is_error(
        429,
        "TooManyRequestsException",
        "This Tinderbox node's queue of asynchronous events is full.",
    );
    assert_eq!(full.json()["Reason"], "CallerRateLimitExceeded");
    let totals = node.get("/tinderbox/events").await.ok(200);
    assert_eq!((&totals["Events"], &totals["MaxEvents"]), (&json!(2), &json!(2)));
}
