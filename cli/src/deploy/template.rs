//! A template as data: its sections, and of each resource what CloudFormation says beside its properties.
//!
//! Nothing is evaluated here and nothing is known of types: `scope` does the one, `table` and `resources` the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Map, Value};

/// Members of a JSON object.
pub(crate) type Members = Map<String, Value>;

/// The one transform that is known.
const SERVERLESS: &str = "AWS::Serverless-2016-10-31";

/// What CDK has CloudFormation check of an account that was bootstrapped, which a node is not.
const BOOTSTRAP_RULE: &str = "CheckBootstrapVersion";

/// Most resources: CloudFormation's limit.
const MAX_RESOURCES: usize = 500;

/// Something that a template asks for and that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    /// A logical id, or a section.
    pub(crate) at: String,
    /// What of it, and why.
    pub(crate) what: String,
}

impl Refusal {
    pub(crate) fn new(at: &str, what: impl Into<String>) -> Self {
        Self { at: at.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// A template.
#[derive(Debug, Default)]
pub(crate) struct Template {
    pub(crate) parameters: BTreeMap<String, Members>,
    pub(crate) mappings: Members,
    pub(crate) conditions: Members,
    /// By their logical ids.
    pub(crate) resources: BTreeMap<String, Resource>,
    /// The value of each, and the condition under which it is there.
    pub(crate) outputs: BTreeMap<String, (Value, Option<String>)>,
    /// SAM's defaults, by the last part of the type.
    pub(crate) globals: BTreeMap<String, Members>,
}

/// A resource of a template.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resource {
    pub(crate) kind: String,
    pub(crate) properties: Members,
    pub(crate) depends_on: BTreeSet<String>,
    /// The condition under which it is there.
    pub(crate) condition: Option<String>,
    /// Whether its removal from the template, or its replacement, is to keep it.
    pub(crate) is_retained: bool,
}

impl Template {
    /// Takes a document apart. What it has that nothing is known of is refused.
    pub(crate) fn read(document: Value, refusals: &mut Vec<Refusal>) -> Self {
        let mut template = Self::default();
        let Value::Object(sections) = document else {
            refusals.push(Refusal::new("template", "is no mapping of sections"));
            return template;
        };
        for (section, value) in sections {
            match section.as_str() {
                "AWSTemplateFormatVersion" | "Description" | "Metadata" => {}
                "Transform" if is_known_transform(&value) => {}
                "Rules" if is_bootstrap_check(&value) => {}
                "Parameters" => template.parameters = each(&section, value, refusals),
                "Mappings" => template.mappings = members(&section, value, refusals),
                "Conditions" => template.conditions = members(&section, value, refusals),
                "Globals" => template.globals = each(&section, value, refusals),
                "Outputs" => {
                    for (name, mut output) in each(&section, value, refusals) {
                        let condition = condition(&mut output);
                        let value = output.remove("Value").unwrap_or_default();
                        template.outputs.insert(name, (value, condition));
                    }
                }
                "Resources" => {
                    for (id, resource) in each(&section, value, refusals) {
                        let resource = Resource::read(&id, resource, refusals);
                        template.resources.insert(id, resource);
                    }
                }
                _ => {
                    refusals.push(Refusal::new(&section, format!("{} is not read", shortened(&value))));
                }
            }
        }
        if template.resources.is_empty() {
            refusals.push(Refusal::new("Resources", "there are none"));
        }
        if template.resources.len() > MAX_RESOURCES {
            refusals.push(Refusal::new("Resources", format!("are more than {MAX_RESOURCES}")));
        }
        template
    }
}

impl Resource {
    fn read(id: &str, mut members: Members, refusals: &mut Vec<Refusal>) -> Self {
        let mut refuse = |what: String| refusals.push(Refusal::new(id, what));
        let condition = condition(&mut members);
        let mut resource = Self { condition, ..Self::default() };
        for (attribute, value) in members {
            match (attribute.as_str(), value) {
                ("Type", Value::String(kind)) => resource.kind = kind,
                ("Properties", Value::Object(properties)) => resource.properties = properties,
                ("DependsOn", Value::String(on)) => drop(resource.depends_on.insert(on)),
                ("DependsOn", Value::Array(on)) if on.iter().all(Value::is_string) => {
                    resource.depends_on = on.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                }
                // `sam build` and CDK say there where things came from.
                ("Metadata", _) => {}
                ("DeletionPolicy" | "UpdateReplacePolicy", Value::String(policy)) => match policy.as_str() {
                    "Delete" => {}
                    "Retain" | "RetainExceptOnCreate" => resource.is_retained = true,
                    other => refuse(format!("{attribute} {other} is not known")),
                },
                (_, value) => refuse(format!("{attribute} {} is not read", shortened(&value))),
            }
        }
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) || id.is_empty() || id.len() > 255 {
            refuse("a logical id is of letters and digits, 255 at most".to_owned());
        }
        resource
    }
}

/// As much of a value as a message has room for.
pub(crate) fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("…".chars()).collect()
}

