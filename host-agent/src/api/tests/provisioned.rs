//! The operations on provisioned concurrency, and what else they mean something to.

use super::*;
use crate::invoke::{Failed, Lack};

const FUNCTION: &str = "/2019-09-30/functions/f/provisioned-concurrency";
const VERSIONS: &str = "/2015-03-31/functions/f/versions";
const ALIASES: &str = "/2015-03-31/functions/f/aliases";

fn of(qualifier: &str) -> String {
    format!("{FUNCTION}?Qualifier={qualifier}")
}

fn provisioning(count: i64) -> Value {
    json!({ "ProvisionedConcurrentExecutions": count })
}

impl Node {
    /// How many are ready of a version of `f`, and why no more.
    pub(super) fn stands(&self, version: &str, ready: u32, lack: Option<Lack>) {
        let key = ("f".to_owned(), version.to_owned());
        self.invoker.provided.lock().unwrap().insert(key, Provided { ready, lack });
    }

    /// What the invoker was told to keep ready of `f`.
    fn kept(&self) -> Vec<(String, u32)> {
        let provisions = self.invoker.provisions.lock().unwrap();
        provisions.get("f").cloned().unwrap_or_default().into_iter().collect()
    }

    /// A version that differs from the one before.
    async fn publish_another(&self) {
        let described = json!({ "Description": uuid::Uuid::new_v4().to_string() });
        self.put("/2015-03-31/functions/f/configuration", &described).await.ok(200);
        self.settled("f").await;
        self.call("POST", VERSIONS, "{}").await.ok(201);
    }

    /// With versions 1, 2 and 3 of `f`, and an alias for the first.
    async fn published() -> Self {
        let node = Self::new().await;
        node.function("f").await;
        for _ in 0..3 {
            node.publish_another().await;
        }
        node.name("live", "1").await;
        node
    }

    async fn name(&self, name: &str, version: &str) {
        let alias = json!({ "Name": name, "FunctionVersion": version });
        self.call("POST", ALIASES, alias.to_string()).await.ok(201);
    }

    async fn left(&self) -> Value {
        let settings = self.get("/2016-08-19/account-settings/").await.ok(200);
        settings["AccountLimit"]["UnreservedConcurrentExecutions"].clone()
    }
}

fn kept<const N: usize>(versions: [(&str, u32); N]) -> Vec<(String, u32)> {
    versions.into_iter().map(|(version, count)| (version.to_owned(), count)).collect()
}

#[tokio::test]
async fn it_is_kept_told_counted_and_taken_away() {
    let node = Node::published().await;
    let put = node.put(&of("2"), &provisioning(7)).await.ok(202);
    assert_eq!(put["Status"], "IN_PROGRESS");
    assert_eq!(put["LastModified"].as_str().unwrap().len(), "2026-01-31T23:59:59+0000".len());
    node.put(&of("live"), &provisioning(3)).await.ok(202);
    assert_eq!(node.kept(), kept([("1", 3), ("2", 7)]));
    assert_eq!(node.left().await, 990);
    assert_eq!(node.get("/2019-09-30/functions/f/concurrency").await.ok(200), json!({}));

    // What is kept ready is made anew.
    let node = node.restarted().await;
    assert_eq!(node.kept(), kept([("1", 3), ("2", 7)]));
    assert_eq!((node.left().await, node.get(&of("2")).await.ok(200)), (json!(990), put));
    node.stands("2", 4, None);
    let some = node.get(&of("2")).await.ok(200);
    assert_eq!(
        (&some["Status"], &some["AllocatedProvisionedConcurrentExecutions"]),
        (&"IN_PROGRESS".into(), &4.into())
    );
    node.put(&of("2"), &provisioning(4)).await.ok(202);
    assert_eq!(node.get(&of("2")).await.ok(200)["Status"], "READY");

    for _ in 0..2 {
        assert!(node.call("DELETE", &of("2"), Body::empty()).await.ok(204).is_null());
    }
    assert_eq!((node.kept(), node.left().await), (kept([("1", 3)]), json!(997)));
    let none = "No Provisioned Concurrency Config found for this function";
    node.get(&of("2")).await.is_error(404, "ProvisionedConcurrencyConfigNotFoundException", none);
    node.call("DELETE", "/2015-03-31/functions/f", Body::empty()).await.ok(204);
    assert_eq!((node.kept(), node.left().await), (kept([]), json!(1000)));
}

