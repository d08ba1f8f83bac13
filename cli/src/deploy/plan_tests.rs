//! Tests of `plan`.

use super::*;
use crate::deploy::package::Source;

fn package(sha256: &str) -> Package {
    Package { zip: b"zip".to_vec(), sha256: sha256.into() }
}

fn desired(settings: Value, tags: &[(&str, &str)]) -> Function {
    let Value::Object(settings) = settings else { panic!("an object") };
    Function {
        name: "f".into(),
        code: Code::Zip(Source::Path("f".into())),
        settings,
        reserved: None,
        tags: tags.iter().map(|(tag, value)| ((*tag).into(), (*value).into())).collect(),
    }
}

/// As GetFunction shows one.
fn shown() -> Value {
    json!({
        "Configuration": { "FunctionName": "f", "FunctionArn": "arn:f", "PackageType": "Zip", "CodeSha256": "same", "Timeout": 3,
            "Layers": [{ "Arn": "l:1", "CodeSize": 5 }], "SnapStart": { "ApplyOn": "None", "OptimizationStatus": "Off" } },
        "Tags": { "a": "1", "b": "2", "tinderbox:alias:live": "L" },
        "Concurrency": { "ReservedConcurrentExecutions": 5 },
    })
}

fn calls(steps: &[Step]) -> Vec<String> {
    let line = |call: &Call| match call {
        Call::Ask { method, path, body } => {
            format!("{method} {path} {}", body.as_ref().map(Value::to_string).unwrap_or_default())
        }
        other => format!("{other:?}"),
    };
    steps
        .iter()
        .flat_map(|step| &step.calls)
        .filter(|call| !matches!(call, Call::Settled(_)))
        .map(line)
        .collect()
}

#[test]
fn a_function_is_changed_where_it_differs() {
    let mut wanted = desired(
        json!({ "Timeout": 3, "Layers": ["l:1"], "SnapStart": { "ApplyOn": "None" }, "Environment": { "Variables": {} } }),
        &[("a", "1"), ("b", "2")],
    );
    wanted.reserved = Some(5);
    let package = package("same");
    assert_eq!(function("F", &wanted, Made::Zip(&package), Some(&shown())), Ok(vec![]));
    wanted.settings.insert("Timeout".into(), json!(9));
    wanted.settings.insert("Layers".into(), json!(["l:2"]));
    wanted.reserved = None;
    wanted.tags = [("a".into(), "9".into())].into();
    let steps = function("F", &wanted, Made::Zip(&self::package("other")), Some(&shown())).unwrap();
    assert_eq!(
        calls(&steps),
        [
            "PUT /2015-03-31/functions/f/code {\"ZipFile\":\"emlw\"}",
            "PUT /2015-03-31/functions/f/configuration {\"Layers\":[\"l:2\"],\"Timeout\":9}",
            "POST /2017-03-31/tags/arn%3Af {\"Tags\":{\"a\":\"9\"}}",
            "DELETE /2017-03-31/tags/arn%3Af?tagKeys=b ",
            "DELETE /2017-10-31/functions/f/concurrency ",
        ]
    );
    assert_eq!(steps[1].line(), "~ F: Layers, Timeout of f");
}

#[test]
fn a_new_function_is_created_whole() {
    let mut wanted = desired(json!({ "Timeout": 3 }), &[("a", "1")]);
    wanted.reserved = Some(2);
    let steps = function("F", &wanted, Made::Zip(&package("x")), None).unwrap();
    let body =
        r#"{"Code":{"ZipFile":"emlw"},"FunctionName":"f","PackageType":"Zip","Tags":{"a":"1"},"Timeout":3}"#;
    assert_eq!(
        calls(&steps),
        [
            format!("POST /2015-03-31/functions {body}"),
            "PUT /2017-10-31/functions/f/concurrency {\"ReservedConcurrentExecutions\":2}".to_owned(),
        ]
    );
}

