//! How much of what was recorded is replayed, and why the rest is not.

use super::*;

/// Every script. What they compared, and found the same, is what is counted.
const SCRIPTS: &[fn()] = &[
    buckets::code_comes_from_a_bucket_as_recorded,
    buckets::a_zip_in_a_bucket_that_is_too_large_is_refused_as_recorded,
    called::calls_count_as_recorded,
    called::calls_are_answered_as_recorded,
    called::the_oldest_call_is_answered_as_recorded,
    ends::the_end_of_a_runtime_is_told_as_recorded,
    ends::an_answer_that_is_too_long_is_told_as_recorded,
    functions::updates_that_change_nothing_are_as_recorded,
    functions::a_new_version_comes_with_new_code_as_recorded,
    functions::a_name_that_contradicts_its_qualifier_is_refused_as_recorded,
    functions::what_is_not_there_or_not_here_is_told_as_recorded,
    functions::names_of_functions_to_create_are_as_recorded,
    functions::malformed_names_and_qualifiers_are_refused_as_recorded,
    functions::retired_runtimes_are_refused_as_recorded,
    functions::how_a_function_logs_is_as_recorded,
    functions::snap_start_is_as_recorded,
    functions::a_long_environment_is_kept_as_recorded,
    functions::the_account_is_as_recorded,
    images::functions_of_images_live_as_recorded,
    images::how_images_are_run_is_said_as_recorded,
    images::a_zip_does_not_become_an_image_as_recorded,
    images::versions_of_images_are_published_as_recorded,
    invoked::calls_of_each_type_are_as_recorded,
    invoked::an_alias_moves_as_recorded,
    invoked::a_call_beyond_what_is_reserved_is_refused_as_recorded,
    invoked::a_function_that_is_made_again_is_as_recorded,
    invoked::functions_to_call_are_as_recorded,
    invoked::one_provisioned_sandbox_is_ready_as_recorded,
    layers::layers_live_as_recorded,
    layers::layers_are_refused_as_recorded,
    layers::layers_of_a_function_are_refused_as_recorded,
    layers::a_sixth_layer_is_refused_as_recorded,
    layers::retired_runtimes_may_be_named_as_recorded,
    provisioned::limits_are_as_recorded,
    provisioned::it_becomes_ready_as_recorded,
    provisioned::it_is_part_of_what_is_reserved_as_recorded,
    runtimes::functions_of_each_runtime_are_made_and_called_as_recorded,
    runtimes::functions_with_libraries_are_made_and_called_as_recorded,
    runtimes::a_topic_may_call_a_function_as_recorded,
    scripts::permissions_are_refused_as_recorded,
    scripts::policies_of_versions_and_aliases_are_as_recorded,
    scripts::policies_of_a_function_and_a_version_are_apart_as_recorded,
    scripts::a_dead_letter_queue_is_kept_as_recorded,
    scripts::destinations_are_kept_as_recorded,
    scripts::event_invoke_configurations_live_as_recorded,
    scripts::event_invoke_configurations_are_refused_as_recorded,
    scripts::a_loop_of_no_known_kind_is_refused_as_recorded,
    scripts::reserved_concurrency_is_as_recorded,
    scripts::an_alias_that_is_not_there_is_as_recorded,
    scripts::versions_live_as_recorded,
    scripts::tags_are_refused_as_recorded,
    tags::tags_of_what_is_gone_are_as_recorded,
    tags::tags_of_what_a_node_has_none_of_are_as_recorded,
    tags::a_tag_too_many_is_refused_as_recorded,
    tags::tags_of_versions_are_refused_as_recorded,
    tags::a_policy_grows_as_recorded,
    urls::urls_live_as_recorded,
    urls::urls_are_refused_as_recorded,
    urls::answers_are_as_recorded,
    urls::urls_for_everybody_are_as_recorded,
    urls::a_url_that_is_called_in_no_known_way_is_refused_as_recorded,
];

/// That run them at a time.
const THREADS: usize = 8;

/// The files of recordings; in that of the API hardly any function is called.
const FILES: &[&str] = &[
    "test_lambda.snapshot.json",
    "test_lambda_api.snapshot.json",
    "test_lambda_common.snapshot.json",
    "test_lambda_destinations.snapshot.json",
    "test_lambda_integration_xray.snapshot.json",
    "test_lambda_runtimes.snapshot.json",
];
/// Of the answers of operations that are served, as the percentage that is promised.
const PROMISED: usize = 90;

/// Why an answer is not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The operation, or the service, is none of the node's.
    Refused,
    /// It is no answer of one of Lambda's operations: what another service answered, what was read of a log, what a function's URL
    /// answered, a part of an answer that is recorded without the rest of it, or a figure that who recorded worked out.
    NoAnswer,
    /// It says what a guest is like.
    Guest,
    /// AWS answers otherwise by now, as later recordings show.
    Older,
    /// Something is meant to be different here, for the reason that stands beside it, or needs other services of AWS's.
    Differs,
}
use Why::{Differs, Guest, NoAnswer, Older, Refused};