#[tokio::test]
async fn a_list_has_all_of_them_in_pages() {
    let node = Node::published().await;
    let list = |query: &str| format!("{FUNCTION}?List=ALL{query}");
    assert_eq!(node.get(&list("")).await.ok(200), json!({ "ProvisionedConcurrencyConfigs": [] }));
    for qualifier in ["live", "2", "3"] {
        node.put(&of(qualifier), &provisioning(1)).await.ok(202);
    }
    let first = node.get(&list("&MaxItems=2")).await.ok(200);
    let marker = first["NextMarker"].as_str().unwrap().replace('=', "%3D");
    let last = node.get(&list(&format!("&MaxItems=2&Marker={marker}"))).await.ok(200);
    assert!(last.get("NextMarker").is_none());
    let pages = [first, last];
    let all = pages.iter().flat_map(|page| page["ProvisionedConcurrencyConfigs"].as_array().unwrap());
    let arns: Vec<_> =
        all.map(|one| one["FunctionArn"].as_str().unwrap().rsplit_once(':').unwrap().1).collect();
    assert_eq!(arns, ["2", "3", "live"]);
    let most = "1 validation error detected: Value '51' at 'maxItems' failed to satisfy constraint: Member must have value less than or equal to 50";
    node.get(&list("&MaxItems=51")).await.is_error(400, "ValidationException", most);
    let missing = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:no";
    let no = node.get("/2019-09-30/functions/no/provisioned-concurrency?List=ALL").await;
    no.is_error(404, "ResourceNotFoundException", missing);
}

#[tokio::test]
async fn it_goes_with_the_version_or_the_alias_and_follows_that() {
    let node = Node::published().await;
    node.put(&of("live"), &provisioning(8)).await.ok(202);
    let alias = format!("{ALIASES}/live");
    let moved = |version: &str, weights: Value| json!({ "FunctionVersion": version, "RoutingConfig": { "AdditionalVersionWeights": weights } });
    node.put(&alias, &moved("2", json!({}))).await.ok(200);
    assert_eq!(node.kept(), kept([("2", 8)]));
    node.put(&alias, &moved("2", json!({ "3": 0.25 }))).await.ok(200);
    assert_eq!(node.kept(), kept([("2", 6), ("3", 2)]));
    node.stands("2", 6, None);
    node.stands("3", 1, Some(Lack::Memory));
    let both = node.get(&of("live")).await.ok(200);
    assert_eq!(
        (&both["Status"], &both["AllocatedProvisionedConcurrentExecutions"]),
        (&"IN_PROGRESS".into(), &7.into())
    );
    node.put(&of("1"), &provisioning(5)).await.ok(202);
    let twice =
        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version";
    let conflict = "ResourceConflictException";
    node.put(&alias, &moved("2", json!({ "1": 0.5 }))).await.is_error(409, conflict, twice);
    let latest = "Provisioned Concurrency Configs cannot be applied to unpublished function versions.";
    node.put(&alias, &moved("$LATEST", json!({}))).await.is_error(
        400,
        "InvalidParameterValueException",
        latest,
    );
    assert_eq!(node.left().await, 987);
    node.call("DELETE", &alias, Body::empty()).await.ok(204);
    assert_eq!((node.kept(), node.left().await), (kept([("1", 5)]), json!(995)));
    node.call("DELETE", "/2015-03-31/functions/f?Qualifier=1", Body::empty()).await.ok(204);
    assert_eq!((node.kept(), node.left().await), (kept([]), json!(1000)));
}

#[tokio::test]
async fn why_it_is_not_ready_is_said() {
    let node = Node::published().await;
    node.put(&of("1"), &provisioning(2)).await.ok(202);
    for (lack, status, reason) in [
        (Lack::Memory, "IN_PROGRESS", "This Tinderbox node's memory is in use"),
        (Lack::LargerThanNode, "FAILED", "This Tinderbox node does not have the memory"),
        (Lack::Failed(Failed::Function), "FAILED", "FUNCTION_ERROR_INIT_FAILURE"),
        (Lack::Failed(Failed::Node), "FAILED", "An internal error occurred."),
    ] {
        node.stands("1", 1, Some(lack));
        let got = node.get(&of("1")).await.ok(200);
        assert_eq!(got["Status"], status);
        assert!(got["StatusReason"].as_str().unwrap().starts_with(reason), "{got}");
    }
    node.stands("1", 2, Some(Lack::Memory));
    let ready = node.get(&of("1")).await.ok(200);
    assert!(ready["Status"] == "READY" && ready.get("StatusReason").is_none(), "{ready}");
}

