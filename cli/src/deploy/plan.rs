//! What is to be done: from what is to be there and what is there to steps of calls. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    desired::{Alias, Code, Events, Function, Layer, Permission, Url},
    names,
    package::Package,
    paths::{
        FUNCTIONS, alias_path, events_path, layer_path, path, provisioned_path, reserved_path, tags_path,
        untag_path, url_path,
    },
    template::Members,
};

/// A call of the node, or a wait for what one began.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Ask {
        method: &'static str,
        path: String,
        body: Option<Value>,
    },
    /// Of CloudWatch Logs.
    Logs {
        operation: &'static str,
        body: Value,
    },
    /// Until a version is active and its update done: the path of its configuration.
    Settled(String),
    /// Until what is provisioned is there: the path of its configuration.
    Provisioned(String),
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Create,
    Change,
    Remove,
}

/// What a function's code is made of, found.
#[derive(Clone, Copy)]
pub(crate) enum Made<'a> {
    Zip(&'a Package),
    /// The image that the node has under its name: `sha256:…`.
    Image(&'a str),
}

/// One change, as a user is told of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) sign: Sign,
    pub(crate) what: String,
    pub(crate) calls: Vec<Call>,
}

impl Step {
    fn new(sign: Sign, what: impl Into<String>, calls: Vec<Call>) -> Self {
        Self { sign, what: what.into(), calls }
    }

    /// The line that says so.
    pub(crate) fn line(&self) -> String {
        let sign = match self.sign {
            Sign::Create => '+',
            Sign::Change => '~',
            Sign::Remove => '-',
        };
        format!("{sign} {}", self.what)
    }
}

pub(crate) fn ask(method: &'static str, path: String, body: Option<Value>) -> Call {
    Call::Ask { method, path, body }
}

fn settled(function: &str) -> Call {
    Call::Settled(path(function, "/configuration", ""))
}

/// Of a function: what GetFunction answers is what there is.
///
/// # Errors
/// It cannot become what it is to be.
pub(crate) fn function(
    id: &str,
    desired: &Function,
    made: Made<'_>,
    current: Option<&Value>,
) -> Result<Vec<Step>, String> {
    let Function { name, code, settings, reserved, tags } = desired;
    let Some(current) = current else { return Ok(vec![created(id, desired, made)]) };
    let configuration = &current["Configuration"];
    let is_image = matches!(code, Code::Image(_));
    if (configuration["PackageType"] == "Image") != is_image {
        return Err(format!(
            "{name} cannot become of another PackageType: give it another name or logical id"
        ));
    }
    let mut steps = Vec::new();
    let is_same = match (made, code) {
        (Made::Zip(package), _) => configuration["CodeSha256"] == package.sha256.as_str(),
        // A tag may name another image by now.
        (Made::Image(digest), Code::Image(uri)) => {
            let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
            configuration["CodeSha256"] == hex && current["Code"]["ImageUri"] == uri.as_str()
        }
        (Made::Image(_), Code::Zip(_)) => false,
    };
    if !is_same {
        let call = ask("PUT", path(name, "/code", ""), Some(sent(code, made)));
        let what = if is_image { "image" } else { "code" };
        steps.push(Step::new(Sign::Change, format!("{id}: {what} of {name}"), vec![call, settled(name)]));
    }
    let changed: Members = settings
        .iter()
        .filter(|(setting, wanted)| *wanted != &shown(configuration, setting))
        .map(|(setting, wanted)| (setting.clone(), wanted.clone()))
        .collect();
    if !changed.is_empty() {
        let what = format!("{id}: {} of {name}", changed.keys().cloned().collect::<Vec<_>>().join(", "));
        let call = ask("PUT", path(name, "/configuration", ""), Some(Value::Object(changed)));
        steps.push(Step::new(Sign::Change, what, vec![call, settled(name)]));
    }
    steps.extend(tagged(
        id,
        name,
        configuration["FunctionArn"].as_str().unwrap_or(name),
        tags,
        &current["Tags"],
    ));
    let held = current["Concurrency"]["ReservedConcurrentExecutions"].as_i64();
    if held != *reserved {
        steps.push(Step::new(
            Sign::Change,
            format!("{id}: what {name} reserves"),
            vec![reservation(name, *reserved)],
        ));
    }
    Ok(steps)
}

