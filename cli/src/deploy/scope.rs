//! What the functions of a template mean: parameters, conditions, references to what resources became, and what is made of these.
//!
//! Pure. A value without a function is itself; a function that is not known is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::template::{Members, Template, shortened};

/// Names of attributes that `Ref` stands for.
pub(crate) const REF: &str = "Ref";

/// What types of parameters begin with whose values Systems Manager keeps, which a node has not.
const STORED: &str = "AWS::SSM::";

/// Longest text that is put together: nothing that a function is told is longer.
const MAX_TEXT_LEN: usize = 256 * 1024;

/// What is known of the resources so far: logical id and attribute.
pub(crate) type Attributes = BTreeMap<(String, String), Value>;

/// What a name stands for while a template is evaluated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Parameters, and what AWS calls pseudo parameters.
    parameters: BTreeMap<String, Value>,
    conditions: BTreeMap<String, bool>,
    mappings: Members,
}

/// Who is deployed, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) stack: &'a str,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
}

/// Why a value is none.
pub(crate) type Unclear = String;

impl Scope {
    /// Of a template, with parameters that a user gives.
    ///
    /// # Errors
    /// A parameter that is not declared, has no value or none of those allowed; a condition that cannot be evaluated.
    pub(crate) fn new(
        template: &Template,
        given: &BTreeMap<String, String>,
        place: Place<'_>,
    ) -> Result<Self, Vec<(String, Unclear)>> {
        let Place { stack, region, account } = place;
        let id = format!("arn:aws:cloudformation:{region}:{account}:stack/{stack}/{account}");
        let pseudo = [
            ("AWS::AccountId", account),
            ("AWS::Partition", "aws"),
            ("AWS::Region", region),
            ("AWS::StackId", id.as_str()),
            ("AWS::StackName", stack),
            ("AWS::URLSuffix", "amazonaws.com"),
        ];
        let parameters = pseudo.map(|(name, value)| (name.to_owned(), Value::from(value))).into();
        let mut scope = Self { parameters, conditions: BTreeMap::new(), mappings: template.mappings.clone() };
        let mut unclear = Vec::new();
        for name in given.keys().filter(|name| !template.parameters.contains_key(*name)) {
            unclear.push((name.clone(), "the template has no such parameter".to_owned()));
        }
        for (name, declared) in &template.parameters {
            // Its default is where a value would be found. CDK declares one that nothing refers to.
            let kind = declared.get("Type").and_then(Value::as_str).unwrap_or_default();
            if kind.starts_with(STORED) && !given.contains_key(name) {
                continue;
            }
            match parameter(declared, given.get(name)) {
                Ok(value) => drop(scope.parameters.insert(name.clone(), value)),
                Err(reason) => unclear.push((name.clone(), reason)),
            }
        }
        for name in template.conditions.keys() {
            if let Err(reason) = scope.settle(name, &template.conditions, &mut BTreeSet::new()) {
                unclear.push((name.clone(), reason));
            }
        }
        if unclear.is_empty() { Ok(scope) } else { Err(unclear) }
    }

    /// Whether a condition holds; what has none is always there.
    pub(crate) fn holds(&self, condition: Option<&str>) -> Result<bool, Unclear> {
        condition.map_or(Ok(true), |name| {
            self.conditions.get(name).copied().ok_or_else(|| format!("there is no condition {name}"))
        })
    }

    /// A condition and those that it is made of.
    fn settle(&mut self, name: &str, all: &Members, within: &mut BTreeSet<String>) -> Result<(), Unclear> {
        if self.conditions.contains_key(name) {
            return Ok(());
        }
        if !within.insert(name.to_owned()) {
            return Err(format!("the condition {name} is made of itself"));
        }
        let rule = all.get(name).ok_or_else(|| format!("there is no condition {name}"))?;
        for other in conditions_in(rule) {
            self.settle(&other, all, within)?;
        }
        let holds = self.truth(rule)?;
        self.conditions.insert(name.to_owned(), holds);
        Ok(())
    }

    fn truth(&self, rule: &Value) -> Result<bool, Unclear> {
        let Some((name, argument)) = function(rule) else {
            return Err(format!("{} is no condition", shortened(rule)));
        };
        let rules = || argument.as_array().filter(|rules| !rules.is_empty());
        let list = || rules().ok_or_else(|| format!("{name} wants a list"));
        match name {
            "Condition" => self.holds(argument.as_str().or(Some(""))),
            "Fn::Equals" => match list()?.as_slice() {
                [one, other] => {
                    let known = Attributes::new();
                    let [one, other] = [one, other].map(|side| self.text(side, &known));
                    Ok(one? == other?)
                }
                _ => Err("Fn::Equals wants two values".to_owned()),
            },
            "Fn::Not" => match list()?.as_slice() {
                [rule] => Ok(!self.truth(rule)?),
                _ => Err("Fn::Not wants one condition".to_owned()),
            },
            "Fn::And" => list()?.iter().try_fold(true, |all, rule| Ok(self.truth(rule)? && all)),
            "Fn::Or" => list()?.iter().try_fold(false, |any, rule| Ok(self.truth(rule)? || any)),
            other => Err(format!("{other} is no condition that is known")),
        }
    }

