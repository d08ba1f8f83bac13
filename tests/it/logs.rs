//! What functions print, read as users read it. What is kept and how it is found is tested beside the agent (`host-agent/src/logs/`,
//! `host-agent/src/api/tests/logs.rs`).

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::chunks::tinderbox;
use crate::command_line::{AWS_2, aws, aws_1};
use crate::functions::{Deployed, Function};
use crate::kills::Agent;

/// After so many seconds nothing comes any more.
const PATIENCE_S: &str = "300";

/// What version 1 finds in a group.
fn filtered(endpoint: &str, group: &str) -> Value {
    let output = aws(aws_1(), endpoint)
        .args(["--output", "json", "logs", "filter-log-events"])
        .args(["--log-group-name", group, "--filter-pattern", r#"?"START RequestId" ?hello ?REPORT"#])
        .output()
        .expect("start the aws CLI");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--output json")
}

/// Somebody watches a group by `aws logs tail --follow`: what the function has printed, and what it prints then.
fn followed(endpoint: &str, group: &str, function: &Deployed) {
    let mut program = Command::new("timeout");
    // Version 1 has no `logs tail`.
    program.args([PATIENCE_S, AWS_2]);
    let mut following = aws(program, endpoint)
        .args(["logs", "tail", group, "--since", "1h", "--follow", "--format", "short"])
        // Otherwise a pipe gets its lines by the thousand.
        .env("PYTHONUNBUFFERED", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the aws CLI");
    let lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    let printed = format!("hello from {}", function.name);
    let mut lines = lines.map_while(Result::ok).filter(|line| line.ends_with(&printed));
    assert!(lines.next().is_some(), "nothing of what was there");
    function.call("invoke", json!({})).expect("invoke");
    assert!(lines.next().is_some(), "nothing of what came");
    // Which ends both.
    let timeout = Pid::from_raw(following.id().try_into().expect("a process"));
    kill(timeout, Signal::SIGTERM).expect("end it");
    following.wait().expect("its end");
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
    followed(agent.client().endpoint(), &group, &text);
    for group in [group.as_str(), "/it/json"] {
        logs.call("delete_log_group", json!({ "logGroupName": group })).expect("delete");
    }
}