fn created(id: &str, desired: &Function, made: Made<'_>) -> Step {
    let Function { name, code, settings, reserved, tags } = desired;
    let mut body = settings.clone();
    let kind = if matches!(code, Code::Image(_)) { "Image" } else { "Zip" };
    let own = [
        ("FunctionName", json!(name)),
        ("PackageType", json!(kind)),
        ("Code", sent(code, made)),
        ("Tags", json!(tags)),
    ];
    body.extend(own.map(|(member, value)| (member.to_owned(), value)));
    let mut calls = vec![ask("POST", FUNCTIONS.to_owned(), Some(Value::Object(body))), settled(name)];
    calls.extend(reserved.map(|count| reservation(name, Some(count))));
    Step::new(Sign::Create, format!("{id}: function {name}"), calls)
}

fn sent(code: &Code, made: Made<'_>) -> Value {
    match (code, made) {
        (Code::Image(uri), _) => json!({ "ImageUri": uri }),
        (Code::Zip(_), Made::Zip(package)) => json!({ "ZipFile": BASE64_STANDARD.encode(&package.zip) }),
        (Code::Zip(_), Made::Image(_)) => Value::Null,
    }
}

fn reservation(name: &str, reserved: Option<i64>) -> Call {
    let path = reserved_path(name);
    match reserved {
        Some(count) => ask("PUT", path, Some(json!({ "ReservedConcurrentExecutions": count }))),
        None => ask("DELETE", path, None),
    }
}

/// A setting of a function as the node shows it, in the form in which it is asked for.
fn shown(configuration: &Value, setting: &str) -> Value {
    let value = &configuration[setting];
    let only = |member: &str| json!({ member: value[member] });
    match setting {
        "DeadLetterConfig" => json!({ "TargetArn": value["TargetArn"].as_str().unwrap_or_default() }),
        "Environment" => json!({ "Variables": value.get("Variables").cloned().unwrap_or_else(|| json!({})) }),
        "EphemeralStorage" => only("Size"),
        "ImageConfig" => {
            let said = &configuration["ImageConfigResponse"]["ImageConfig"];
            let list = |member: &str| said.get(member).cloned().unwrap_or_else(|| json!([]));
            let folder = said["WorkingDirectory"].as_str().unwrap_or_default();
            json!({ "Command": list("Command"), "EntryPoint": list("EntryPoint"), "WorkingDirectory": folder })
        }
        "Layers" => value.as_array().into_iter().flatten().map(|layer| layer["Arn"].clone()).collect(),
        "SnapStart" => only("ApplyOn"),
        _ => value.clone(),
    }
}

/// What a function is tagged with. Tags of things that it has are those things' own.
fn tagged(id: &str, name: &str, arn: &str, wanted: &BTreeMap<String, String>, current: &Value) -> Vec<Step> {
    let has = |tag: &str| current[tag].as_str();
    let more: Members = wanted
        .iter()
        .filter(|(tag, value)| has(tag) != Some(value.as_str()))
        .map(|(tag, value)| (tag.clone(), value.as_str().into()))
        .collect();
    let gone: Vec<_> = current
        .as_object()
        .into_iter()
        .flat_map(Members::keys)
        .map(String::as_str)
        .filter(|tag| !wanted.contains_key(*tag) && !tag.starts_with(names::OURS))
        .collect();
    let mut calls = Vec::new();
    if !more.is_empty() {
        calls.push(ask("POST", tags_path(arn), Some(json!({ "Tags": more }))));
    }
    if !gone.is_empty() {
        calls.push(ask("DELETE", untag_path(arn, &gone), None));
    }
    if calls.is_empty() {
        return Vec::new();
    }
    vec![Step::new(Sign::Change, format!("{id}: tags of {name}"), calls)]
}