    /// What a value means; `None`: it is as if it were not there (`AWS::NoValue`).
    ///
    /// # Errors
    /// A function that is not known, or of something that is not.
    pub(crate) fn evaluate(&self, value: &Value, known: &Attributes) -> Result<Option<Value>, Unclear> {
        if let Some((name, argument)) = function(value) {
            return self.call(name, argument, known);
        }
        Ok(Some(match value {
            Value::Array(items) => {
                let items = items.iter().filter_map(|item| self.evaluate(item, known).transpose());
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Value::Object(members) => Value::Object(self.members(members, known)?),
            other => other.clone(),
        }))
    }

    /// What each member means, without those that are as if they were not there.
    pub(crate) fn members(&self, members: &Members, known: &Attributes) -> Result<Members, Unclear> {
        let mut evaluated = Members::new();
        for (name, value) in members {
            if let Some(value) = self.evaluate(value, known)? {
                evaluated.insert(name.clone(), value);
            }
        }
        Ok(evaluated)
    }

    fn call(&self, name: &str, argument: &Value, known: &Attributes) -> Result<Option<Value>, Unclear> {
        match (name, argument.as_array().map(Vec::as_slice)) {
            ("Ref", _) if argument == "AWS::NoValue" => Ok(None),
            ("Ref", _) => {
                let id = argument.as_str().ok_or("Ref wants a name")?;
                self.parameters.get(id).cloned().map_or_else(|| self.attribute(id, REF, known), Ok).map(Some)
            }
            ("Fn::GetAtt", Some([Value::String(id), attribute])) => {
                self.attribute(id, &self.text(attribute, known)?, known).map(Some)
            }
            ("Fn::GetAtt", None) => {
                let dotted = argument.as_str().and_then(|text| text.split_once('.'));
                let (id, attribute) = dotted.ok_or("Fn::GetAtt wants a resource and an attribute")?;
                self.attribute(id, attribute, known).map(Some)
            }
            ("Fn::If", Some([Value::String(condition), then, otherwise])) => {
                let chosen = if self.holds(Some(condition))? { then } else { otherwise };
                self.evaluate(chosen, known)
            }
            ("Fn::Sub", None) => self.substitute(argument, &Members::new(), known).map(Some),
            ("Fn::Sub", Some([text, Value::Object(own)])) => self.substitute(text, own, known).map(Some),
            ("Fn::Join", Some([by, parts])) => {
                let by = self.text(by, known)?;
                let parts = self.list(parts, known)?;
                let parts: Vec<_> = parts.iter().map(plain).collect::<Result<_, _>>()?;
                bounded(parts.join(&by)).map(Some)
            }
            ("Fn::Split", Some([by, text])) => {
                let (by, text) = (self.text(by, known)?, self.text(text, known)?);
                Ok(Some(text.split(&by).map(Value::from).collect()))
            }
            ("Fn::Select", Some([index, list])) => {
                let index = self.text(index, known)?;
                let list = self.list(list, known)?;
                let chosen = index.parse().ok().and_then(|index: usize| list.get(index).cloned());
                chosen.map(Some).ok_or_else(|| format!("Fn::Select finds no value {index}"))
            }
            ("Fn::FindInMap", Some([map, first, second])) => {
                let [map, first, second] = [map, first, second].map(|key| self.text(key, known));
                let (map, first, second) = (map?, first?, second?);
                let found = self.mappings.get(&map).and_then(|map| map.get(&first)?.get(&second));
                found
                    .cloned()
                    .map(Some)
                    .ok_or_else(|| format!("there is no {map}.{first}.{second} in Mappings"))
            }
            _ => Err(format!("{name} {} is not known", shortened(argument))),
        }
    }

    fn attribute(&self, id: &str, attribute: &str, known: &Attributes) -> Result<Value, Unclear> {
        known.get(&(id.to_owned(), attribute.to_owned())).cloned().ok_or_else(|| {
            let what = if attribute == REF { format!("Ref {id}") } else { format!("{id}.{attribute}") };
            format!("{what} is not known: no such parameter or resource, or it is left out or has no such attribute")
        })
    }

    fn list(&self, value: &Value, known: &Attributes) -> Result<Vec<Value>, Unclear> {
        match self.evaluate(value, known)? {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(format!("{} is no list", shortened(value))),
        }
    }

    fn text(&self, value: &Value, known: &Attributes) -> Result<String, Unclear> {
        let evaluated = self.evaluate(value, known)?;
        evaluated.as_ref().map_or_else(|| Err("AWS::NoValue is no text".to_owned()), plain)
    }

    /// `${Name}`, `${Resource.Attribute}`, and `${!Name}` for what is no name.
    fn substitute(&self, text: &Value, own: &Members, known: &Attributes) -> Result<Value, Unclear> {
        let mut rest = text.as_str().ok_or("Fn::Sub wants a text")?;
        let mut whole = String::new();
        while let Some((before, name, after)) = next_name(rest) {
            whole.push_str(before);
            if let Some(literal) = name.strip_prefix('!') {
                whole.push_str(&format!("${{{literal}}}"));
            } else {
                let value = match (own.get(name), name.split_once('.')) {
                    (Some(value), _) => self.text(value, known)?,
                    (None, Some((id, attribute))) => plain(&self.attribute(id, attribute, known)?)?,
                    (None, None) => match self.parameters.get(name) {
                        Some(value) => plain(value)?,
                        None => plain(&self.attribute(name, REF, known)?)?,
                    },
                };
                whole.push_str(&value);
            }
            if whole.len() > MAX_TEXT_LEN {
                break;
            }
            rest = after;
        }
        bounded(whole + rest)
    }
}

/// The next `${…}` of a text: what is before it, its name, what is behind it.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("${")?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name.trim(), after))
}

