//! A node in memory, for tests: as much of Lambda's API as `deploy` asks, and a record of what changed it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use anyhow::{Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::node::Node;

const FUNCTIONS: &str = "/2015-03-31/functions/";

/// What it has.
#[derive(Default)]
pub(super) struct Fake {
    /// Documents by their paths: functions, and all that functions and layers have.
    documents: RefCell<BTreeMap<String, Value>>,
    /// `METHOD PATH` of every request that changed something.
    pub(super) changes: RefCell<Vec<String>>,
    /// How many more changes it takes before it fails.
    pub(super) patience: Cell<Option<usize>>,
}

impl Fake {
    /// A document, by its path.
    pub(super) fn at(&self, path: &str) -> Option<Value> {
        self.documents.borrow().get(path).cloned()
    }

    /// The configuration of the one function whose name begins so.
    pub(super) fn function(&self, prefix: &str) -> Value {
        let documents = self.documents.borrow();
        let start = format!("{FUNCTIONS}{prefix}");
        let is_function = |path: &&String| path.starts_with(&start) && !path[FUNCTIONS.len()..].contains('/');
        let found: Vec<_> = documents.keys().filter(is_function).collect();
        assert_eq!(found.len(), 1, "functions that begin with {prefix}");
        documents[found[0]].clone()
    }

    pub(super) fn put(&self, path: &str, document: Value) {
        self.documents.borrow_mut().insert(path.to_owned(), document);
    }

    fn change(&self, method: &str, path: &str) -> Result<()> {
        match self.patience.get() {
            Some(0) => bail!("the node has had enough"),
            left => self.patience.set(left.map(|left| left - 1)),
        }
        self.changes.borrow_mut().push(format!("{method} {path}"));
        Ok(())
    }

    fn create(&self, body: &Value) -> Value {
        let name = body["FunctionName"].as_str().unwrap();
        let mut configuration = body.clone();
        for member in ["Code", "Tags"] {
            configuration.as_object_mut().unwrap().remove(member);
        }
        configuration["FunctionArn"] = arn(name).into();
        configuration["CodeSha256"] = sha256(&body["Code"]["ZipFile"]);
        configuration["State"] = "Active".into();
        let mut function = json!({ "Configuration": {}, "Tags": body["Tags"] });
        function["Configuration"] = settled(configuration);
        self.put(&format!("{FUNCTIONS}{name}"), function.clone());
        function["Configuration"].clone()
    }

    fn update(&self, path: &str, body: &Value) -> Value {
        let (function, of) = path.rsplit_once('/').unwrap();
        let mut found = self.at(function).unwrap();
        if of == "code" {
            found["Configuration"]["CodeSha256"] = sha256(&body["ZipFile"]);
        } else {
            for (member, value) in body.as_object().unwrap() {
                found["Configuration"][member] = value.clone();
            }
            found["Configuration"] = settled(found["Configuration"].clone());
        }
        self.put(function, found.clone());
        found["Configuration"].clone()
    }

    /// The last version, or another one if the function is another one by now.
    fn publish(&self, path: &str) -> Value {
        let function = self.at(path.strip_suffix("/versions").unwrap()).unwrap();
        let mut published = self.at(path).unwrap_or_else(|| json!({ "Versions": [] }));
        let versions = published["Versions"].as_array_mut().unwrap();
        let of = |version: &Value| version["Of"] == function["Configuration"];
        if !versions.last().is_some_and(of) {
            let number = (versions.len() + 1).to_string();
            versions.push(json!({ "Version": number, "Of": function["Configuration"] }));
        }
        let last = versions.last().unwrap().clone();
        self.put(path, published);
        last
    }

    fn layer(&self, path: &str, body: &Value) -> Value {
        let mut layer = self.at(path).unwrap_or_else(|| json!({ "LayerVersions": [] }));
        let versions = layer["LayerVersions"].as_array_mut().unwrap();
        let number = versions.len() + 1;
        let name = path.split('/').nth(3).unwrap();
        let mut version = body.clone();
        version["Content"] = json!({ "CodeSha256": sha256(&body["Content"]["ZipFile"]) });
        version["Version"] = number.into();
        version["LayerVersionArn"] =
            format!("arn:aws:lambda:us-east-1:000000000000:layer:{name}:{number}").into();
        versions.insert(0, version.clone());
        self.put(path, layer);
        self.put(&format!("{path}/{number}"), version.clone());
        version
    }