/// Of a layer: what GetLayerVersion answers of its newest version is what there is.
pub(crate) fn layer(id: &str, desired: &Layer, package: &Package, newest: Option<&Value>) -> Vec<Step> {
    let Layer { name, label, .. } = desired;
    let is_same = newest.is_some_and(|newest| {
        let said = |(member, wanted): (&String, &Value)| {
            let shown = newest.get(member).filter(|shown| !shown.is_null());
            shown.map_or_else(|| *wanted == json!("") || *wanted == json!([]), |shown| shown == wanted)
        };
        newest["Content"]["CodeSha256"] == package.sha256.as_str() && label.iter().all(said)
    });
    if is_same {
        return Vec::new();
    }
    let mut body: Members = label
        .iter()
        .filter(|(_, value)| **value != json!(""))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    body.insert("Content".to_owned(), json!({ "ZipFile": BASE64_STANDARD.encode(&package.zip) }));
    let call = ask("POST", layer_path(name), Some(Value::Object(body)));
    let sign = if newest.is_some() { Sign::Change } else { Sign::Create };
    vec![Step::new(sign, format!("{id}: a version of layer {name}"), vec![call])]
}

/// A version that is published.
pub(crate) fn version(id: &str, function: &str, description: Option<&str>) -> Step {
    let body = description.map_or_else(|| json!({}), |text| json!({ "Description": text }));
    let call = ask("POST", path(function, "/versions", ""), Some(body));
    Step::new(Sign::Create, format!("{id}: a version of {function}"), vec![call])
}

/// Of an alias: what GetAlias answers is what there is.
pub(crate) fn alias(id: &str, desired: &Alias, current: Option<&Value>) -> Vec<Step> {
    let Alias { function, name, settings, .. } = desired;
    let Some(current) = current else {
        let mut body = settings.clone();
        body.insert("Name".to_owned(), name.as_str().into());
        let call = ask("POST", path(function, "/aliases", ""), Some(Value::Object(body)));
        return vec![Step::new(Sign::Create, format!("{id}: alias {name} of {function}"), vec![call])];
    };
    let shown = |member: &str| match member {
        "RoutingConfig" => {
            current.get(member).cloned().unwrap_or_else(|| json!({ "AdditionalVersionWeights": {} }))
        }
        _ => current[member].clone(),
    };
    if settings.iter().all(|(member, wanted)| *wanted == shown(member)) {
        return Vec::new();
    }
    let version = settings["FunctionVersion"].as_str().unwrap_or_default();
    let what = format!("{id}: alias {name} of {function} is of version {version}");
    let call = ask("PUT", alias_path(function, name), Some(Value::Object(settings.clone())));
    vec![Step::new(Sign::Change, what, vec![call])]
}

/// Of what is provisioned of a version or an alias: what is asked for, and was.
pub(crate) fn provisioned(
    id: &str,
    function: &str,
    qualifier: &str,
    wanted: Option<i64>,
    current: Option<i64>,
) -> Vec<Step> {
    let path = provisioned_path(function, qualifier);
    match wanted {
        _ if wanted == current => Vec::new(),
        Some(count) => {
            let body = json!({ "ProvisionedConcurrentExecutions": count });
            let calls = vec![ask("PUT", path.clone(), Some(body)), Call::Provisioned(path)];
            vec![Step::new(
                Sign::Change,
                format!("{id}: {count} provisioned of {function}:{qualifier}"),
                calls,
            )]
        }
        None => {
            let what = format!("{id}: what is provisioned of {function}:{qualifier}");
            vec![Step::new(Sign::Remove, what, vec![ask("DELETE", path, None)])]
        }
    }
}