fn bounded(text: String) -> Result<Value, Unclear> {
    if text.len() > MAX_TEXT_LEN {
        return Err(format!("a text is longer than {MAX_TEXT_LEN} bytes"));
    }
    Ok(text.into())
}

/// A value as a text has it.
fn plain(value: &Value) -> Result<String, Unclear> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        // A list of a parameter's (CommaDelimitedList).
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Ok(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
        }
        other => Err(format!("{} is no text", shortened(other))),
    }
}

/// The value of a parameter: what is given, or what it is declared to be otherwise.
fn parameter(declared: &Members, given: Option<&String>) -> Result<Value, Unclear> {
    let kind = declared.get("Type").and_then(Value::as_str).unwrap_or("String");
    let value = match (given, declared.get("Default")) {
        (Some(given), _) => given.clone(),
        (None, Some(default)) => plain(default)?,
        (None, None) => return Err("has no value: say --parameter NAME=VALUE".to_owned()),
    };
    if let Some(allowed) = declared.get("AllowedValues").and_then(Value::as_array) {
        let allowed: Vec<_> = allowed.iter().map(plain).collect::<Result<_, _>>()?;
        if !allowed.contains(&value) {
            return Err(format!("`{value}` is none of {}", allowed.join(", ")));
        }
    }
    match kind {
        "Number" if value.parse::<f64>().is_err() => Err(format!("`{value}` is no number")),
        "CommaDelimitedList" | "List<String>" | "List<Number>" => {
            Ok(value.split(',').map(|item| Value::from(item.trim())).collect())
        }
        _ => Ok(value.into()),
    }
}

/// The function that a value is: an object of one member with a function's name.
pub(crate) fn function(value: &Value) -> Option<(&str, &Value)> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let (name, argument) = members.iter().next()?;
    // A policy's statement may have a member `Condition`; it is an object then.
    let is_function = name == "Ref" && argument.is_string()
        || name == "Condition" && argument.is_string()
        || name.starts_with("Fn::");
    is_function.then_some((name, argument))
}

fn conditions_in(rule: &Value) -> BTreeSet<String> {
    match (function(rule), rule) {
        (Some(("Condition", Value::String(name))), _) => [name.clone()].into(),
        (Some((_, argument)), _) => conditions_in(argument),
        (None, Value::Array(items)) => items.iter().flat_map(conditions_in).collect(),
        _ => BTreeSet::new(),
    }
}

/// The names that a value refers to: resources, parameters, or nothing that there is. An attribute may be behind one, after a dot.
pub(crate) fn references(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(value, &mut found);
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match function(value) {
        Some(("Ref" | "Fn::GetAtt", Value::String(name))) => found.extend([name.clone()]),
        Some(("Fn::GetAtt", Value::Array(items))) => {
            found.extend(items.iter().take(1).filter_map(Value::as_str).map(str::to_owned));
        }
        Some(("Fn::Sub", argument)) => {
            let text = argument.as_str().or_else(|| argument.get(0)?.as_str());
            let mut rest = text.unwrap_or_default();
            while let Some((_, name, after)) = next_name(rest) {
                found.insert(name.to_owned());
                rest = after;
            }
            if let Some(own) = argument.get(1) {
                collect(own, found);
            }
        }
        Some((_, argument)) => collect(argument, found),
        None => match value {
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(members) => members.values().for_each(|member| collect(member, found)),
            _ => {}
        },
    }
}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
