//! The requests that the recorded answers belong to.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const DESTINATIONS: &str = "test_lambda_destinations.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";

#[tokio::test]
pub(super) async fn permissions_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaPermissions::test_permission_exceptions") else {
        return;
    };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let permission = |sid: &str, principal: &str| json!({ "StatementId": sid, "Action": "lambda:InvokeFunction", "Principal": principal });
    let s3 = permission("s3", "s3.amazonaws.com");
    let path = |name: &str| format!("{FUNCTIONS}/{name}/policy");
    for (answer, name, body) in [
        ("add_permission_invalid_statement_id", "f", permission("example.com", "s3.amazonaws.com")),
        ("add_permission_fn_qualifier_latest", "f:$LATEST", s3.clone()),
        ("add_permission_principal_invalid", "f", permission("lambda", "invalid.nonaws.com")),
        ("add_permission_fn_doesnotexist", "doesnotexist", s3.clone()),
        ("add_permission_fn_alias_doesnotexist", "f:alias-doesnotexist", s3.clone()),
        ("add_permission_fn_version_doesnotexist", "f:42", s3.clone()),
    ] {
        recorded.check(answer, &node.post(&path(name), &body).await);
    }
    for (answer, qualifier) in [
        ("add_permission_fn_qualifier_invalid", "invalid-qualifier-with-%3F-char"),
        ("add_permission_fn_qualifier_valid_doesnotexist", "valid-with-$-but-doesnotexist"),
    ] {
        recorded.check(answer, &node.post(&format!("{}?Qualifier={qualifier}", path("f")), &s3).await);
    }
    let mismatch = format!("{}?Qualifier=$LATEST", path("f:alias"));
    recorded.check("add_permission_fn_qualifier_mismatch", &node.post(&mismatch, &s3).await);
    recorded.check("get_policy_fn_doesnotexist", &node.get(&path("doesnotexist")).await);
    recorded.check("get_policy_fn_version_doesnotexist", &node.get(&path("f:42")).await);
    for (answer, name) in [
        ("remove_permission_policy_doesnotexist", "f"),
        ("remove_permission_fn_doesnotexist", "doesnotexist"),
        ("remove_permission_fn_alias_doesnotexist", "f:alias-doesnotexist"),
    ] {
        recorded.check(answer, &node.delete(&format!("{}/s3", path(name))).await);
    }
    node.post(&path("f"), &s3).await.ok(201);
    recorded.check("add_permission_conflicting_statement_id", &node.post(&path("f"), &s3).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn policies_of_versions_and_aliases_are_as_recorded() {
    let test = "TestLambdaPermissions::test_lambda_permission_fn_versioning";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let s3 = json!({
        "StatementId": "s3",
        "Action": "lambda:InvokeFunction",
        "Principal": "s3.amazonaws.com",
        "SourceArn": "arn:aws:s3:::bucket",
    });
    let path = format!("{FUNCTIONS}/f/policy");
    recorded.check("add_permission", &node.post(&path, &s3).await);
    recorded.check("get_policy", &node.get(&path).await);
    recorded
        .check("publish_version_result", &node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await);
    recorded.check("get_function_result_after_publishing", &node.get(&format!("{FUNCTIONS}/f")).await);
    recorded.check("get_policy_after_publishing_latest", &node.get(&path).await);
    let version = format!("{path}?Qualifier=1");
    recorded.check("get_policy_after_publishing_new_version", &node.get(&version).await);
    node.post(&version, &s3).await.ok(201);
    recorded.check("get_policy_version", &node.get(&version).await);
    let alias = json!({ "Name": "permission-alias", "FunctionVersion": "1" });
    recorded.check("create_alias_response", &node.post(&format!("{FUNCTIONS}/f/aliases"), &alias).await);
    let got = node.get(&format!("{FUNCTIONS}/f/aliases/permission-alias")).await;
    recorded.check("get_alias", &got);
    let alias = format!("{path}?Qualifier=permission-alias");
    let wrong = with(s3.clone(), &[("/RevisionId", json!("wrong"))]);
    recorded.check("add_permission_alias_revision_exception", &node.post(&alias, &wrong).await);
    let right = with(s3.clone(), &[("/RevisionId", got.json()["RevisionId"].clone())]);
    node.post(&alias, &right).await.ok(201);
    recorded.check("get_policy_alias", &node.get(&alias).await);
    recorded.check("get_policy_after_adding_to_new_version", &node.get(&path).await);
    let another = with(s3, &[("/StatementId", json!("s3_2"))]);
    node.post(&path, &another).await.ok(201);
    recorded.check("get_policy_after_adding_2", &node.get(&path).await);
    recorded.finish();
}

/// An earlier recording of the same: since then a publication changes no revision, and a version's policy that is not there is told otherwise.
#[tokio::test]
pub(super) async fn policies_of_a_function_and_a_version_are_apart_as_recorded() {
    let test = "TestLambdaPermissions::test_lambda_permission_versioning";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let s3 = json!({
        "StatementId": "s3",
        "Action": "lambda:InvokeFunction",
        "Principal": "s3.amazonaws.com",
        "SourceArn": "arn:aws:s3:::bucket",
    });
    let path = format!("{FUNCTIONS}/f/policy");
    recorded.check("add_permission", &node.post(&path, &s3).await);
    recorded.check("get_policy", &node.get(&path).await);
    node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await.ok(201);
    node.post(&format!("{path}?Qualifier=1"), &s3).await.ok(201);
    let another = with(s3, &[("/StatementId", json!("s3_2"))]);
    node.post(&path, &another).await.ok(201);
    recorded.check("get_policy_after_adding_2", &node.get(&path).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_dead_letter_queue_is_kept_as_recorded() {
    let Some(mut recorded) = Recorded::of(DESTINATIONS, "TestLambdaDLQ::test_dead_letter_queue") else {
        return;
    };
    let node = node().await;
    let queue = json!({ "TargetArn": "arn:aws:sqs:us-east-1:000000000000:q" });
    recorded.check("create_lambda_with_dlq", &node.recorded_with("f", &[("/DeadLetterConfig", queue)]).await);
    let path = format!("{FUNCTIONS}/f/configuration");
    recorded.check("delete_dlq", &node.put(&path, &json!({ "DeadLetterConfig": {} })).await);
    node.settled("f").await;
    recorded.called_as_it_was(&node, "invoke_result", "f/invocations").await;
    recorded.finish();
}

#[tokio::test]
pub(super) async fn destinations_are_kept_as_recorded() {
    let test = "TestLambdaDestinationSqs::test_lambda_destination_default_retries";
    let Some(mut recorded) = Recorded::of(DESTINATIONS, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let queue = json!({ "Destination": "arn:aws:sqs:us-east-1:000000000000:q" });
    let config = json!({ "DestinationConfig": { "OnSuccess": queue, "OnFailure": queue } });
    let got = node.put("/2019-09-25/functions/f/event-invoke-config", &config).await;
    recorded.check("put_function_event_invoke_config", &got);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn event_invoke_configurations_live_as_recorded() {
    let test = "TestLambdaEventInvokeConfig::test_lambda_eventinvokeconfig_lifecycle";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let path = "/2019-09-25/functions/f/event-invoke-config";
    let (retries, age) = (json!({ "MaximumRetryAttempts": 0 }), json!({ "MaximumEventAgeInSeconds": 60 }));
    recorded.check("put_invokeconfig_retries_0", &node.put(path, &retries).await);
    recorded.check("put_invokeconfig_eventage_60", &node.put(path, &age).await);
    recorded.check("update_invokeconfig_eventage_nochange", &node.post(path, &age).await);
    recorded
        .check("update_invokeconfig_retries", &node.post(path, &json!({ "MaximumRetryAttempts": 1 })).await);
    recorded.check("get_invokeconfig", &node.get(path).await);
    recorded.check("get_invokeconfig_latest", &node.get(&format!("{path}?Qualifier=$LATEST")).await);
    recorded.check("list_single_invokeconfig", &node.get(&format!("{path}/list")).await);
    recorded
        .check("publish_version_result", &node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await);
    let version = format!("{path}?Qualifier=1");
    recorded.check("get_invokeconfig_postpublish", &node.get(&version).await);
    let later = json!({ "MaximumEventAgeInSeconds": 120 });
    recorded.check("put_published_invokeconfig", &node.put(&version, &later).await);
    recorded.check("get_published_invokeconfig", &node.get(&version).await);
    node.delete(path).await.ok(204);
    recorded.check("list_paging_nolimit_postdelete", &node.get(&format!("{path}/list")).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn event_invoke_configurations_are_refused_as_recorded() {
    let test = "TestLambdaEventInvokeConfig::test_lambda_eventinvokeconfig_exceptions";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    node.recorded_function("other").await.ok(201);
    recorded.check("fn_version_result", &node.post(&format!("{FUNCTIONS}/f/versions"), &json!({})).await);
    let alias = json!({ "Name": "eventinvokealias", "FunctionVersion": "1" });
    recorded.check("fn_alias_result", &node.post(&format!("{FUNCTIONS}/f/aliases"), &alias).await);
    let of = |name: &str| format!("/2019-09-25/functions/{name}/event-invoke-config");
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    let once = json!({ "MaximumRetryAttempts": 1 });
    let to = |on: &str, arn: &str| json!({ "DestinationConfig": { on: { "Destination": arn } } });
    let nowhere = |on: &str| json!({ "DestinationConfig": { on: {} } });
    for (answer, name, body) in [
        ("put_functionname_name_notfound", "doesnotexist", &once),
        ("put_functionname_arn_notfound", &*arn.replace(":f", ":d").replace(":dunction", ":function"), &once),
        ("put_functionname_nootherargs", "f", &json!({})),
        (
            "put_destination_lambda_doesntexist",
            "f",
            &to("OnSuccess", &arn.replace("function:f", "function:doesnotexist")),
        ),
        ("put_destination_recursive", "f", &to("OnSuccess", arn)),
        ("put_destination_other_lambda", "f", &to("OnSuccess", &arn.replace("function:f", "function:other"))),
        ("put_destination_invalid_service_arn", "f", &to("OnSuccess", &arn.replace(":lambda:", ":iam:"))),
        ("put_destination_success_no_destination_arn", "f", &nowhere("OnSuccess")),
        ("put_destination_failure_no_destination_arn", "f", &nowhere("OnFailure")),
        (
            "put_destination_invalid_arn_pattern",
            "f",
            &to("OnFailure", &arn.replace(":lambda:", ":_-/!lambda:")),
        ),
        ("put_destination_latest", "f", &once),
        ("put_destination_latest_explicit_qualifier", "f?Qualifier=$LATEST", &once),
        ("put_destination_version", "f?Qualifier=1", &once),
        ("put_alias_functionname_qualifier", "f?Qualifier=eventinvokealias", &once),
        ("put_alias_doesnotexist", "f?Qualifier=eventinvokealiasdoesnotexist", &once),
        ("put_alias_qualifiedarn", &format!("{arn}:eventinvokealias"), &once),
        (
            "put_alias_qualifiedarn_qualifier",
            &format!("{arn}:eventinvokealias?Qualifier=eventinvokealias"),
            &once,
        ),
        (
            "put_alias_qualifiedarn_qualifierconflict",
            &format!("{arn}:eventinvokealias?Qualifier=other"),
            &once,
        ),
        ("put_alias_shorthand", "f:eventinvokealias", &once),
        ("put_alias_shorthand_qualifier", "f:eventinvokealias?Qualifier=eventinvokealias", &once),
        ("put_alias_shorthand_qualifierconflict", "f:eventinvokealias?Qualifier=other", &once),
        ("put_version_shorthand", "f:1", &once),
        ("put_shorthand_qualifier_match", "f:$LATEST?Qualifier=$LATEST", &once),
        ("put_shorthand_qualifier_mismatch_1", "f:$LATEST?Qualifier=1", &once),
        ("put_shorthand_qualifier_mismatch_2", "f:1?Qualifier=$LATEST", &once),
        ("put_shorthand_qualifier_mismatch_3", "f:$LATEST?Qualifier=eventinvokealias", &once),
        (
            "put_maxevent_maxvalue_result",
            "f",
            &json!({ "MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 21_600 }),
        ),
        ("put_pre_overwrite", "f", &json!({ "MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 60 })),
        ("put_post_overwrite", "f", &json!({ "MaximumRetryAttempts": 0 })),
        ("second_overwrite_existing_response", "f", &json!({ "MaximumRetryAttempts": 0 })),
    ] {
        let (name, query) =
            name.split_once('?').map_or((name, String::new()), |(name, query)| (name, format!("?{query}")));
        recorded.check(answer, &node.put(&(of(name) + &query), body).await);
    }
    recorded.check("get_post_overwrite", &node.get(&of("f")).await);
    let both = json!({ "MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 60 });
    recorded.check("pre_update_response", &node.put(&of("f"), &both).await);
    for answer in ["update_response", "update_response_existing"] {
        recorded.check(answer, &node.post(&of("f"), &json!({ "MaximumRetryAttempts": 0 })).await);
    }
    recorded.check("list_configs", &node.get(&(of("f") + "/list")).await);
    for (answer, name) in
        [("delete_latest", "f"), ("delete_version", "f:1"), ("delete_alias", "f:eventinvokealias")]
    {
        recorded.check(answer, &node.delete(&of(name)).await);
    }
    recorded.check("list_configs_postdelete", &node.get(&(of("f") + "/list")).await);
    recorded.check("delete_function_not_found", &node.delete(&of("f")).await);
    recorded.check("delete_function_doesnotexist", &node.delete(&of("doesnotexist")).await);
    recorded.check("list_function_doesnotexist", &node.get(&(of("doesnotexist") + "/list")).await);
    recorded.check("get_function_doesnotexist", &node.get(&of("doesnotexist")).await);
    recorded.check("get_qualifier_doesnotexist", &node.get(&(of("f") + "?Qualifier=doesnotexist")).await);
    recorded.check(
        "update_eventinvokeconfig_function_doesnotexist",
        &node.post(&of("doesnotexist"), &once).await,
    );
    recorded.check("get_eventinvokeconfig_doesnotexist", &node.get(&of("f:eventinvokealias")).await);
    let answer = "update_eventinvokeconfig_config_doesnotexist_with_qualifier";
    recorded.check(answer, &node.post(&of("f:eventinvokealias"), &once).await);
    let answer = "update_eventinvokeconfig_config_doesnotexist_without_qualifier";
    recorded.check(answer, &node.post(&of("f"), &once).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_loop_of_no_known_kind_is_refused_as_recorded() {
    let test = "TestLambdaRecursion::test_put_function_recursion_config_invalid_value";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let path = "/2024-08-31/functions/f/recursion-config";
    let refused = node.put(path, &json!({ "RecursiveLoop": "InvalidValue" })).await;
    recorded.check("put_recursion_invalid_value_error", &refused);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn reserved_concurrency_is_as_recorded() {
    let test = "TestLambdaConcurrency::test_lambda_concurrency_crud";
    let Some(mut recorded) = Recorded::of("test_lambda.snapshot.json", test) else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let (put, get) = ("/2017-10-31/functions/f/concurrency", "/2019-09-30/functions/f/concurrency");
    recorded.check("get_function_concurrency_default", &node.get(get).await);
    let none = json!({ "ReservedConcurrentExecutions": 0 });
    recorded.check("put_function_concurrency", &node.put(put, &none).await);
    recorded.check("get_function_concurrency_updated", &node.get(get).await);
    node.delete(put).await.ok(204);
    recorded.check("get_function_concurrency_deleted", &node.get(get).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn an_alias_that_is_not_there_is_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaAlias::test_non_existent_alias_update") else {
        return;
    };
    let node = node().await;
    let members = [
        ("/Runtime", json!("python3.12")),
        ("/Environment", json!({ "Variables": { "testenv": "staging" } })),
    ];
    recorded.check("create_response", &node.create(&with(request("f"), &members)).await);
    let path = format!("{FUNCTIONS}/f/aliases/non-existent");
    recorded.check("update_alias_response", &node.put(&path, &json!({ "FunctionVersion": "$LATEST" })).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn versions_live_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaVersions::test_version_lifecycle") else { return };
    let node = node().await;
    let members = [("/Runtime", json!("python3.12")), ("/Description", json!("No version :("))];
    let (function, versions) = (format!("{FUNCTIONS}/f"), format!("{FUNCTIONS}/f/versions"));
    let described = |text: &str| json!({ "Description": text });
    let configuration = format!("{function}/configuration");
    recorded.check("create_response", &node.create(&with(request("f"), &members)).await);
    node.settled("f").await;
    recorded.check("get_function_result", &node.get(&function).await);
    recorded.check("list_versions_result", &node.get(&versions).await);
    recorded.check("first_update_response", &node.put(&configuration, &described("First version :)")).await);
    node.settled("f").await;
    recorded.check("first_update_get_function", &node.get(&function).await);
    let published = node.post(&versions, &described("First version description :)")).await;
    recorded.check("first_publish_response", &published);
    let first = format!("{function}?Qualifier=1");
    recorded.check("first_publish_get_function", &node.get(&first).await);
    recorded
        .check("first_publish_get_function_config", &node.get(&format!("{configuration}?Qualifier=1")).await);
    recorded
        .check("second_update_response", &node.put(&configuration, &described("Second version :))")).await);
    node.settled("f").await;
    recorded.check("first_publish_get_function_after_update", &node.get(&first).await);
    recorded.check("second_publish_response", &node.post(&versions, &json!({})).await);
    recorded.check("third_publish_response", &node.post(&versions, &json!({})).await);
    recorded.check("list_versions_result_after_third_publish", &node.get(&versions).await);
    node.delete(&first).await.ok(204);
    recorded.check("list_versions_result_after_deletion_of_first_version", &node.get(&versions).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn tags_are_refused_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaTags::test_tag_exceptions") else { return };
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    let of = |arn: &str| format!("/2017-03-31/tags/{}", arn.replace(':', "%3A"));
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    let tags = json!({ "Tags": { "a": "b" } });
    let nowhere = arn.replace("function:f", "function:doesnotexist");
    for (answer, arn) in [
        ("tag_lambda_invalidarn", "arn:aws:something"),
        ("tag_lambda_doesnotexist", &nowhere),
        ("tag_lambda_qualifier_doesnotexist", &format!("{arn}:v1")),
    ] {
        recorded.check(answer, &node.post(&of(arn), &tags).await);
    }
    recorded.check("list_tag_lambda_empty", &node.get(&of(arn)).await);
    recorded.check("untag_nomatch", &node.delete(&format!("{}?tagKeys=foo", of(arn))).await);
    recorded.check("untag_empty_keys", &node.delete(&of(arn)).await);
    recorded.check("tag_empty_tags", &node.post(&of(arn), &json!({ "Tags": {} })).await);
    recorded.finish();
}
