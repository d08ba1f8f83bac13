//! Asynchronous calls on a booted node. What is decided about them, and their queue by itself, are tested beside the agent
//! (`host-agent/src/events/`, `host-agent/src/api/tests/events.rs`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::client::bytes;
use crate::functions::Function;
use crate::host;
use crate::kills::Agent;
use crate::sight::STATE;

/// Events between two kills: an emulated guest takes longer to boot than they take to be accepted.
const EVENTS: usize = 12;

/// How often the agent is killed.
const KILLS: usize = 2;

/// Longest time until all are delivered.
const PATIENCE: Duration = Duration::from_secs(300);

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:it-events";

/// The records that the queue has, by their requests' ids.
fn delivered() -> BTreeSet<String> {
    let read = host::run(&["sh", "-c", &format!("cat {STATE}/queues/us-east-1.it-events.jsonl || true")]);
    let id = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["requestContext"]["condition"], "Success", "{line}");
        assert_eq!(record["responsePayload"]["event"], record["requestPayload"], "{line}");
        record["requestContext"]["requestId"].as_str().expect("a request's id").to_owned()
    };
    read.stdout.lines().map(id).collect()
}

#[test]
fn every_event_that_was_accepted_is_delivered_though_the_agent_is_killed_meanwhile() {
    let agent = Agent::alone();
    host::run(&["rm", "-f", &format!("{STATE}/queues/us-east-1.it-events.jsonl")]);
    let function = Function::python("hello").deploy(agent.client());
    let destination = json!({ "DestinationConfig": { "OnSuccess": { "Destination": QUEUE } } });
    function.call("put_function_event_invoke_config", destination).expect("configure");

    let mut accepted = BTreeSet::new();
    for life in 0..=KILLS {
        let event = |number: usize| {
            let payload = json!({ "life": life, "number": number }).to_string();
            let args = json!({ "Payload": bytes(payload.as_bytes()), "InvocationType": "Event" });
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
    let begun = Instant::now();
    loop {
        let delivered = delivered();
        let missing: Vec<_> = accepted.difference(&delivered).collect();
        if missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "of {} events are not delivered: {missing:?}", accepted.len());
    }
    let said = tinderbox(agent.client().endpoint(), "test", &["events", &function.name]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(" delivered, ") && said.contains(" 0 dropped, 0 dead"), "{said}");
    host::run(&["rm", "-f", &format!("{STATE}/queues/us-east-1.it-events.jsonl")]);
}
