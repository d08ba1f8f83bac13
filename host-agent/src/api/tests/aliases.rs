//! Aliases.

use super::*;

const ALIASES: &str = "/2015-03-31/functions/f/aliases";
const LIVE: &str = "/2015-03-31/functions/f/aliases/live";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

impl Node {
    /// A function `f` with so many versions.
    async fn with_versions(count: u32) -> Self {
        let node = Self::new().await;
        node.function("f").await;
        for number in 0..count {
            let change = json!({ "Description": number.to_string() });
            node.put("/2015-03-31/functions/f/configuration", &change).await.ok(200);
            node.settled("f").await;
            node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
        }
        node
    }

    async fn alias(&self, body: &Value) -> Got {
        self.call("POST", ALIASES, body.to_string()).await
    }

    /// The version that answers.
    async fn executed(&self, qualifier: &str) -> String {
        let got = self.call("POST", &format!("/2015-03-31/functions/f:{qualifier}/invocations"), "{}").await;
        got.header("x-amz-executed-version").unwrap_or_else(|| panic!("{got:?}")).to_owned()
    }
}

#[tokio::test]
async fn an_alias_is_made_read_moved_and_removed() {
    let node = Node::with_versions(2).await;
    let made = node.alias(&json!({ "Name": "live", "FunctionVersion": "1" })).await.ok(201);
    let expected = json!({
        "AliasArn": format!("{ARN}:live"),
        "Name": "live",
        "FunctionVersion": "1",
        "Description": "",
        "RevisionId": made["RevisionId"],
    });
    assert_eq!(made, expected);
    assert_eq!(node.get(LIVE).await.ok(200), made);
    assert_eq!(node.executed("live").await, "1");
    assert_eq!(node.invoker.seen.lock().unwrap().pop().unwrap().invoked_arn, format!("{ARN}:live"));
    let got = node.get("/2015-03-31/functions/f?Qualifier=live").await.ok(200)["Configuration"].clone();
    assert_eq!((&got["FunctionArn"], &got["Version"]), (&json!(format!("{ARN}:live")), &json!("1")));

    let moved = node.put(LIVE, &json!({ "FunctionVersion": "2" })).await.ok(200);
    assert_ne!(moved["RevisionId"], made["RevisionId"]);
    assert_eq!(node.executed("live").await, "2");
    let described =
        node.put(LIVE, &json!({ "Description": "d", "RevisionId": moved["RevisionId"] })).await.ok(200);
    assert_eq!((&described["FunctionVersion"], &described["Description"]), (&json!("2"), &json!("d")));

    let node = node.restarted().await;
    assert_eq!(node.get(LIVE).await.ok(200), described);
    for _ in 0..2 {
        node.call("DELETE", LIVE, Body::empty()).await.ok(204);
    }
    let gone = node.get(LIVE).await;
    gone.is_error(404, "ResourceNotFoundException", &format!("Cannot find alias arn: {ARN}:live"));
    let missing = node.call("POST", "/2015-03-31/functions/f:live/invocations", "{}").await;
    missing.is_error(404, "ResourceNotFoundException", &format!("Function not found: {ARN}:live"));
}

#[tokio::test]
async fn weights_route() {
    let node = Node::with_versions(2).await;
    let routing = |weight: f64| json!({ "RoutingConfig": { "AdditionalVersionWeights": { "2": weight } } });
    node.alias(&json!({ "Name": "live", "FunctionVersion": "1" })).await.ok(201);
    for (weight, expected) in [(1.0, "2"), (0.0, "1")] {
        let updated = node.put(LIVE, &routing(weight)).await.ok(200);
        assert_eq!(updated["RoutingConfig"], routing(weight)["RoutingConfig"]);
        for _ in 0..20 {
            assert_eq!(node.executed("live").await, expected);
        }
    }
    node.put(LIVE, &routing(0.5)).await.ok(200);
    let mut seen = HashSet::new();
    while seen.len() < 2 {
        seen.insert(node.executed("live").await);
    }
    let plain = node.put(LIVE, &json!({ "RoutingConfig": {} })).await.ok(200);
    assert_eq!(plain.get("RoutingConfig"), None);
}

#[tokio::test]
async fn lists_are_by_name_and_by_version() {
    let node = Node::with_versions(2).await;
    for (name, version) in [("c", "1"), ("a", "2"), ("b", "1")] {
        node.alias(&json!({ "Name": name, "FunctionVersion": version })).await.ok(201);
    }
    let names = async |query: &str| {
        let list = node.get(&format!("{ALIASES}?{query}")).await.ok(200);
        let names = list["Aliases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|alias| alias["Name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>().join(" "), list["NextMarker"].as_str().map(String::from))
    };
    assert_eq!(names("").await, ("a b c".into(), None));
    assert_eq!(names("FunctionVersion=1").await, ("b c".into(), None));
    let (first, marker) = names("MaxItems=2").await;
    assert_eq!(first, "a b");
    assert_eq!(names(&format!("Marker={}", marker.unwrap().replace('=', "%3D"))).await, ("c".into(), None));
}

