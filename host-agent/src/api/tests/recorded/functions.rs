//! As `scripts`, of functions themselves: how they are named, what is changed of them, and what is refused.

use super::*;

const API: &str = "test_lambda_api.snapshot.json";
const FUNCTIONS: &str = "/2015-03-31/functions";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function";

/// What is read of a function that is not there, or not here, and deleted: each as the recordings call it.
const OPERATIONS: &[(&str, &str, &str, &str)] = &[
    ("get_function", "GET", FUNCTIONS, ""),
    ("get_function_configuration", "GET", FUNCTIONS, "/configuration"),
    ("delete_function", "DELETE", FUNCTIONS, ""),
    ("get_function_url_config", "GET", "/2021-10-31/functions", "/url"),
    ("get_function_code_signing_config", "GET", "/2020-06-30/functions", "/code-signing-config"),
    ("get_function_event_invoke_config", "GET", "/2019-09-25/functions", "/event-invoke-config"),
    ("get_function_concurrency", "GET", "/2019-09-30/functions", "/concurrency"),
    ("invoke", "POST", FUNCTIONS, "/invocations"),
];

/// An operation on what a client calls a function; `query` is empty or begins with `?`.
async fn operate(node: &Node, operation: &str, name: &str, query: &str) -> Got {
    let (_, method, before, behind) = OPERATIONS.iter().find(|(known, ..)| *known == operation).unwrap();
    node.call(method, &format!("{before}/{}{behind}{query}", escaped(name)), Body::empty()).await
}

