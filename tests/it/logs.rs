//! What functions print, read as users read it. What is kept and how it is found is tested beside the agent (`host-agent/src/logs/`,
//! `host-agent/src/api/tests/logs.rs`).

use std::process::Command;

use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::client::python;
use crate::functions::Function;
use crate::kills::Agent;
use crate::setting;

/// What AWS's own command line finds in a group.
fn filtered(endpoint: &str, group: &str) -> Value {
    let output = Command::new(python())
        .arg(setting("TINDERBOX_TEST_VENV").join("bin/aws"))
        .args(["--endpoint-url", endpoint, "--output", "json", "logs", "filter-log-events"])
        .args(["--log-group-name", group, "--filter-pattern", r#"?"START RequestId" ?hello ?REPORT"#])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .output()
        .expect("start the aws CLI");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--output json")
}

fn messages(found: &Value) -> Vec<&str> {
    let events = found["events"].as_array().expect("events").iter();
    events.map(|event| event["message"].as_str().expect("a message")).collect()
}

#[test]
fn what_a_function_prints_is_found_in_its_log_group_and_outlives_the_agent() {
    let agent = Agent::alone();
    let logs = agent.client().clone().of_logs();
    let text = Function::python("hello").deploy(agent.client());
    let logging = json!({ "LogFormat": "JSON", "SystemLogLevel": "DEBUG", "LogGroup": "/it/json" });
    let json = Function::python("hello").with("LoggingConfig", logging).deploy(agent.client());
    for function in [&text, &json] {
        function.call("invoke", json!({})).expect("invoke");
    }
    let group = format!("/aws/lambda/{}", text.name);
    let check = |when: &str| {
        let found = filtered(agent.client().endpoint(), &group);
        let [start, line, report] = messages(&found)[..] else { panic!("{when}: {found}") };
        assert!(
            start.starts_with("START RequestId: ") && report.starts_with("REPORT RequestId: "),
            "{when}: {found}"
        );
        assert_eq!(line, format!("hello from {}\n", text.name), "{when}");
        let all = logs.pages("filter_log_events", json!({ "logGroupName": group })).expect("filter");
        let all = messages(&all);
        assert!(all[0].starts_with("INIT_START ") && all.len() == 5, "{when}: {all:?}");
    };
    check("at once");
    let streams = logs.pages("describe_log_streams", json!({ "logGroupName": group })).expect("describe");
    let stream = streams["logStreams"][0]["logStreamName"].as_str().expect("a stream");
    assert!(stream.contains("/[$LATEST]"), "{stream}");

    let kinds = logs.pages("filter_log_events", json!({ "logGroupName": "/it/json" })).expect("filter");
    let documents = messages(&kinds);
    for kind in ["platform.initStart", "platform.start", "platform.runtimeDone", "platform.report"] {
        let is_kind =
            |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|line| line["type"] == kind);
        assert!(documents.iter().any(is_kind), "no {kind}: {documents:?}");
    }
    let said = tinderbox(agent.client().endpoint(), "test", &["logs", &text.name]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("hello from {}", text.name)), "{said}");

    agent.kill();
    check("after the agent was killed");
    for group in [group.as_str(), "/it/json"] {
        logs.call("delete_log_group", json!({ "logGroupName": group })).expect("delete");
    }
}
