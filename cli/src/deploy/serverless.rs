//! SAM's types as those that they stand for, by the logical ids that SAM gives them.
//!
//! `AWS::Serverless::Function` is a function and what is said of it in one place: role, version, alias, URL, permissions, asynchronous calls.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    scope::{Attributes, Scope, function},
    skip::Skip,
    table,
    template::{Members, Refusal, Resource, Template, shortened},
};

/// What SAM's types begin with.
const PREFIX: &str = "AWS::Serverless::";

/// What came of a transformation beside the resources.
#[derive(Debug, Default)]
pub(crate) struct Transformed {
    /// `Function.Alias` and `Function.Version`: the logical ids that they stand for.
    pub(crate) stand_ins: BTreeMap<String, String>,
    /// Versions that are published whenever their function changed.
    pub(crate) followers: Vec<String>,
    /// What was left out: logical id, property, reason.
    pub(crate) left_out: Vec<(String, String, &'static str)>,
}

/// Replaces SAM's resources of a template by others, and refuses what is not read of them.
pub(crate) fn transform(
    template: &mut Template,
    scope: &Scope,
    skip: &Skip,
    refusals: &mut Vec<Refusal>,
) -> Transformed {
    let mut transformed = Transformed::default();
    let all = std::mem::take(&mut template.resources);
    for (id, mut resource) in all {
        let (Some(short), Some(kind)) = (resource.kind.strip_prefix(PREFIX), table::kind(&resource.kind))
        else {
            template.resources.insert(id, resource);
            continue;
        };
        if let Some(defaults) = template.globals.get(short) {
            resource.properties = merge(defaults.clone(), std::mem::take(&mut resource.properties));
        }
        let left_out = kind.sift(&id, &mut resource.properties, skip, refusals);
        transformed.left_out.extend(left_out.into_iter().map(|(name, why)| (id.clone(), name, why)));
        let mut maker =
            Maker { id: &id, origin: &resource, scope, made: Vec::new(), transformed: &mut transformed };
        let made = if short == "Function" { maker.function() } else { maker.layer() };
        if let Err(what) = made {
            refusals.push(Refusal::new(&id, what));
        }
        for (id, resource) in maker.made {
            // What the template says of such an id itself counts.
            template.resources.entry(id).or_insert(resource);
        }
    }
    transformed
}

/// SAM's rule: mappings are merged, lists begin with the default's items, and everything else is the resource's own.
fn merge(defaults: Members, own: Members) -> Members {
    let mut merged = defaults;
    for (name, value) in own {
        let value = match (merged.remove(&name), value) {
            (Some(default), own) if function(&default).or(function(&own)).is_some() => own,
            (Some(Value::Object(default)), Value::Object(own)) => Value::Object(merge(default, own)),
            (Some(Value::Array(mut default)), Value::Array(own)) => {
                default.extend(own);
                Value::Array(default)
            }
            (_, own) => own,
        };
        merged.insert(name, value);
    }
    merged
}

/// Makes the resources that one stands for.
struct Maker<'a> {
    id: &'a str,
    origin: &'a Resource,
    scope: &'a Scope,
    made: Vec<(String, Resource)>,
    transformed: &'a mut Transformed,
}

