//! What a stack made and its template has no longer: functions, and what functions of the template have.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::Value;

use super::{
    apply::{statements, tags_in},
    names,
    node::{self, Node},
    paths,
    plan::{self, Step, ask, removed},
};

/// What a stack is to keep, by its functions.
#[derive(Debug, Default)]
pub(crate) struct Kept<'a> {
    /// The tags of what each function has.
    pub(crate) tags: BTreeMap<&'a str, &'a BTreeSet<String>>,
    /// Function, qualifier and name.
    pub(crate) statements: BTreeSet<(&'a str, &'a str, &'a str)>,
    /// Logical ids of which nothing is touched.
    pub(crate) skipped: BTreeSet<&'a str>,
}

/// The steps that remove what a stack made and is not to keep.
///
/// # Errors
/// The node cannot be asked.
pub(crate) fn steps(node: &dyn Node, stack: &str, kept: &Kept<'_>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for function in node::all(node, &format!("{}/", paths::FUNCTIONS), "Functions")? {
        let (name, arn) = (text(&function, "FunctionName"), text(&function, "FunctionArn"));
        let tags = tags_in(&node::get(node, &paths::tags_path(arn))?.unwrap_or_default()["Tags"]);
        if tags.get(names::STACK).map(String::as_str) != Some(stack) {
            continue;
        }
        if tags.get(names::LOGICAL_ID).is_some_and(|id| kept.skipped.contains(id.as_str())) {
            continue;
        }
        match kept.tags.get(name) {
            None => steps.push(removed(format!("function {name}"), paths::path(name, "", ""))),
            Some(wanted) => {
                steps.extend(unwanted_statements(node, stack, name, &tags, kept)?);
                steps.extend(unwanted((name, arn), &tags, wanted, &kept.skipped));
            }
        }
    }
    Ok(steps)
}

/// Statements of ours in the policies of a function and of its aliases that are to stay.
fn unwanted_statements(
    node: &dyn Node,
    stack: &str,
    function: &str,
    tags: &BTreeMap<String, String>,
    kept: &Kept<'_>,
) -> Result<Vec<Step>> {
    let prefix = names::tag("alias:", "");
    let aliases = tags.keys().filter_map(|tag| tag.strip_prefix(&prefix));
    let mut steps = Vec::new();
    for qualifier in std::iter::once("").chain(aliases) {
        for sid in statements(node, function, qualifier)? {
            let mut skipped = kept.skipped.iter().map(|id| names::statement_start(stack, id));
            let is_kept = kept.statements.contains(&(function, qualifier, &sid))
                || skipped.any(|start| sid.starts_with(&start));
            if names::is_statement_of(stack, &sid) && !is_kept {
                let what = format!("statement {sid} of {}", plan::named(function, qualifier));
                steps.push(removed(what, paths::path(function, &format!("/policy/{sid}"), qualifier)));
            }
        }
    }
    Ok(steps)
}

/// Aliases, URLs and settings of asynchronous calls, by the tags that tell of them: what an alias has goes before the alias.
fn unwanted(
    (function, arn): (&str, &str),
    tags: &BTreeMap<String, String>,
    wanted: &BTreeSet<String>,
    skipped: &BTreeSet<&str>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for what in ["url", "events", "alias", "version"] {
        // The tag of a version has the logical id, and its value is the number.
        let is_skipped = |tag: &str, id: &str| {
            skipped.contains(id) || skipped.iter().any(|id| names::tag("version", id) == tag)
        };
        let gone = |tag: &str, id: &str| !wanted.contains(tag) && !is_skipped(tag, id);
        for (tag, value) in tags.iter().filter(|(tag, id)| gone(tag, id)) {
            let Some(rest) = tag.strip_prefix(names::OURS).and_then(|tag| tag.strip_prefix(what)) else {
                continue;
            };
            let qualifier = match rest.strip_prefix(':') {
                None if rest.is_empty() => "",
                None => continue,
                Some(qualifier) => qualifier,
            };
            let of = plan::named(function, qualifier);
            let untag = ask("DELETE", paths::untag_path(arn, &[tag]), None);
            let mut step = match what {
                "url" => removed(format!("URL of {of}"), paths::url_path(function, qualifier)),
                "events" => {
                    removed(format!("asynchronous calls of {of}"), paths::events_path(function, qualifier))
                }
                "alias" => removed(
                    format!("alias {qualifier} of {function}"),
                    paths::alias_path(function, qualifier),
                ),
                // The version itself stays, but nothing is kept ready of it.
                _ => removed(
                    format!("{qualifier}, as which {function} had a version that stays"),
                    paths::provisioned_path(function, value),
                ),
            };
            step.calls.push(untag);
            steps.push(step);
        }
    }
    steps
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}