fn condition(members: &mut Members) -> Option<String> {
    match members.get("Condition") {
        Some(Value::String(name)) => {
            let name = name.clone();
            members.remove("Condition");
            Some(name)
        }
        _ => None,
    }
}

fn members(section: &str, value: Value, refusals: &mut Vec<Refusal>) -> Members {
    match value {
        Value::Object(members) => members,
        other => {
            refusals.push(Refusal::new(section, format!("{} is no mapping", shortened(&other))));
            Members::new()
        }
    }
}

/// A section whose members are mappings in turn.
fn each(section: &str, value: Value, refusals: &mut Vec<Refusal>) -> BTreeMap<String, Members> {
    let all = members(section, value, refusals);
    all.into_iter().map(|(name, value)| (name.clone(), members(&name, value, refusals))).collect()
}

fn is_known_transform(value: &Value) -> bool {
    match value {
        Value::String(name) => name == SERVERLESS,
        Value::Array(names) => names.iter().all(|name| name == SERVERLESS),
        _ => false,
    }
}

fn is_bootstrap_check(value: &Value) -> bool {
    value.as_object().is_some_and(|rules| rules.keys().all(|name| name == BOOTSTRAP_RULE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: Value) -> (Template, Vec<String>) {
        let mut refusals = Vec::new();
        let template = Template::read(document, &mut refusals);
        (template, refusals.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_resource_is_what_its_attributes_say() {
        let (template, refusals) = read(json!({ "Resources": { "A": {
            "Type": "T", "Properties": { "P": 1 }, "DependsOn": "B", "Condition": "C", "DeletionPolicy": "Retain",
            "Metadata": { "aws:cdk:path": "x" } } } }));
        assert_eq!(refusals, [""; 0]);
        let expected = Resource {
            kind: "T".into(),
            properties: [("P".to_owned(), json!(1))].into_iter().collect(),
            depends_on: ["B".to_owned()].into(),
            condition: Some("C".into()),
            is_retained: true,
        };
        assert_eq!(template.resources["A"], expected);
    }

    #[test]
    fn what_is_not_read_is_named() {
        let (_, refusals) = read(json!({
            "Transform": ["AWS::LanguageExtensions"], "Hooks": {}, "Rules": { "Own": {} },
            "Resources": { "A": { "Type": "T", "UpdatePolicy": { "X": 1 } }, "B-C": { "Type": "T" } } }));
        assert_eq!(
            refusals,
            [
                "Hooks: {} is not read",
                "A: UpdatePolicy {\"X\":1} is not read",
                "B-C: a logical id is of letters and digits, 255 at most",
                "Rules: {\"Own\":{}} is not read",
                "Transform: [\"AWS::LanguageExtensions\"] is not read",
            ]
        );
        assert_eq!(read(json!([])).1, ["template: is no mapping of sections"]);
        assert_eq!(
            read(json!({ "Resources": 5 })).1,
            ["Resources: 5 is no mapping", "Resources: there are none"]
        );
    }
}