#[test]
fn an_image_is_exchanged_when_its_name_means_another_one() {
    let mut wanted = desired(json!({}), &[("a", "1"), ("b", "2")]);
    wanted.code = Code::Image("app:v1".into());
    wanted.reserved = Some(5);
    let mut shown = shown();
    assert!(
        function("F", &wanted, Made::Image("sha256:ab"), Some(&shown)).is_err(),
        "a zip becomes no image"
    );
    shown["Configuration"]["PackageType"] = "Image".into();
    shown["Configuration"]["CodeSha256"] = "ab".into();
    shown["Code"] = json!({ "ImageUri": "app:v1" });
    assert_eq!(function("F", &wanted, Made::Image("sha256:ab"), Some(&shown)), Ok(vec![]));
    let steps = function("F", &wanted, Made::Image("sha256:cd"), Some(&shown)).unwrap();
    assert_eq!(calls(&steps), ["PUT /2015-03-31/functions/f/code {\"ImageUri\":\"app:v1\"}"]);
}

#[test]
fn a_layer_is_published_when_anything_of_it_is_another() {
    let label = json!({ "CompatibleRuntimes": ["python3.13"], "Description": "", "LicenseInfo": "" });
    let Value::Object(label) = label else { panic!("an object") };
    let wanted = Layer { name: "l".into(), content: Source::Path("l".into()), label };
    let newest = json!({ "Content": { "CodeSha256": "same" }, "CompatibleRuntimes": ["python3.13"], "Description": "" });
    assert_eq!(layer("L", &wanted, &package("same"), Some(&newest)), []);
    assert_eq!(layer("L", &wanted, &package("other"), Some(&newest)).len(), 1);
    assert_eq!(layer("L", &wanted, &package("same"), None)[0].sign, Sign::Create);
    let other =
        json!({ "Content": { "CodeSha256": "same" }, "CompatibleRuntimes": ["java21"], "Description": "" });
    assert_eq!(layer("L", &wanted, &package("same"), Some(&other)).len(), 1);
}

#[test]
fn an_alias_moves_with_its_version() {
    let settings = json!({ "FunctionVersion": "2", "Description": "", "RoutingConfig": { "AdditionalVersionWeights": {} } });
    let Value::Object(settings) = settings else { panic!("an object") };
    let wanted = Alias { function: "f".into(), name: "live".into(), settings, provisioned: None };
    let shown = |version: &str| json!({ "FunctionVersion": version, "Description": "", "RevisionId": "r" });
    assert_eq!(alias("A", &wanted, Some(&shown("2"))), []);
    assert_eq!(alias("A", &wanted, Some(&shown("1")))[0].line(), "~ A: alias live of f is of version 2");
    assert_eq!(alias("A", &wanted, None)[0].line(), "+ A: alias live of f");
}

#[test]
fn what_is_provisioned_is_waited_for() {
    let steps = provisioned("A", "f", "live", Some(2), None);
    let path = "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=live";
    assert_eq!(steps[0].calls[1], Call::Provisioned(path.into()));
    assert_eq!(provisioned("A", "f", "live", Some(2), Some(2)), []);
    assert_eq!(provisioned("A", "f", "live", None, Some(2))[0].sign, Sign::Remove);
    assert_eq!(provisioned("A", "f", "live", None, None), []);
}

#[test]
fn asynchronous_calls_are_compared_as_the_node_shows_them() {
    let settings = json!({ "MaximumRetryAttempts": 1, "DestinationConfig": { "OnFailure": { "Destination": "arn:q" } } });
    let Value::Object(settings) = settings else { panic!("an object") };
    let wanted = Events { function: "f".into(), qualifier: String::new(), settings };
    let mut shown = json!({ "MaximumRetryAttempts": 1, "FunctionArn": "x",
        "DestinationConfig": { "OnSuccess": {}, "OnFailure": { "Destination": "arn:q" } } });
    assert_eq!(events("E", &wanted, Some(&shown)), []);
    shown["MaximumEventAgeInSeconds"] = json!(60);
    assert_eq!(events("E", &wanted, Some(&shown)).len(), 1);
}