/// Of a URL: what GetFunctionUrlConfig answers is what there is.
pub(crate) fn url(id: &str, desired: &Url, current: Option<&Value>) -> Vec<Step> {
    let Url { function, qualifier, settings } = desired;
    let (sign, method) = match current {
        None => (Sign::Create, "POST"),
        Some(current) => {
            let shown = |member: &str| current.get(member).cloned().unwrap_or_else(|| json!({}));
            if settings.iter().all(|(member, wanted)| *wanted == shown(member)) {
                return Vec::new();
            }
            (Sign::Change, "PUT")
        }
    };
    let call = ask(method, url_path(function, qualifier), Some(Value::Object(settings.clone())));
    vec![Step::new(sign, format!("{id}: URL of {}", named(function, qualifier)), vec![call])]
}

/// Of how asynchronous calls are handled: what GetFunctionEventInvokeConfig answers is what there is.
pub(crate) fn events(id: &str, desired: &Events, current: Option<&Value>) -> Vec<Step> {
    let Events { function, qualifier, settings } = desired;
    let destination = |of: &Value, name: &str| {
        of["DestinationConfig"][name]["Destination"].as_str().filter(|arn| !arn.is_empty()).map(str::to_owned)
    };
    let wanted = Value::Object(settings.clone());
    let is_same = |current: &Value| {
        ["MaximumRetryAttempts", "MaximumEventAgeInSeconds"].iter().all(|name| wanted[name] == current[name])
            && ["OnSuccess", "OnFailure"]
                .iter()
                .all(|name| destination(&wanted, name) == destination(current, name))
    };
    if current.is_some_and(is_same) {
        return Vec::new();
    }
    let sign = if current.is_some() { Sign::Change } else { Sign::Create };
    let call = ask("PUT", events_path(function, qualifier), Some(wanted));
    vec![Step::new(sign, format!("{id}: asynchronous calls of {}", named(function, qualifier)), vec![call])]
}

/// Of a statement: those that there are by name. One of that name says what it is to say.
pub(crate) fn permission(id: &str, desired: &Permission, current: &[String]) -> Vec<Step> {
    let Permission { function, qualifier, sid, settings } = desired;
    if current.contains(sid) {
        return Vec::new();
    }
    let body: Members = settings
        .iter()
        .filter(|(name, _)| *name != "FunctionName")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let call = ask("POST", path(function, "/policy", qualifier), Some(Value::Object(body)));
    let principal = settings.get("Principal").and_then(Value::as_str).unwrap_or_default();
    let action = settings.get("Action").and_then(Value::as_str).unwrap_or_default();
    let what = format!("{id}: {principal} may {action} {}", named(function, qualifier));
    vec![Step::new(Sign::Create, what, vec![call])]
}

/// How long a group is kept: days that are wanted, and those that it is kept now.
pub(crate) fn retention(id: &str, group: &str, days: Option<i64>, current: Option<i64>) -> Vec<Step> {
    if days == current {
        return Vec::new();
    }
    let (operation, body, how) = match days {
        Some(days) => {
            let body = json!({ "logGroupName": group, "retentionInDays": days });
            ("PutRetentionPolicy", body, format!("for {days} days"))
        }
        None => {
            ("DeleteRetentionPolicy", json!({ "logGroupName": group }), "as the node keeps all".to_owned())
        }
    };
    let what = format!("{id}: log group {group} is kept {how}");
    vec![Step::new(Sign::Change, what, vec![Call::Logs { operation, body }])]
}

/// Something is no longer wanted.
pub(crate) fn removed(what: String, path: String) -> Step {
    Step::new(Sign::Remove, what, vec![ask("DELETE", path, None)])
}

/// A function, or an alias of it.
pub(crate) fn named(function: &str, qualifier: &str) -> String {
    if qualifier.is_empty() { function.to_owned() } else { format!("{function}:{qualifier}") }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