#[tokio::test]
async fn what_cannot_be_provisioned_is_refused_in_aws_words() {
    let node = Node::published().await;
    let parameter = "InvalidParameterValueException";
    let refused = async |qualifier: &str, status, name: &str, message: &str| {
        node.put(&of(qualifier), &provisioning(1)).await.is_error(status, name, message);
    };
    let unpublished = "Provisioned Concurrency Configs cannot be applied to unpublished function versions.";
    refused("$LATEST", 400, parameter, unpublished).await;
    node.name("newest", "$LATEST").await;
    refused("newest", 400, parameter, unpublished).await;
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    let missing = "ResourceNotFoundException";
    refused("9", 404, missing, &format!("Function not found: {arn}:9")).await;
    refused("no", 404, missing, &format!("Cannot find alias arn: {arn}:no")).await;
    let weighted = json!({ "Name": "canary", "FunctionVersion": "2", "RoutingConfig": { "AdditionalVersionWeights": { "3": 0.5 } } });
    node.call("POST", ALIASES, weighted.to_string()).await.ok(201);
    refused("canary", 400, parameter, "Alias with weights can not be used with Provisioned Concurrency")
        .await;

    node.put(&of("live"), &provisioning(1)).await.ok(202);
    let conflict = "ResourceConflictException";
    refused("1", 409, conflict, "Version is pointed by a Provisioned Concurrency alias").await;
    let twice =
        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version";
    node.name("other", "1").await;
    refused("other", 409, conflict, twice).await;
    node.put(&of("2"), &provisioning(1)).await.ok(202);
    node.name("second", "2").await;
    refused("second", 409, conflict, twice).await;

    for (body, constraint) in [
        (
            provisioning(0),
            "Value '0' at 'provisionedConcurrentExecutions' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            json!({}),
            "Value null at 'provisionedConcurrentExecutions' failed to satisfy constraint: Member must not be null",
        ),
    ] {
        let message = format!("1 validation error detected: {constraint}");
        node.put(&of("3"), &body).await.is_error(400, "ValidationException", &message);
    }
    let null = "1 validation error detected: Value null at 'qualifier' failed to satisfy constraint: Member must not be null";
    for method in ["GET", "DELETE"] {
        node.call(method, FUNCTION, Body::empty()).await.is_error(400, "ValidationException", null);
        let resource = "The function resource provided must be an alias or a published version.";
        node.call(method, &of("$LATEST"), Body::empty()).await.is_error(400, parameter, resource);
        let gone = node.call(method, &of("9"), Body::empty()).await;
        gone.is_error(404, missing, &format!("Function not found: {arn}:9"));
    }
    assert_eq!(node.kept(), kept([("1", 1), ("2", 1)]));
}

#[tokio::test]
async fn a_version_has_snapshots_or_provisioned_concurrency() {
    let node = Node::published().await;
    node.invoker.snapshots.send_modify(|made| made.extend([("f".into(), None)]));
    let snap_start = json!({ "SnapStart": { "ApplyOn": "PublishedVersions" } });
    node.put("/2015-03-31/functions/f/configuration", &snap_start).await.ok(200);
    node.settled("f").await;
    node.call("POST", VERSIONS, "{}").await.ok(201);
    let both = "Provisioned Concurrency is not supported for function versions with SnapStart enabled.";
    let parameter = "InvalidParameterValueException";
    node.put(&of("4"), &provisioning(1)).await.is_error(400, parameter, both);
    node.put(&of("live"), &provisioning(1)).await.ok(202);
    let moved = node.put(&format!("{ALIASES}/live"), &json!({ "FunctionVersion": "4" })).await;
    moved.is_error(400, parameter, both);
    assert_eq!(node.kept(), kept([("1", 1)]));
}

#[tokio::test]
async fn its_invocations_are_the_versions_own() {
    let node = Node::published().await;
    node.put(&of("2"), &provisioning(2)).await.ok(202);
    node.put("/2017-10-31/functions/f/concurrency", &json!({ "ReservedConcurrentExecutions": 3 }))
        .await
        .ok(200);
    assert_eq!(node.left().await, 997);
    let invoke = async |name: &str| {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        node.call("POST", &path, "{}").await.status.as_u16()
    };
    // The invoker keeps what it was given: as if it ran.
    assert_eq!((invoke("f").await, invoke("f").await), (200, 429), "one is left beside what is provisioned");
    node.name("two", "2").await;
    assert_eq!((invoke("f:2").await, invoke("f:two").await), (200, 200));
    assert_eq!(invoke("f:2").await, 429);
    node.invoker.seen.lock().unwrap().clear();
    for _ in 0..3 {
        assert_eq!(invoke("f:2").await, 200, "it spills over");
    }
    node.invoker.seen.lock().unwrap().clear();
    node.call("DELETE", "/2017-10-31/functions/f/concurrency", Body::empty()).await.ok(204);
    assert_eq!(node.left().await, 998);
}

#[tokio::test]
async fn a_function_is_called_ten_times_a_second_for_each_that_it_has_reserved() {
    let node = Node::new().await;
    node.function("f").await;
    node.put("/2017-10-31/functions/f/concurrency", &json!({ "ReservedConcurrentExecutions": 1 }))
        .await
        .ok(200);
    let mut refused = None;
    // Some more than ten: time goes on.
    for _ in 0..10_000 {
        node.invoker.seen.lock().unwrap().clear();
        let got = node.call("POST", "/2015-03-31/functions/f/invocations", "{}").await;
        if got.status != 200 {
            refused = Some(got);
            break;
        }
    }
    let refused = refused.unwrap();
    refused.is_error(429, "TooManyRequestsException", "Rate Exceeded.");
    assert_eq!(refused.json()["Reason"], "ReservedFunctionInvocationRateLimitExceeded");
    assert_eq!(refused.header("retry-after"), Some("1"));
}
