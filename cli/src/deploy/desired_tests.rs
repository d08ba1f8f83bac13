//! Tests of `desired`.

use super::*;

const PLACE: Place<'static> = Place { stack: "shop", region: "us-east-1", account: "000000000000" };

fn read(kind: &str, properties: Value) -> Result<Desired, String> {
    let Value::Object(properties) = properties else { panic!("an object") };
    let functions = [("f".to_owned(), "F".to_owned())].into();
    let assets = Assets::below(Path::new("/app"));
    let context = Context { place: PLACE, assets: &assets, functions: &functions, is_follower: false };
    super::read("F", kind, properties, context)
}

fn function(more: Value) -> Result<Function, String> {
    let mut properties = json!({ "Code": "f", "Handler": "a.b", "Runtime": "python3.13", "Role": "r" });
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    properties.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    match read("AWS::Lambda::Function", properties)? {
        Desired::Function(function) => Ok(function),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_said_of_a_function_is_lambdas_default() {
    let function =
        function(json!({ "Timeout": "9", "ReservedConcurrentExecutions": 3, "Environment": { "Variables": { "A": 1, "B": true } } })).unwrap();
    assert_eq!(function.reserved, Some(3));
    assert!(function.name.starts_with("shop-F-"));
    let log = json!({ "LogFormat": "Text", "LogGroup": format!("/aws/lambda/{}", function.name) });
    let expected = json!({
        "DeadLetterConfig": { "TargetArn": "" }, "Description": "", "Environment": { "Variables": { "A": "1", "B": "true" } },
        "EphemeralStorage": { "Size": 512 }, "Handler": "a.b", "Layers": [], "LoggingConfig": log, "MemorySize": 128,
        "Role": "r", "Runtime": "python3.13", "SnapStart": { "ApplyOn": "None" }, "Timeout": 9,
        "TracingConfig": { "Mode": "PassThrough" },
    });
    assert_eq!(Value::Object(function.settings), expected);
    assert!(matches!(function.code, Code::Zip(Source::Path(path)) if path == Path::new("/app/f")));
}

#[test]
fn an_image_is_named_and_has_neither_runtime_nor_layers() {
    let image =
        json!({ "Code": { "ImageUri": "app:v1" }, "Handler": null, "Runtime": null, "PackageType": "Image" });
    let made = function(image).unwrap();
    assert!(matches!(&made.code, Code::Image(uri) if uri == "app:v1"));
    assert!(!made.settings.contains_key("Layers") && made.settings.contains_key("ImageConfig"));
    assert!(function(json!({ "PackageType": "Image" })).is_err());
}

#[test]
fn code_may_be_in_the_template() {
    let name = |runtime: &str| match function(json!({ "Code": { "ZipFile": "x" }, "Runtime": runtime }))?.code
    {
        Code::Zip(Source::Inline { name, .. }) => Ok(name),
        other => panic!("{other:?}"),
    };
    assert_eq!(name("python3.13"), Ok("index.py"));
    assert_eq!(name("nodejs20.x"), Ok("index.js"));
    assert_eq!(name("java21"), Err("code in a template is for Python and Node.js, not `java21`".to_owned()));
}

#[test]
fn json_logs_have_levels() {
    let function = function(json!({ "LoggingConfig": { "LogFormat": "JSON" } })).unwrap();
    assert_eq!(function.settings["LoggingConfig"]["SystemLogLevel"], "INFO");
}

#[test]
fn tags_may_be_written_in_two_ways() {
    for tags in [json!({ "a": "1" }), json!([{ "Key": "a", "Value": "1" }])] {
        assert_eq!(function(json!({ "Tags": tags })).unwrap().tags["a"], "1");
    }
    assert!(function(json!({ "Tags": { "tinderbox:stack": "x" } })).is_err());
    assert!(function(json!({ "Tags": "x" })).is_err());
}

#[test]
fn what_a_node_cannot_be_given_is_refused() {
    for (more, said) in [
        (json!({ "Architectures": ["arm64"] }), "x86_64"),
        (json!({ "Handler": null }), "Handler is missing"),
        (json!({ "Code": { "S3Bucket": "b", "S3Key": "k" } }), "code in a bucket is not fetched: s3://b/k"),
        (json!({ "Code": 5 }), "neither a local path nor an asset"),
        (json!({ "MemorySize": "much" }), "MemorySize \"much\" is no whole number"),
        (json!({ "SnapStart": "On" }), "SnapStart \"On\" is no structure"),
        (json!({ "SnapStart": { "Soon": 1 } }), "SnapStart.Soon is not supported"),
        (json!({ "Environment": { "Variables": { "A": [] } } }), "the variable A is no text"),
    ] {
        let error = function(more).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn an_alias_of_a_function_is_named_by_its_arn() {
    let read = |function: &str, qualifier: Option<&str>| {
        let mut properties = json!({ "TargetFunctionArn": function, "AuthType": "NONE" });
        if let Some(qualifier) = qualifier {
            properties["Qualifier"] = qualifier.into();
        }
        match read("AWS::Lambda::Url", properties)? {
            Desired::Url(Url { function, qualifier, .. }) => Ok::<_, String>((function, qualifier)),
            other => panic!("{other:?}"),
        }
    };
    let of = |function: &str, qualifier: &str| Ok((function.to_owned(), qualifier.to_owned()));
    assert_eq!(read("f", None), of("f", ""));
    assert_eq!(read("f", Some("$LATEST")), of("f", ""));
    assert_eq!(read("arn:aws:lambda:us-east-1:000000000000:function:f:live", None), of("f", "live"));
    assert_eq!(read("f:live", Some("next")), of("f", "next"));
    assert!(read("g", None).is_err());
}

#[test]
fn weights_of_an_alias_are_by_version() {
    let routing = json!({ "AdditionalVersionWeights": [{ "FunctionVersion": "2", "FunctionWeight": 0.1 }] });
    let properties =
        json!({ "FunctionName": "f", "Name": "live", "FunctionVersion": "1", "RoutingConfig": routing });
    let Ok(Desired::Alias(alias)) = read("AWS::Lambda::Alias", properties) else { panic!("an alias") };
    assert_eq!(alias.settings["RoutingConfig"], json!({ "AdditionalVersionWeights": { "2": 0.1 } }));
}
