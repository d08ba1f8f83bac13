//! Asynchronous calls on a booted node. What is decided about them, and their queue by itself, are tested beside the agent
//! (`host-agent/src/events/`, `host-agent/src/api/tests/events.rs`).

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::client::bytes;
use crate::functions::Function;
use crate::host;
use crate::kills::{Agent, CONFIG};
use crate::looks::until;
use crate::sight::STATE;

/// Events between two kills: an emulated guest takes longer to boot than they take to be accepted.
const EVENTS: usize = 12;

/// How often the agent is killed.
const KILLS: usize = 2;

/// Longest time until all are delivered.
const PATIENCE: Duration = Duration::from_secs(300);

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:it-events";
const BUCKET: &str = "arn:aws:s3:::it-failures";
const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:it-events";

/// Has the agent know the last two, until the test ends: a directory, and the node itself, which takes nothing that is not signed.
fn configure(agent: &Agent) {
    let tables = format!(
        "[[events.buckets]]\nname = \"it-failures\"\ndirectory = \"{STATE}/it-failures\"\n\
         [[events.webhooks]]\ntopic = \"{TOPIC}\"\nurl = \"http://127.0.0.1:9000/\"\nallow_http = true\n"
    );
    let added = host::run(&["sh", "-c", &format!("printf '%s' '{tables}' >> {CONFIG}")]);
    assert_eq!(added.code, 0, "{added:?}");
    agent.kill();
}

/// The records that queue and bucket have, by their requests' ids.
fn delivered() -> BTreeSet<String> {
    let queue = format!("cat {STATE}/queues/us-east-1.it-events.jsonl");
    // An object that was being written when the agent was killed has a name of its own.
    let bucket =
        format!("cd {STATE}/it-failures && find . -type f ! -name '*#*' -exec cat {{}} \\; -exec echo \\;");
    let read = host::run(&["sh", "-c", &format!("{queue}; {bucket}; true")]);
    let id = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let (context, event) = (&record["requestContext"], &record["requestPayload"]);
        if event.get("raise").is_some() {
            assert_eq!(context["condition"], "RetriesExhausted", "{line}");
            assert_eq!(record["responsePayload"]["errorType"], "KeyError", "{line}");
        } else {
            assert_eq!(context["condition"], "Success", "{line}");
            assert_eq!(record["responsePayload"]["event"], *event, "{line}");
        }
        context["requestId"].as_str().expect("a request's id").to_owned()
    };
    read.stdout.lines().map(id).collect()
}

fn forget() {
    host::run(&[
        "rm",
        "-rf",
        &format!("{STATE}/queues/us-east-1.it-events.jsonl"),
        &format!("{STATE}/it-failures"),
    ]);
}

#[test]
fn every_event_that_was_accepted_is_delivered_though_the_agent_is_killed_meanwhile() {
    let agent = Agent::alone();
    forget();
    configure(&agent);
    let function = Function::python("hello").deploy(agent.client());
    let tell = |success: &str| {
        let told = json!({ "OnSuccess": { "Destination": success }, "OnFailure": { "Destination": BUCKET } });
        let config = json!({ "DestinationConfig": told, "MaximumRetryAttempts": 0 });
        function.call("put_function_event_invoke_config", config).expect("configure");
    };
    tell(QUEUE);

    let mut accepted = BTreeSet::new();
    for life in 0..=KILLS {
        let event = |number: usize| {
            let mut payload = json!({ "life": life, "number": number });
            if number.is_multiple_of(4) {
                payload["raise"] = "no".into();
            }
            let args = json!({ "Payload": bytes(payload.to_string().as_bytes()), "InvocationType": "Event" });
            function.begin_with(args)
        };
        let calls: Vec<_> = (0..EVENTS).map(event).collect();
        if life < KILLS {
            agent.kill();
        }
        // Who was cut off may send it again; who was told 202 does not.
        for answer in calls.into_iter().filter_map(|call| call.end().ok()) {
            assert_eq!(answer["StatusCode"], 202, "{answer}");
            let id = answer["ResponseMetadata"]["RequestId"].as_str().expect("a request has an id");
            accepted.insert(id.to_owned());
        }
    }
    assert!(accepted.len() >= EVENTS, "{accepted:?}");
    let missing = until(PATIENCE, || {
        let missing: BTreeSet<_> = accepted.difference(&delivered()).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    });
    assert_eq!(missing, Ok(()), "of {} events are not delivered", accepted.len());
    let says = |args: &[&str]| {
        let said = tinderbox(agent.client().endpoint(), "test", args);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let said = says(&["events", &function.name]);
    assert!(said.contains(" delivered, ") && said.contains(" 0 dropped, "), "{said}");
    let said = says(&["events"]);
    assert!(said.contains(&format!("{BUCKET} 0 wait, ")) && said.contains(" 0 lost"), "{said}");

    // A webhook that says no has said so for good.
    tell(TOPIC);
    let args = json!({ "Payload": bytes(b"{}"), "InvocationType": "Event" });
    function.begin_with(args).end().expect("accepted");
    let lost = until(PATIENCE, || {
        let said = says(&["events"]);
        let is_lost = said.contains("1 lost: the webhook did not take a record: it answered 404");
        if is_lost { Ok(()) } else { Err(said) }
    });
    assert_eq!(lost, Ok(()));
    let said = says(&["events", &function.name]);
    assert!(said.contains("DestinationFailed") && said.contains(TOPIC), "{said}");
    forget();
}
