//! How much of what was recorded is replayed, and why the rest is not.

use super::*;

/// The scripts, which name the tests that they replay.
const SCRIPTS: &str = concat!(
    include_str!("functions.rs"),
    include_str!("images.rs"),
    include_str!("invoked.rs"),
    include_str!("layers.rs"),
    include_str!("provisioned.rs"),
    include_str!("runtimes.rs"),
    include_str!("scripts.rs"),
    include_str!("tags.rs"),
    include_str!("urls.rs"),
);

const FILES: &[&str] = &[
    "test_lambda.snapshot.json",
    API,
    "test_lambda_common.snapshot.json",
    "test_lambda_destinations.snapshot.json",
    "test_lambda_integration_xray.snapshot.json",
    "test_lambda_runtimes.snapshot.json",
];
/// The one in which hardly any function is called.
const API: &str = "test_lambda_api.snapshot.json";
/// Of the answers of operations that are served, as the percentage that is promised.
const PROMISED: usize = 90;

/// Why an answer is not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The operation, or the service, is none of the node's.
    Refused,
    /// Of a runtime that a node neither has nor has a stand-in for.
    Runtime,
    /// A function made it, or a part of it.
    Guest,
    /// AWS answers otherwise by now, as later recordings show.
    Older,
    /// Something is meant to be different here: what it is needs other services of AWS's.
    Differs,
}
use Why::{Differs, Guest, Older, Refused, Runtime};

/// By the beginning of a test's name, and that of its answers' names.
const LEFT_OUT: &[(&str, &str, Why)] = &[
    ("TestLambdaEventSourceMappings::", "", Refused),
    ("TestLambdaRecursion::", "", Refused),
    ("TestCodeSigningConfig::test_function_code_signing_config", "", Refused),
    ("TestLambdaDestinationEventbridge::", "", Refused),
    // No reason is given by AWS, where a node says it.
    ("TestLambdaFunction::test_function_arns", "function_arn_other_account_exc", Differs),
    // AWS failed.
    ("TestLambdaUrl::", "delete_function_url_config_qualifier_alias_doesnotmatch_arn", Differs),
    // Networks and buckets of AWS's.
    ("TestLambdaFunction::test_vpc_config", "", Differs),
    ("TestLambdaFunction::test_lambda_code_location_s3", "", Differs),
    ("TestLambdaPermissions::test_lambda_permission_versioning", "", Older),
    ("TestLambdaFeatures::test_basic_invoke", "", Older),
    // Whose names and makers other services of AWS's keep.
    ("TestLambdaBaseFeatures::test_assume_role", "", Differs),
    ("TestLambdaFeatures::test_upload_lambda_from_s3", "creation", Differs),
    // On the other architecture.
    ("TestLambdaBehavior::test_mixed_architecture", "", Differs),
    // From a bucket; zips that are too large: `a_declared_bomb_is_refused_by_its_size`.
    ("TestLambdaSizeLimits::test_oversized_lambda", "", Differs),
    // Differences of sizes, made by who recorded.
    ("TestLambdaAccountSettings::test_account_settings_total_code_size_config_update", "", Guest),
    ("TestCloudwatchLogs::", "", Guest),
    ("TestJavaRuntimes::", "invoke", Guest),
    ("TestLambdaAliases::test_lambda_alias_moving", "invocation_result", Guest),
    ("TestLambdaBaseFeatures::test_lambda_too_large_response", "", Guest),
    ("TestLambdaBehavior::", "first_invoke", Guest),
    ("TestLambdaBehavior::", "invoke", Guest),
    ("TestLambdaBehavior::", "lambda-init", Guest),
    ("TestLambdaBehavior::", "second_invoke", Guest),
    ("TestLambdaDLQ::", "invoke_result", Guest),
    ("TestLambdaDLQ::", "log_result", Guest),
    ("TestLambdaDLQ::", "receive_result", Guest),
    ("TestLambdaDestinationSqs::", "no_retry", Guest),
    ("TestLambdaDestinationSqs::", "queue", Guest),
    ("TestLambdaDestinationSqs::", "receive", Guest),
    ("TestLambdaDestinationSqs::", "single_retry", Guest),
    ("TestLambdaErrors::", "", Guest),
    ("TestLambdaFeatures::test_invocation_with_logs", "", Guest),
    ("TestLambdaFeatures::", "invocation", Guest),
    ("TestLambdaFeatures::", "log_result", Guest),
    ("TestLambdaRuntimesCommon::", "error_result", Guest),
    ("TestLambdaRuntimesCommon::", "invocation_result", Guest),
    ("TestLambdaURL::test_lambda_url_echo_http", "", Guest),
    ("TestNodeJSRuntimes::", "invocation", Guest),
    ("TestRequestIdHandling::", "end_log", Guest),
    ("TestRequestIdHandling::", "lambda_url", Guest),
];

/// What tests are given whose functions are of runtimes that no node has.
const NO_RUNTIME: &[&str] =
    &["dotnet", "java25", "java8", "nodejs16", "provided.al2]", "python3.8", "python3.9", "ruby"];
/// Such tests.
const BY_RUNTIME: &[&str] = &[
    "TestLambdaRuntimesCommon::",
    "TestLambdaSnapStart::",
    "TestJavaRuntimes::",
    "TestGoProvidedRuntimes::",
];

fn why(test: &str, answer: &str) -> Option<Why> {
    let given = test.split_once('[').map_or("", |(_, given)| given);
    let begins =
        |beginnings: &[&str], text: &str| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if begins(BY_RUNTIME, test) && begins(NO_RUNTIME, given) {
        return Some(Runtime);
    }
    let left =
        LEFT_OUT.iter().find(|(of, beginning, _)| test.starts_with(of) && answer.starts_with(beginning));
    left.map(|(.., why)| *why)
}

pub(super) fn is_left_out(test: &str, answer: &str) -> bool {
    why(test, answer).is_some()
}

/// A test's name without its file, and without what it was given.
fn bare(name: &str) -> &str {
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    name.split('[').next().unwrap_or(name)
}

#[test]
fn nine_tenths_of_what_was_recorded_of_the_api_are_replayed_and_the_rest_is_named() {
    let mut unnamed = Vec::new();
    for file in FILES {
        let Some(all) = all_in(file) else { return };
        let mut left = BTreeMap::<Why, usize>::new();
        let mut replayed = 0;
        for (name, answers) in &all {
            let test = name.split_once("::").map_or(name.as_str(), |(_, test)| test);
            for answer in answers.as_object().unwrap().keys() {
                match why(test, answer) {
                    Some(why) => *left.entry(why).or_default() += 1,
                    None if SCRIPTS.contains(bare(name).rsplit("::").next().unwrap()) => replayed += 1,
                    None => unnamed.push(format!("{test}: {answer}")),
                }
            }
        }
        println!("{file}: {replayed} are replayed, and not {left:?}");
        let served =
            replayed + left.iter().filter(|(why, _)| **why != Refused).map(|(_, count)| count).sum::<usize>();
        assert!(*file != API || replayed * 100 >= PROMISED * served, "{replayed} of {served}");
    }
    assert!(unnamed.is_empty(), "neither replayed nor left out:\n{}", unnamed.join("\n"));
}