#[tokio::test]
async fn what_an_alias_cannot_be_is_refused_in_aws_words() {
    let node = Node::with_versions(2).await;
    node.alias(&json!({ "Name": "live", "FunctionVersion": "1" })).await.ok(201);
    let routed = |version: &str, weights: Value| json!({ "Name": "x", "FunctionVersion": version, "RoutingConfig": { "AdditionalVersionWeights": weights } });
    let violated = |member: &str, value: &str, constraint: &str| {
        format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        )
    };
    let parameter = "InvalidParameterValueException";
    let name = "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)";
    let weights = "routingConfig.additionalVersionWeights";
    let value = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have \
                 value greater than or equal to 0.0, Member must not be null]";
    let keys = "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have \
                length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must \
                not be null]";
    for (body, status, error, message) in [
        (
            json!({ "Name": "live", "FunctionVersion": "1" }),
            409,
            "ResourceConflictException",
            format!("Alias already exists: {ARN}:live"),
        ),
        (
            json!({ "Name": "x", "FunctionVersion": "7" }),
            404,
            "ResourceNotFoundException",
            format!("Function not found: {ARN}:7"),
        ),
        (
            json!({ "Name": "12", "FunctionVersion": "1" }),
            400,
            "ValidationException",
            violated("name", "12", name),
        ),
        (
            json!({ "Name": "x", "FunctionVersion": "live" }),
            400,
            "ValidationException",
            violated(
                "functionVersion",
                "live",
                r"Member must satisfy regular expression pattern: (\$LATEST(\.PUBLISHED)?|[0-9]+)",
            ),
        ),
        (routed("1", json!({ "2": 1.5 })), 400, "ValidationException", violated(weights, "{2=1.5}", value)),
        (
            routed("1", json!({ "$LATEST": 0.5 })),
            400,
            "ValidationException",
            violated(weights, "{$LATEST=0.5}", keys),
        ),
        (
            routed("1", json!({ "2": 0.5, "1": 0.1 })),
            400,
            parameter,
            "Number of items in AdditionalVersionWeights cannot be greater than 1".into(),
        ),
        (
            routed("$LATEST", json!({ "1": 0.5 })),
            400,
            parameter,
            "$LATEST is not supported for an alias pointing to more than 1 version".into(),
        ),
        (
            routed("1", json!({ "1": 0.5 })),
            400,
            parameter,
            "Invalid function version 1. Function version 1 is already included in routing configuration."
                .into(),
        ),
        (
            routed("1", json!({ "7": 0.5 })),
            404,
            "ResourceNotFoundException",
            format!("Function not found: {ARN}:7"),
        ),
    ] {
        node.alias(&body).await.is_error(status, error, &message);
    }
    let stale = node.put(LIVE, &json!({ "RevisionId": "stale" })).await;
    assert_eq!(
        (stale.status.as_u16(), stale.header("x-amzn-errortype")),
        (412, Some("PreconditionFailedException"))
    );
    let other = node.put("/2015-03-31/functions/f/aliases/other", &json!({})).await;
    other.is_error(404, "ResourceNotFoundException", &format!("Alias not found: {ARN}:other"));
    assert_eq!(node.get(ALIASES).await.ok(200)["Aliases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_version_that_an_alias_names_stays() {
    let node = Node::with_versions(1).await;
    node.alias(&json!({ "Name": "live", "FunctionVersion": "1" })).await.ok(201);
    let message = "Unable to delete version because the following aliases reference it: [live]";
    let delete = || node.call("DELETE", "/2015-03-31/functions/f?Qualifier=1", Body::empty());
    delete().await.is_error(409, "ResourceConflictException", message);
    node.call("DELETE", LIVE, Body::empty()).await.ok(204);
    delete().await.ok(204);
}

#[tokio::test]
async fn a_version_is_one_however_its_number_is_written() {
    let node = Node::with_versions(2).await;
    let routing = json!({ "AdditionalVersionWeights": { "02": 0.0 } });
    let body = json!({ "Name": "live", "FunctionVersion": "001", "RoutingConfig": routing });
    assert_eq!(node.alias(&body).await.ok(201)["FunctionVersion"], "1");
    assert_eq!(
        node.get(&format!("{ALIASES}?FunctionVersion=02")).await.ok(200)["Aliases"][0]["Name"],
        "live"
    );
    let message = "Unable to delete version because the following aliases reference it: [live]";
    for version in ["1", "01", "2", "002"] {
        let got = node.call("DELETE", &format!("/2015-03-31/functions/f?Qualifier={version}"), "").await;
        got.is_error(409, "ResourceConflictException", message);
    }
}