impl Maker<'_> {
    fn layer(&mut self) -> Result<(), String> {
        let mut properties = self.origin.properties.clone();
        match properties.remove("RetentionPolicy") {
            None => {}
            Some(policy) if policy == "Retain" => {}
            Some(_) => return Err("RetentionPolicy: versions of layers are retained".to_owned()),
        }
        if let Some(content) = properties.remove("ContentUri") {
            properties.insert("Content".to_owned(), code(content));
        }
        self.make(self.id.to_owned(), "AWS::Lambda::LayerVersion", properties);
        Ok(())
    }

    fn function(&mut self) -> Result<(), String> {
        let mut properties = self.origin.properties.clone();
        let mut take = |name: &str| properties.remove(name);
        let (uri, image, inline) = (take("CodeUri"), take("ImageUri"), take("InlineCode"));
        let alias = self.alias(take("AutoPublishAlias"))?;
        let (url, events, description) =
            (take("FunctionUrlConfig"), take("EventInvokeConfig"), take("VersionDescription"));
        let provisioned = take("ProvisionedConcurrencyConfig");
        let (dead_letters, tracing) = (take("DeadLetterQueue"), take("Tracing"));
        let mut put = |name: &str, value: Value| drop(properties.insert(name.to_owned(), value));
        match (inline, image, uri) {
            (Some(text), None, None) => put("Code", json!({ "ZipFile": text })),
            (None, Some(image), _) => put("Code", json!({ "ImageUri": image })),
            (None, None, Some(uri)) => put("Code", code(uri)),
            _ => return Err("is to have one of CodeUri, InlineCode and ImageUri".to_owned()),
        }
        if let Some(letters) = dead_letters {
            let target = letters.get("TargetArn").cloned().ok_or("DeadLetterQueue wants a TargetArn")?;
            put("DeadLetterConfig", json!({ "TargetArn": target }));
        }
        match tracing {
            None => {}
            Some(tracing) if tracing == "Disabled" => {}
            Some(tracing) => put("TracingConfig", json!({ "Mode": tracing })),
        }
        if !properties.contains_key("Role") {
            let role = format!("{}Role", self.id);
            properties.insert("Role".to_owned(), json!({ "Fn::GetAtt": [role, "Arn"] }));
            self.make(role, "AWS::IAM::Role", Members::new());
        }
        self.make(self.id.to_owned(), "AWS::Lambda::Function", properties);
        self.published(alias.as_deref(), description, provisioned)?;
        if let Some(url) = url {
            self.url(url, alias.as_deref())?;
        }
        if let Some(events) = events {
            self.events(events, alias.as_deref())?;
        }
        Ok(())
    }

    fn alias(&self, alias: Option<Value>) -> Result<Option<String>, String> {
        let Some(alias) = alias else { return Ok(None) };
        match self.scope.evaluate(&alias, &Attributes::new())? {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(other) => Err(format!("AutoPublishAlias {} is no name", shortened(&other))),
        }
    }

    /// The version and the alias of `AutoPublishAlias`.
    fn published(
        &mut self,
        alias: Option<&str>,
        description: Option<Value>,
        provisioned: Option<Value>,
    ) -> Result<(), String> {
        let Some(alias) = alias else {
            return match provisioned {
                Some(_) => Err("ProvisionedConcurrencyConfig wants an AutoPublishAlias".to_owned()),
                None => Ok(()),
            };
        };
        let function = json!({ "Ref": self.id });
        let version = format!("{}Version", self.id);
        let mut properties = members(json!({ "FunctionName": function }));
        properties.extend(description.map(|text| ("Description".to_owned(), text)));
        self.make(version.clone(), "AWS::Lambda::Version", properties);
        let number = json!({ "Fn::GetAtt": [version, "Version"] });
        let mut properties =
            members(json!({ "FunctionName": function, "Name": alias, "FunctionVersion": number }));
        properties.extend(provisioned.map(|config| ("ProvisionedConcurrencyConfig".to_owned(), config)));
        let plain: String = alias.chars().filter(char::is_ascii_alphanumeric).collect();
        let id = format!("{}Alias{plain}", self.id);
        self.make(id.clone(), "AWS::Lambda::Alias", properties);
        self.transformed.stand_ins.insert(format!("{}.Version", self.id), version.clone());
        self.transformed.stand_ins.insert(format!("{}.Alias", self.id), id);
        self.transformed.followers.push(version);
        Ok(())
    }

    /// The function, or its alias if it has one, as what names functions takes it.
    fn target(&self, alias: Option<&str>) -> Value {
        let plain = |alias: &str| alias.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        json!({ "Ref": alias.map_or_else(|| self.id.to_owned(), |alias| format!("{}Alias{}", self.id, plain(alias))) })
    }

    fn url(&mut self, config: Value, alias: Option<&str>) -> Result<(), String> {
        let Value::Object(mut properties) = config else {
            return Err(format!("FunctionUrlConfig {} is no mapping", shortened(&config)));
        };
        let auth = properties.get("AuthType").cloned().ok_or("FunctionUrlConfig wants an AuthType")?;
        properties.insert("TargetFunctionArn".to_owned(), self.target(alias));
        let id = format!("{}Url", self.id);
        self.make(id.clone(), "AWS::Lambda::Url", properties);
        if self.scope.evaluate(&auth, &Attributes::new())? != Some("NONE".into()) {
            return Ok(());
        }
        let function = self.target(alias);
        let open = json!({ "Action": "lambda:InvokeFunctionUrl", "FunctionName": function, "FunctionUrlAuthType": "NONE",
            "Principal": "*" });
        self.make(format!("{id}PublicPermissions"), "AWS::Lambda::Permission", members(open));
        let invoke = json!({ "Action": "lambda:InvokeFunction", "FunctionName": function, "InvokedViaFunctionUrl": true,
            "Principal": "*" });
        self.make(
            format!("{}URLInvokeAllowPublicAccess", self.id),
            "AWS::Lambda::Permission",
            members(invoke),
        );
        Ok(())
    }

    fn events(&mut self, config: Value, alias: Option<&str>) -> Result<(), String> {
        let Value::Object(mut properties) = config else {
            return Err(format!("EventInvokeConfig {} is no mapping", shortened(&config)));
        };
        if let Some(Value::Object(destinations)) = properties.get_mut("DestinationConfig") {
            for (name, destination) in destinations.iter_mut() {
                // SAM would make a queue of one that says its type alone.
                let arn = destination.get("Destination").cloned();
                let arn = arn.ok_or_else(|| format!("DestinationConfig.{name} wants a Destination"))?;
                *destination = json!({ "Destination": arn });
            }
        }
        properties.insert("FunctionName".to_owned(), json!({ "Ref": self.id }));
        properties.insert("Qualifier".to_owned(), alias.unwrap_or("$LATEST").into());
        let mut depends_on = self.origin.depends_on.clone();
        if let Some(Value::String(id)) = self.target(alias).get("Ref") {
            depends_on.insert(id.clone());
        }
        self.make(format!("{}EventInvokeConfig", self.id), "AWS::Lambda::EventInvokeConfig", properties);
        if let Some((_, made)) = self.made.last_mut() {
            made.depends_on = depends_on;
        }
        Ok(())
    }

    fn make(&mut self, id: String, kind: &str, properties: Members) {
        let made = Resource { kind: kind.to_owned(), properties, ..self.origin.clone() };
        self.made.push((id, made));
    }
}

