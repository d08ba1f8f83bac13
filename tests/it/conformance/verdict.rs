//! What scripts report of their checks, and what of that is a problem.
//!
//! Pure: reports in, problems out.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::node::Speed;

/// A check that does not pass.
pub(super) struct Exception {
    check: &'static str,
    kind: Kind,
    reason: &'static str,
}

enum Kind {
    /// The node answers otherwise than the check expects, everywhere.
    Differs,
    /// The check times the node: an emulated one may be too slow.
    Times,
}

const fn differs(check: &'static str, reason: &'static str) -> Exception {
    Exception { check, kind: Kind::Differs, reason }
}

const fn times(check: &'static str, reason: &'static str) -> Exception {
    Exception { check, kind: Kind::Times, reason }
}

/// Of the checks by AWS's service model.
pub(super) const MODEL: [Exception; 5] = [
    differs("valid GetCodeSigningConfig: valid", "needs CreateCodeSigningConfig, which is refused"),
    differs("valid ListFunctionsByCodeSigningConfig: valid", "the same"),
    times("invoke Invoke: timeout is kept (1 s function, answer within 2.5 s)", "begins with a cold start"),
    times(
        "invoke Invoke: Tail: at most 4 KB, the last lines",
        "four hundred lines, of a function that has ten seconds",
    ),
    times("invoke Invoke: 8 invocations of 1 s run in parallel (under 6 s)", "seven of them start cold"),
];

/// Of the checks by AWS's SDK for JavaScript.
pub(super) const JAVASCRIPT: [Exception; 1] =
    [times("20 invocations at once", "starts of Node.js, of a function that has ten seconds")];

/// In what a check says that had an answer of a function that ran out of its ten seconds, which an emulated one may need to start.
const TIMED_OUT: &str = "Sandbox.Timedout";

/// Checks by their names, with what was wrong with those that failed.
#[derive(Debug, Default)]
pub(super) struct Report(BTreeMap<String, Option<String>>);

impl Report {
    /// Of the cases that `model_check.py` writes down. What it only remarks on is no check.
    pub(super) fn of_model(cases: &Value) -> Self {
        let mut report = Self::default();
        for case in cases.as_array().expect("cases").iter().filter(|case| case["sev"] != "info") {
            let text = |name: &str| case[name].as_str().unwrap_or_default();
            let name = format!("{} {}: {}", text("group"), text("op"), text("case"));
            report.add(name, (case["ok"] != true).then(|| text("note").to_owned()));
        }
        report
    }

    /// Of lines `ok    name` and `FAIL  name: why`, of which the last counts them.
    pub(super) fn of_lines(output: &str) -> Self {
        let mut report = Self::default();
        let (mut passed, mut failed) = (0, 0);
        for line in output.lines() {
            if let Some(name) = line.strip_prefix("ok    ") {
                passed += 1;
                report.add(name.into(), None);
            } else if let Some(line) = line.strip_prefix("FAIL  ") {
                failed += 1;
                let (name, problem) = failed_check(line);
                report.add(name.into(), Some(problem.into()));
            }
        }
        let last = output.lines().last().unwrap_or_default();
        assert!(passed > 0, "nothing was checked: {output}");
        assert_eq!(last, format!("{passed} passed, {failed} failed"), "the checks did not come to their end");
        report
    }

    /// Of checks of one name, one that failed counts.
    fn add(&mut self, name: String, problem: Option<String>) {
        let known = self.0.entry(name).or_default();
        *known = known.take().or(problem);
    }

    pub(super) fn has_group(&self, group: &str) -> bool {
        self.0.keys().any(|name| name.split(' ').next() == Some(group))
    }

