//! PutFunctionRecursionConfig, GetFunctionRecursionConfig, and what they do to functions that cause each other's events.

use super::*;

const PATH: &str = "/2024-08-31/functions/f/recursion-config";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function";
const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";

fn of(word: &str) -> Value {
    json!({ "RecursiveLoop": word })
}

#[tokio::test]
async fn a_loop_ends_unless_somebody_says_otherwise_and_that_is_kept() {
    let node = Node::new().await;
    node.function("f").await;
    assert_eq!(node.get(PATH).await.ok(200), of("Terminate"));
    assert_eq!(node.put(PATH, &of("Allow")).await.ok(200), of("Allow"));
    let node = node.restarted().await;
    assert_eq!(node.get(PATH).await.ok(200), of("Allow"));
    // An update leaves it, and a version is given nothing of it.
    node.put("/2015-03-31/functions/f/configuration", &json!({ "Description": "d" })).await.ok(200);
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    assert_eq!(node.get(PATH).await.ok(200), of("Allow"));
    assert_eq!(node.put(PATH, &of("Terminate")).await.ok(200), of("Terminate"));
    assert_eq!(node.get(PATH).await.ok(200), of("Terminate"));
}

#[tokio::test]
async fn what_is_no_such_setting_is_refused() {
    let node = Node::new().await;
    node.function("f").await;
    for (body, words) in [
        (json!({}), "Member must not be null"),
        (of("allow"), "Member must satisfy enum value set: [Terminate, Allow]"),
        (json!({ "RecursiveLoop": 1 }), ""),
    ] {
        let got = node.put(PATH, &body).await;
        assert_eq!(got.status, 400, "{body}");
        assert!(got.json().to_string().contains(words), "{body}: {}", got.json());
    }
    node.put(&PATH.replace("/f/", "/f:1/"), &of("Allow")).await.is_error(
        400,
        "InvalidParameterValueException",
        "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please \
         specify either a function name or an unqualified function ARN.",
    );
    for name in ["/g/", "/g:1/"] {
        assert_ne!(node.get(&PATH.replace("/f/", name)).await.status, 200, "{name}");
    }
    assert_eq!(node.put(&PATH.replace("/f/", "/g/"), &of("Allow")).await.status, 404);
    assert_eq!(node.get(PATH).await.ok(200), of("Terminate"));
}

#[tokio::test]
async fn functions_that_are_each_others_destination_end_or_go_on() {
    let node = Node::new().await;
    node.function("f").await;
    node.function("g").await;
    for (name, other) in [("f", "g"), ("g", "f")] {
        let on = |arn: String| json!({ "Destination": arn });
        let to = json!({ "DestinationConfig": {
            "OnSuccess": on(format!("{ARN}:{other}")), "OnFailure": on(QUEUE.into()),
        } });
        node.put(&format!("/2019-09-25/functions/{name}/event-invoke-config"), &to).await.ok(200);
    }
    node.accepted("f", "1").await;
    // Each came back to itself sixteen times.
    let said = node.when("f", |said| said["Dead"] == 1 && said["InFlight"] == 0).await;
    assert_eq!(said["DeadEvents"][0]["Condition"], "RecursiveLoop", "{said}");
    assert_eq!(node.seen().len(), 34);
    let told = node.queue().await;
    let [record] = &told[..] else { panic!("{told:?}") };
    assert_eq!(record["requestContext"]["condition"], "RecursiveLoop");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 0);

    for name in ["f", "g"] {
        node.put(&PATH.replace("/f/", &format!("/{name}/")), &of("Allow")).await.ok(200);
    }
    node.accepted("f", "2").await;
    node.when("f", |said| said["Delivered"].as_u64() > Some(40)).await;
    node.put(PATH, &of("Terminate")).await.ok(200);
    let said = node.when("f", |said| said["Dead"] == 2 && said["InFlight"] == 0).await;
    assert_eq!(said["DeadEvents"][0]["Condition"], "RecursiveLoop", "{said}");
    node.drained("g").await;
}

#[tokio::test]
async fn a_function_outside_of_a_loop_is_told_of_its_end_once() {
    let node = Node::new().await;
    let on = |name: &str| json!({ "Destination": format!("{ARN}:{name}") });
    for name in ["f", "g", "h"] {
        node.function(name).await;
    }
    for (name, to) in [
        ("f", json!({ "OnSuccess": on("g"), "OnFailure": on("h") })),
        ("g", json!({ "OnSuccess": on("f") })),
        ("h", json!({ "OnSuccess": on("f") })),
    ] {
        let to = json!({ "DestinationConfig": to });
        node.put(&format!("/2019-09-25/functions/{name}/event-invoke-config"), &to).await.ok(200);
    }
    node.accepted("f", "1").await;
    // What `h` makes of it comes back to `f`, and ends there again.
    node.when("f", |said| said["Dead"] == 2 && said["InFlight"] == 0).await;
    node.drained("h").await;
    let seen = node.seen();
    assert_eq!(seen.iter().filter(|invocation| invocation.function.id.name == "h").count(), 1);
    assert_eq!(seen.len(), 35);
}