/// As the SDKs write a name into a path.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[tokio::test]
pub(super) async fn updates_that_change_nothing_are_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaFunction::test_redundant_updates") else { return };
    let node = node().await;
    let (function, configuration) = (format!("{FUNCTIONS}/f"), format!("{FUNCTIONS}/f/configuration"));
    let created = node.recorded_with("f", &[("/Description", json!("Initial description"))]).await;
    recorded.check("create_response", &created);
    let update = json!({ "Description": "1st update description" });
    recorded.check("first_update_result", &node.put(&configuration, &update).await);
    node.settled("f").await;
    recorded.check("get_fn_config_result", &node.get(&configuration).await);
    recorded.check("get_fn_result", &node.get(&function).await);
    recorded.check("redundant_update_result", &node.put(&configuration, &update).await);
    node.settled("f").await;
    recorded.check("get_fn_result_after_redundant_update", &node.get(&function).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_new_version_comes_with_new_code_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaVersions::test_publish_with_update") else {
        return;
    };
    let node = node().await;
    let function = format!("{FUNCTIONS}/f");
    recorded.check(
        "create_response",
        &node.create(&with(request("f"), &[("/Runtime", json!("python3.12"))])).await,
    );
    node.settled("f").await;
    recorded.check("get_function_result", &node.get(&function).await);
    let update = json!({ "ZipFile": zip_base64("x = 2"), "Publish": true });
    recorded.check("update_function_code_result", &node.put(&format!("{function}/code"), &update).await);
    recorded.check("get_function_version_result", &node.get(&format!("{function}?Qualifier=1")).await);
    recorded.check("get_function_latest_result", &node.get(&format!("{function}?Qualifier=$LATEST")).await);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn a_name_that_contradicts_its_qualifier_is_refused_as_recorded() {
    let node = node().await;
    for (operation, mut recorded) in
        Recorded::all_of(API, "TestLambdaFunction::test_ops_with_arn_qualifier_mismatch")
    {
        for (answer, version) in [("not_match_exception", "1"), ("match_exception", "$LATEST")] {
            let name = format!("{ARN}:some-function:{version}");
            recorded.check(answer, &operate(&node, &operation, &name, "?Qualifier=%24LATEST").await);
        }
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn what_is_not_there_or_not_here_is_told_as_recorded() {
    let node = node().await;
    node.recorded_function("f").await.ok(201);
    for (test, answer, name, query) in [
        ("test_ops_on_nonexisting_version", "version_not_found_exception", "f".into(), "?Qualifier=1221"),
        ("test_ops_on_nonexisting_fn", "not_found_exception", "g".into(), ""),
        (
            "test_get_function_wrong_region",
            "wrong_region_exception",
            format!("{ARN}:f").replace("us-east-1", "eu-west-1"),
            "",
        ),
    ] {
        for (operation, mut recorded) in Recorded::all_of(API, &format!("TestLambdaFunction::{test}")) {
            recorded.check(answer, &operate(&node, &operation, &name, query).await);
            recorded.finish();
        }
    }
}

#[tokio::test]
pub(super) async fn names_of_functions_to_create_are_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaFunction::test_function_arns") else { return };
    let node = node().await;
    let first = node.recorded_with("f", &[("/FunctionName", json!(format!("{ARN}:f")))]).await;
    recorded.check("create-function-arn-response", &first);
    let second = node.recorded_with("g", &[("/FunctionName", json!("000000000000:function:g"))]).await;
    recorded.check("create-function-partial-arn-response", &second);
    let long = format!("{ARN}:{}", "a".repeat(141 - ARN.len() - 1));
    for (answer, name) in [
        ("invalid_function_name_exc", "invalid:function:name".into()),
        ("long_function_name_exc", "a".repeat(65)),
        ("long_function_arn_exc", long),
        ("function_arn_other_region_exc", format!("{ARN}:h").replace("us-east-1", "ap-southeast-1")),
    ] {
        recorded.check(answer, &node.create(&with(request("f"), &[("/FunctionName", json!(name))])).await);
    }
    recorded.finish();
}

#[tokio::test]
pub(super) async fn malformed_names_and_qualifiers_are_refused_as_recorded() {
    let long = |len: usize| "a".repeat(len);
    let cases = [
        ("invalid_characters_in_function_name", "my-function!".into(), None),
        ("function_name_is_single_invalid", "*".into(), None),
        ("invalid_characters_in_qualifier", "my-function".into(), Some("invalid!".into())),
        ("qualifier_too_long", "my-function".into(), Some(long(129))),
        ("qualifier_too_long0", "my-function".into(), Some(long(129))),
        ("qualifier_too_long1", "my-function".into(), Some(long(65))),
        ("function_name_and_qualifier_too_long", "my-function".into(), Some(long(65))),
        ("invalid_account_id_in_partial_arn", "invalid-account:function:my-function".into(), None),
        ("invalid_region_in_arn", format!("{ARN}:my-function").replace("us-east-1", "invalid-region"), None),
        ("non_lambda_arn", "arn:aws:ec2:us-east-1:000000000000:instance:i-1234567890abcdef0".into(), None),
        ("function_name_too_long", long(65), None),
        (
            "full_arn_and_qualifier_too_long_and_invalid_region",
            format!("{ARN}:my-function-{}", long(170)).replace("us-east-1", "invalid-region"),
            Some(long(129)),
        ),
        ("full_arn_with_multiple_qualifiers", format!("{ARN}:my-function:1:2"), None),
        ("incomplete_arn", ARN.into(), None),
        ("partial_arn_with_extra_qualifier", "function:my-function:$LATEST:extra".into(), None),
        ("latest_version_with_additional_qualifier", format!("{ARN}:my-function:$LATEST"), Some("1".into())),
        ("lowercase_latest_qualifier", format!("{ARN}:my-function"), Some("$latest".into())),
        ("missing_region_in_arn", format!("{ARN}:my-function").replace("us-east-1", ""), None),
        ("missing_account_id_in_arn", format!("{ARN}:my-function").replace("000000000000", ""), None),
        ("misspelled_latest_in_arn", format!("{ARN}:my-function:$LATES"), None),
    ];
    for (case, mut recorded) in
        Recorded::all_of(API, "TestLambdaFunction::test_function_name_and_qualifier_validation")
    {
        // One of them makes a function.
        let node = node().await;
        let (case, operation) = case.rsplit_once('-').unwrap();
        let (_, name, qualifier) = cases.iter().find(|(known, ..)| *known == case).unwrap();
        let name: &String = name;
        let got = match (operation, qualifier) {
            ("create_function", None) => node.create(&request(name)).await,
            ("create_function", Some(qualifier)) => {
                node.create(&request(&format!("{name}:{qualifier}"))).await
            }
            (_, None) => operate(&node, operation, name, "").await,
            (_, Some(qualifier)) => {
                operate(&node, operation, name, &format!("?Qualifier={}", escaped(qualifier))).await
            }
        };
        let answer = format!("{operation}_exception");
        if recorded.answers.get(&answer).is_some() {
            recorded.check_shown(&answer, &problems(&got));
        }
        recorded.finish();
    }
}

/// A refusal as these recordings have it: what violates a constraint, each of it, without the words around it.
fn problems(got: &Got) -> Value {
    let shown = got.json();
    let message = shown["message"].as_str().or_else(|| shown["Message"].as_str()).unwrap_or_default();
    let code = got.header("x-amzn-errortype");
    let problems = Regex::new("Value '[^']*' at '[^']*' failed to satisfy constraint: [^;]+").unwrap();
    let mut errors: Vec<_> = problems.find_iter(message).map(|found| found.as_str()).collect();
    errors.sort_unstable();
    if errors.is_empty() {
        return json!({ "Code": code, "Message": message });
    }
    json!({ "Code": code, "Errors": errors, "Count": errors.len() })
}

#[tokio::test]
pub(super) async fn retired_runtimes_are_refused_as_recorded() {
    let test = "TestRuntimeValidation::test_create_deprecated_function_runtime_with_validation_enabled";
    let node = node().await;
    for (runtime, mut recorded) in Recorded::all_of(API, test) {
        let created = node.create(&with(request("f"), &[("/Runtime", json!(runtime))])).await;
        recorded.check("deprecation_error", &created);
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn how_a_function_logs_is_as_recorded() {
    let configuration = format!("{FUNCTIONS}/f/configuration");
    let (json_format, text) = (json!({ "LogFormat": "JSON" }), json!({ "LogFormat": "Text" }));
    let json_with = |level: &str| json!({ "LogFormat": "JSON", level: "DEBUG" });
    let of_parts = "TestLoggingConfig::test_function_partial_advanced_logging_configuration_update";
    for (test, updates) in [
        (
            "TestLoggingConfig::test_advanced_logging_configuration_format_switch".to_owned(),
            vec![("", &json_format), ("_v2", &text)],
        ),
        (format!("{of_parts}[partial_config0]"), vec![("", &json_format)]),
        (format!("{of_parts}[partial_config1]"), vec![("", &json_with("ApplicationLogLevel"))]),
        (format!("{of_parts}[partial_config2]"), vec![("", &json_with("SystemLogLevel"))]),
    ] {
        let Some(mut recorded) = Recorded::of(API, &test) else { return };
        let node = node().await;
        let members = [("/MemorySize", json!(256)), ("/Timeout", json!(5))];
        recorded.check("create_response", &node.recorded_with("f", &members).await);
        recorded.check("get_function_response", &node.get(&format!("{FUNCTIONS}/f")).await);
        recorded.check("function_config", &node.get(&configuration).await);
        for (behind, update) in updates {
            let got = node.put(&configuration, &json!({ "LoggingConfig": update })).await;
            recorded.check(&format!("updated_config{behind}"), &got);
            node.settled("f").await;
            recorded.check(&format!("received_config{behind}"), &node.get(&configuration).await);
        }
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn snap_start_is_as_recorded() {
    for (test, runtime, handler) in [
        ("test_snapstart_lifecycle", "java11", "echo.Handler"),
        ("test_snapstart_lifecycle", "java17", "echo.Handler"),
        ("test_snapstart_lifecycle", "java25", "echo.Handler"),
        ("test_snapstart_lifecycle", "dotnet8", "dotnet::Dotnet.Function::FunctionHandler"),
        ("test_snapstart_lifecycle", "python3.12", "handler.handler"),
        ("test_snapstart_update_function_configuration", "java11", "echo.Handler"),
        ("test_snapstart_update_function_configuration", "python3.12", "handler.handler"),
        ("test_snapstart_update_function_configuration", "python3.13", "handler.handler"),
    ] {
        let name = format!("TestLambdaSnapStart::{test}[{runtime}]");
        let Some(mut recorded) = Recorded::of(API, &name) else { return };
        let node = node_of_all().await;
        let function = format!("{FUNCTIONS}/f");
        let members = [
            ("/Runtime", json!(runtime)),
            ("/Handler", json!(handler)),
            ("/MemorySize", json!(1024)),
            ("/Timeout", json!(5)),
        ];
        recorded.check("create_function_response", &node.create(&with(request("f"), &members)).await);
        node.settled("f").await;
        if test == "test_snapstart_lifecycle" {
            let version = json!({ "Description": "version1" });
            node.post(&format!("{function}/versions"), &version).await.ok(201);
            recorded.check("get_function_response_latest", &node.get(&function).await);
            recorded.check("get_function_response_version_1", &node.get(&format!("{function}:1")).await);
        } else {
            let snap_start = json!({ "SnapStart": { "ApplyOn": "PublishedVersions" } });
            let updated = node.put(&format!("{function}/configuration"), &snap_start).await;
            recorded.check("update_function_response", &updated);
        }
        recorded.finish();
    }
}

#[tokio::test]
pub(super) async fn a_long_environment_is_kept_as_recorded() {
    let test = "TestLambdaSizeLimits::test_lambda_envvars_near_limit_succeeds";
    let Some(mut recorded) = Recorded::of(API, test) else { return };
    let node = node().await;
    // 4 KiB with its name and the JSON around it.
    let variables = json!({ "LARGE_VAR": "x".repeat(4096 - 7 - "LARGE_VAR".len()) });
    let created = node.recorded_with("f", &[("/Environment/Variables", variables)]).await;
    recorded.check("successful_create_fn_result", &created);
    recorded.finish();
}

#[tokio::test]
pub(super) async fn the_account_is_as_recorded() {
    let Some(mut recorded) = Recorded::of(API, "TestLambdaAccountSettings::test_account_settings") else {
        return;
    };
    let node = node().await;
    let mut shown = as_boto_reads(&node.get("/2016-08-19/account-settings").await);
    // How much there is of each differs from account to account.
    for part in ["AccountLimit", "AccountUsage"] {
        let mut names: Vec<_> = shown[part].as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        shown[part] = json!(names);
    }
    recorded.check_shown("acc_settings_modded", &shown);
    recorded.finish();
}