/// By the beginning of a test's name, and that of its answers' names.
const LEFT_OUT: &[(&str, &str, Why)] = &[
    ("TestLambdaEventSourceMappings::", "", Refused),
    ("TestCodeSigningConfig::test_function_code_signing_config", "", Refused),
    ("TestLambdaDestinationEventbridge::", "", Refused),
    // Lines of logs.
    ("TestCloudwatchLogs::", "log-events", NoAnswer),
    ("TestLambdaDLQ::", "log_result", NoAnswer),
    ("TestLambdaFeatures::test_invocation_with_logs", "logs", NoAnswer),
    ("TestLambdaFeatures::test_invocation_with_qualifier", "log_result", NoAnswer),
    ("TestRequestIdHandling::", "end_log_entries", NoAnswer),
    // Messages of queues.
    ("TestLambdaDLQ::", "receive_result", NoAnswer),
    ("TestLambdaDestinationSqs::", "no_retry_failure_message", NoAnswer),
    ("TestLambdaDestinationSqs::", "queue_destination_payload", NoAnswer),
    ("TestLambdaDestinationSqs::", "receive_message_result", NoAnswer),
    ("TestLambdaDestinationSqs::", "single_retry_failure_message", NoAnswer),
    // Answers of functions' URLs; those of `urls` are compared, and not counted.
    ("TestLambdaURL::", "lambda_url_invocation", NoAnswer),
    ("TestLambdaURL::", "url_response", NoAnswer),
    ("TestRequestIdHandling::", "lambda_url_invocation", NoAnswer),
    // A role's ARN, and payloads, taken out of answers.
    ("TestLambdaBaseFeatures::test_assume_role", "invoke-result-assumed-role-arn", NoAnswer),
    ("TestLambdaRuntimesCommon::", "invocation_result_payload", NoAnswer),
    // Differences of sizes.
    (
        "TestLambdaAccountSettings::test_account_settings_total_code_size_config_update",
        "is_total_code_size_diff_",
        NoAnswer,
    ),
    (
        "TestLambdaAccountSettings::test_account_settings_total_code_size_config_update",
        "total_code_size_diff_",
        NoAnswer,
    ),
    // AWS failed, which is all that was kept of it.
    ("TestLambdaUrl::", "delete_function_url_config_qualifier_alias_doesnotmatch_arn", NoAnswer),
    // No reason is given by AWS, where a node says it.
    ("TestLambdaFunction::test_function_arns", "function_arn_other_account_exc", Differs),
    // Networks of AWS's.
    ("TestLambdaFunction::test_vpc_config", "", Differs),
    // On the other architecture.
    ("TestLambdaBehavior::test_mixed_architecture", "update", Differs),
    // AWS has a function whose process is killed run into its timeout; here its end is told when it comes, as that of any process is.
    ("TestLambdaErrors::test_lambda_runtime_exit_segfault", "", Differs),
    ("TestLambdaPermissions::test_lambda_permission_versioning", "get_policy_after_publishing", Older),
    ("TestLambdaPermissions::test_lambda_permission_versioning", "get_policy_after_adding_to", Older),
    ("TestLambdaFeatures::test_basic_invoke", "lambda_create", Older),
    ("TestLambdaFeatures::test_basic_invoke", "lambda_get", Older),
    // Environment, user, limits and network of a function.
    ("TestLambdaBehavior::", "invoke", Guest),
    ("TestLambdaBehavior::", "lambda-init", Guest),
];

fn why(test: &str, answer: &str) -> Option<Why> {
    let left =
        LEFT_OUT.iter().find(|(of, beginning, _)| test.starts_with(of) && answer.starts_with(beginning));
    left.map(|(.., why)| *why)
}

#[test]
fn nine_tenths_of_what_was_recorded_are_replayed_and_the_rest_is_named() {
    if recordings().is_none() {
        return;
    }
    std::thread::scope(|scope| {
        for scripts in SCRIPTS.chunks(SCRIPTS.len().div_ceil(THREADS)) {
            scope.spawn(|| scripts.iter().for_each(|script| script()));
        }
    });
    let same = SAME.lock().unwrap();
    let (mut wrong, mut all_replayed, mut all_served) = (Vec::new(), 0, 0);
    for file in FILES {
        let mut left = BTreeMap::<Why, usize>::new();
        let mut replayed = 0;
        for (name, answers) in all_in(file).unwrap() {
            let test = name.split_once("::").map_or(name.as_str(), |(_, test)| test);
            for (answer, recorded) in answers.as_object().unwrap() {
                let is_same = same.contains(&[(*file).to_owned(), name.clone(), answer.clone()]);
                let unlisted = without_unlisted_code(recorded) != *recorded;
                match why(test, answer).or(unlisted.then_some(Differs)) {
                    Some(why) if why == NoAnswer || !is_same => *left.entry(why).or_default() += 1,
                    None if is_same => replayed += 1,
                    _ => wrong.push(format!("{test}: {answer}")),
                }
            }
        }
        println!("{file}: {replayed} are replayed, and not {left:?}");
        let counted = left.iter().filter(|(why, _)| ![Refused, NoAnswer].contains(why));
        let served = replayed + counted.map(|(_, count)| count).sum::<usize>();
        (all_replayed, all_served) = (all_replayed + replayed, all_served + served);
    }
    println!("{all_replayed} of {all_served}");
    assert!(wrong.is_empty(), "neither replayed nor left out, or both:\n{}", wrong.join("\n"));
    assert!(all_replayed * 100 >= PROMISED * all_served, "{all_replayed} of {all_served}");
}