    /// What should have passed and did not, and the other way round. Of operations that are `refused`, a valid request is.
    pub(super) fn problems(&self, exceptions: &[Exception], refused: &[String], speed: Speed) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, problem) in &self.0 {
            let exception = exceptions.iter().find(|exception| exception.check == name);
            let is_refused = refused.iter().any(|operation| is_valid_request(name, operation));
            problems.extend(match (problem, exception) {
                (None, _) if is_refused => {
                    Some(format!("{name}: the README says it is refused, and it is served"))
                }
                (Some(problem), _) if is_refused => told_so(name, problem),
                (None, Some(Exception { kind: Kind::Differs, reason, .. })) => {
                    Some(format!("{name}: passes, though it should not ({reason})"))
                }
                (Some(problem), Some(Exception { kind: Kind::Times, reason, .. }))
                    if speed == Speed::Full =>
                {
                    Some(format!("{name}: {problem} ({reason}, but this node is not emulated)"))
                }
                (Some(problem), None) if speed == Speed::Emulated && problem.contains(TIMED_OUT) => None,
                (Some(problem), None) => Some(format!("{name}: {problem}")),
                _ => None,
            });
        }
        let gone = exceptions.iter().filter(|exception| !self.0.contains_key(exception.check));
        problems.extend(gone.map(|exception| format!("{}: is checked no more", exception.check)));
        problems
    }
}

/// The check whether a valid request of an operation is served is named so, or, where it was not tried, `valid`.
fn is_valid_request(name: &str, operation: &str) -> bool {
    [": shape", ": valid"]
        .iter()
        .any(|check| name.strip_prefix("valid ").and_then(|name| name.strip_suffix(check)) == Some(operation))
}

/// `name: why`. Where the name has a colon, too, the rest of it counts as the reason: no exception's has.
fn failed_check(line: &str) -> (&str, &str) {
    line.split_once(": ").unwrap_or((line, ""))
}

/// A refusal says that it is one; a check that depends on a refused operation is not tried.
fn told_so(name: &str, problem: &str) -> Option<String> {
    let told = ["unimplemented: 501 NotImplementedException", "blocked: "];
    let is_told = told.iter().any(|told| problem.starts_with(told));
    (!is_told).then(|| format!("{name}: is refused in another way: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, exceptions: &[Exception], speed: Speed) -> Vec<String> {
        let report = Report::of_lines(&format!(
            "{line}\nok    other\n{}",
            if line.starts_with("ok") { "2 passed, 0 failed" } else { "1 passed, 1 failed" }
        ));
        report.problems(exceptions, &[], speed)
    }

    #[test]
    fn an_exception_that_passes_and_a_check_that_fails_are_problems() {
        let (differs, times) = ([differs("a", "so")], [times("a", "so")]);
        assert_eq!(check("ok    a", &[], Speed::Full), [""; 0]);
        assert_eq!(check("FAIL  a", &[], Speed::Emulated).len(), 1);
        assert_eq!(check("FAIL  a", &differs, Speed::Full), [""; 0]);
        assert_eq!(check("ok    a", &differs, Speed::Full).len(), 1);
        assert_eq!(check("FAIL  a", &times, Speed::Emulated), [""; 0]);
        assert_eq!(check("ok    a", &times, Speed::Emulated), [""; 0]);
        assert_eq!(check("FAIL  a", &times, Speed::Full).len(), 1);
        let timed_out = "FAIL  a: 200 {\"errorType\":\"Sandbox.Timedout\"}";
        assert_eq!(check(timed_out, &[], Speed::Emulated), [""; 0]);
        assert_eq!(check(timed_out, &[], Speed::Full).len(), 1);
        assert_eq!(check("ok    b", &times, Speed::Full), ["a: is checked no more"]);
    }

    #[test]
    fn what_is_refused_says_so() {
        let case = |ok: bool, note: &str| serde_json::json!([{ "group": "valid", "op": "Create", "case": "shape", "ok": ok, "note": note }]);
        let problems =
            |cases: &Value| Report::of_model(cases).problems(&[], &["Create".into()], Speed::Full).len();
        assert_eq!(problems(&case(false, "unimplemented: 501 NotImplementedException b''")), 0);
        assert_eq!(problems(&case(false, "valid request refused: 400")), 1);
        assert_eq!(problems(&case(true, "")), 1);
    }
}