    fn policy(&self, path: &str, body: &Value) -> Value {
        let known = self.at(path).map(|policy| policy["Policy"].as_str().unwrap().to_owned());
        let mut policy: Value =
            serde_json::from_str(known.as_deref().unwrap_or(r#"{"Statement":[]}"#)).unwrap();
        policy["Statement"].as_array_mut().unwrap().push(json!({ "Sid": body["StatementId"] }));
        self.put(path, json!({ "Policy": policy.to_string() }));
        json!({})
    }

    fn delete(&self, path: &str) -> Value {
        if let Some((policy, sid)) = path.split_once("/policy/") {
            let (sid, query) =
                sid.split_once('?').map_or((sid, String::new()), |(sid, query)| (sid, format!("?{query}")));
            let policy = format!("{policy}/policy{query}");
            let mut found = self.at(&policy).unwrap();
            let mut document: Value = serde_json::from_str(found["Policy"].as_str().unwrap()).unwrap();
            document["Statement"].as_array_mut().unwrap().retain(|statement| statement["Sid"] != sid);
            found["Policy"] = document.to_string().into();
            self.put(&policy, found);
        } else if let Some((resource, keys)) = path.split_once("?tagKeys=") {
            let function = format!("{FUNCTIONS}{}", name_in(resource));
            let mut found = self.at(&function).unwrap();
            for key in keys.split("&tagKeys=") {
                let key = key.replace("%3A", ":");
                found["Tags"].as_object_mut().unwrap().remove(&key).unwrap();
            }
            self.put(&function, found);
        } else {
            let below = format!("{path}/");
            self.documents.borrow_mut().retain(|other, _| other != path && !other.starts_with(&below));
        }
        Value::Null
    }

    fn get(&self, path: &str) -> Option<Value> {
        if path.starts_with("/2017-03-31/tags/") {
            let function = self.at(&format!("{FUNCTIONS}{}", name_in(path)))?;
            return Some(json!({ "Tags": function["Tags"] }));
        }
        if path == FUNCTIONS {
            let documents = self.documents.borrow();
            let functions = documents
                .iter()
                .filter(|(path, _)| path.strip_prefix(FUNCTIONS).is_some_and(|rest| !rest.contains('/')));
            let functions: Vec<_> =
                functions.map(|(_, function)| function["Configuration"].clone()).collect();
            return Some(json!({ "Functions": functions }));
        }
        if let Some((function, _)) = path.split_once("/configuration") {
            return self.at(function).map(|function| function["Configuration"].clone());
        }
        if let Some((layer, _)) = path.split_once("?MaxItems") {
            return self.at(layer);
        }
        self.at(path)
    }
}

impl Node for Fake {
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        if method == "GET" {
            return Ok(self.get(path));
        }
        let body = body.cloned().unwrap_or_default();
        // Publishing is asked for though nothing is known to have changed.
        if !path.ends_with("/versions") || path.contains("/layers/") {
            self.change(method, path)?;
        }
        Ok(Some(match method {
            "DELETE" => self.delete(path),
            "POST" if path == FUNCTIONS.trim_end_matches('/') => self.create(&body),
            "POST" if path.contains("/layers/") => self.layer(path, &body),
            "POST" if path.ends_with("/versions") => self.publish(path),
            "POST" if path.contains("/policy") => self.policy(path, &body),
            "POST" if path.starts_with("/2017-03-31/tags/") => {
                let function = format!("{FUNCTIONS}{}", name_in(path));
                let mut found = self.at(&function).unwrap();
                found["Tags"].as_object_mut().unwrap().extend(body["Tags"].as_object().unwrap().clone());
                self.put(&function, found);
                Value::Null
            }
            "PUT" if path.ends_with("/code") || path.ends_with("/configuration") => self.update(path, &body),
            "POST" if path.ends_with("/aliases") => {
                self.put(&format!("{path}/{}", body["Name"].as_str().unwrap()), body.clone());
                body
            }
            _ => {
                let mut document = body;
                if path.contains("/url") {
                    document["FunctionUrl"] = "http://url.localhost/".into();
                }
                self.put(path, document.clone());
                document
            }
        }))
    }

    fn ask_logs(&self, operation: &str, body: &Value) -> Result<Value> {
        if operation == "DescribeLogGroups" {
            let group = body["logGroupNamePrefix"].as_str().unwrap();
            return Ok(json!({ "logGroups": self.at(group).into_iter().collect::<Vec<_>>() }));
        }
        self.change(operation, "logs")?;
        self.put(body["logGroupName"].as_str().unwrap(), body.clone());
        Ok(Value::Null)
    }
}

/// Layers are shown as structures.
fn settled(mut configuration: Value) -> Value {
    if let Some(layers) = configuration["Layers"].as_array_mut() {
        for layer in layers {
            if layer.is_string() {
                *layer = json!({ "Arn": layer });
            }
        }
    }
    configuration
}

fn sha256(zip: &Value) -> Value {
    let zip = BASE64_STANDARD.decode(zip.as_str().unwrap()).unwrap();
    BASE64_STANDARD.encode(Sha256::digest(zip)).into()
}

fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:function:{name}")
}

/// The function of an ARN in a path.
fn name_in(path: &str) -> &str {
    path.rsplit("%3A").next().unwrap()
}
