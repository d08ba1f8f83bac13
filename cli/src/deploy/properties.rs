//! Properties of a resource, read one by one as what they are to be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    desired::Context,
    names,
    template::{Members, shortened},
};

/// Properties that are read one by one.
pub(crate) struct Properties<'a> {
    pub(crate) kind: &'a str,
    pub(crate) members: Members,
}

impl Properties<'_> {
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<Value, String> {
        let kind = self.kind;
        self.take(name).ok_or_else(|| format!("{name} of {kind} is missing"))
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        text_of(&value).map(Some).ok_or_else(|| format!("{name} {} is no text", shortened(&value)))
    }

    /// A whole number, which may be a text that comes from a parameter. It stays, as a number.
    pub(crate) fn whole(&mut self, name: &str) -> Result<Option<i64>, String> {
        let Some(value) = self.members.get_mut(name) else { return Ok(None) };
        let number =
            whole_of(value).ok_or_else(|| format!("{name} {} is no whole number", shortened(value)))?;
        *value = number.into();
        Ok(Some(number))
    }

    pub(crate) fn provisioned(&mut self) -> Result<Option<i64>, String> {
        let Some(config) = self.take("ProvisionedConcurrencyConfig") else { return Ok(None) };
        let count = whole_of(&config["ProvisionedConcurrentExecutions"]);
        count.map(Some).ok_or_else(|| "ProvisionedConcurrentExecutions is no whole number".to_owned())
    }

    /// The function of the template that a property names, and the qualifier that is part of it.
    pub(crate) fn function(&mut self, name: &str, context: Context<'_>) -> Result<(String, String), String> {
        let given = self.text(name)?.ok_or_else(|| format!("{name} is missing"))?;
        let rest = match given.strip_prefix("arn:") {
            Some(arn) => arn.splitn(6, ':').nth(5).unwrap_or_default(),
            None => given.as_str(),
        };
        let (function, qualifier) = rest.split_once(':').unwrap_or((rest, ""));
        if !context.functions.contains_key(function) {
            return Err(format!("{name}: {given} is no function of this template"));
        }
        Ok((function.to_owned(), qualifier.to_owned()))
    }

    /// The same with a qualifier that a property of its own may name. `$LATEST` is none.
    pub(crate) fn qualified(&mut self, name: &str, context: Context<'_>) -> Result<(String, String), String> {
        let (function, within) = self.function(name, context)?;
        let qualifier = self.text("Qualifier")?.unwrap_or(within);
        Ok((function, if qualifier == "$LATEST" { String::new() } else { qualifier }))
    }
}

pub(crate) fn members<const N: usize>(members: [(&str, Value); N]) -> Members {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

pub(crate) fn whole_of(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Tags as Lambda and SAM write them, or as CloudFormation does.
pub(crate) fn tags(given: Option<Value>) -> Result<BTreeMap<String, String>, String> {
    let wrong = |value: &Value| format!("Tags {} are no names with values", shortened(value));
    let mut tags = BTreeMap::new();
    match given {
        None => {}
        Some(Value::Object(members)) => {
            for (name, value) in members {
                tags.insert(name, text_of(&value).ok_or_else(|| wrong(&value))?);
            }
        }
        Some(Value::Array(items)) => {
            for item in items {
                let (name, value) = (text_of(&item["Key"]), text_of(&item["Value"]));
                tags.insert(name.ok_or_else(|| wrong(&item))?, value.ok_or_else(|| wrong(&item))?);
            }
        }
        Some(other) => return Err(wrong(&other)),
    }
    match tags.keys().find(|name| name.starts_with(names::OURS)) {
        Some(name) => Err(format!("Tags: `{name}` says what a stack has made")),
        None => Ok(tags),
    }
}