fn members(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

/// A place of code: a path stays one; what is in a bucket is written as Lambda writes it.
fn code(uri: Value) -> Value {
    if let Value::String(text) = &uri {
        return match text.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
            Some((bucket, key)) => json!({ "S3Bucket": bucket, "S3Key": key }),
            None => uri,
        };
    }
    match (uri.get("Bucket"), uri.get("Key")) {
        (Some(bucket), Some(key)) => json!({ "S3Bucket": bucket, "S3Key": key }),
        _ => uri,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::scope::Place;

    fn transformed(document: Value) -> (Template, Transformed, Vec<String>) {
        let mut refusals = Vec::new();
        let mut template = Template::read(document, &mut refusals);
        let place = Place { stack: "s", region: "r", account: "0" };
        let scope = Scope::new(&template, &BTreeMap::new(), place).unwrap();
        let transformed = transform(&mut template, &scope, &Skip::default(), &mut refusals);
        (template, transformed, refusals.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_function_is_what_sam_makes_of_it() {
        let (template, transformed, refusals) = transformed(json!({
            "Globals": { "Function": { "Runtime": "python3.13", "Timeout": 3, "Layers": ["a"],
                "Environment": { "Variables": { "A": "1", "B": "1" } } } },
            "Resources": { "F": { "Type": "AWS::Serverless::Function", "Condition": "C", "Properties": {
                "CodeUri": "F", "Handler": "a.b", "Timeout": 9, "Layers": ["b"], "Policies": ["P"],
                "Environment": { "Variables": { "B": "2" } }, "AutoPublishAlias": "live",
                "FunctionUrlConfig": { "AuthType": "NONE" }, "EventInvokeConfig": { "MaximumRetryAttempts": 0 } } } },
        }));
        assert_eq!(refusals, [""; 0]);
        let ids: Vec<_> = template.resources.keys().map(String::as_str).collect();
        let expected = [
            "F",
            "FAliaslive",
            "FEventInvokeConfig",
            "FRole",
            "FURLInvokeAllowPublicAccess",
            "FUrl",
            "FUrlPublicPermissions",
            "FVersion",
        ];
        assert_eq!(ids, expected);
        assert!(template.resources.values().all(|resource| resource.condition.as_deref() == Some("C")));
        let expected = json!({ "Code": "F", "Handler": "a.b", "Runtime": "python3.13", "Timeout": 9, "Layers": ["a", "b"],
            "Environment": { "Variables": { "A": "1", "B": "2" } }, "Role": { "Fn::GetAtt": ["FRole", "Arn"] } });
        assert_eq!(Value::Object(template.resources["F"].properties.clone()), expected);
        assert_eq!(transformed.followers, ["FVersion"]);
        assert_eq!(transformed.stand_ins["F.Alias"], "FAliaslive");
        assert_eq!(transformed.left_out.len(), 1);
    }

    #[test]
    fn what_sam_would_make_elsewhere_is_refused() {
        let refusal = |properties: Value| {
            let (_, _, refusals) = transformed(
                json!({ "Resources": { "F": { "Type": "AWS::Serverless::Function", "Properties": properties } } }),
            );
            refusals.join("; ")
        };
        assert!(refusal(json!({ "CodeUri": "F", "Events": { "Api": {} } })).contains("F: Events"));
        assert!(refusal(json!({ "Handler": "x" })).contains("CodeUri, InlineCode and ImageUri"));
        let destination = json!({ "DestinationConfig": { "OnFailure": { "Type": "SQS" } } });
        assert!(
            refusal(json!({ "CodeUri": "F", "EventInvokeConfig": destination }))
                .contains("wants a Destination")
        );
        let provisioned = json!({ "ProvisionedConcurrentExecutions": 1 });
        assert!(
            refusal(json!({ "CodeUri": "F", "ProvisionedConcurrencyConfig": provisioned }))
                .contains("AutoPublishAlias")
        );
    }

    #[test]
    fn a_default_that_is_a_function_is_replaced_whole() {
        let merged = |default: Value, own: Value| {
            merge(members(json!({ "A": default })), members(json!({ "A": own })))
        };
        let check = |default: Value, own: Value, expected: Value| {
            assert_eq!(merged(default, own)["A"], expected);
        };
        check(json!({ "Ref": "X" }), json!({ "Fn::Sub": "y" }), json!({ "Fn::Sub": "y" }));
        check(json!({ "a": { "Ref": "X" } }), json!({ "a": "y" }), json!({ "a": "y" }));
        check(json!({ "a": 1 }), json!({ "b": 2 }), json!({ "a": 1, "b": 2 }));
    }

    #[test]
    fn code_in_a_bucket_is_told_from_code_in_a_folder() {
        assert_eq!(code("s3://b/k/l".into()), json!({ "S3Bucket": "b", "S3Key": "k/l" }));
        assert_eq!(code(json!({ "Bucket": "b", "Key": "k" })), json!({ "S3Bucket": "b", "S3Key": "k" }));
        assert_eq!(code("./folder".into()), json!("./folder"));
    }
}
