//! Put-, Update-, Get-, Delete- and ListFunctionEventInvokeConfig.

use super::*;

const PATH: &str = "/2019-09-25/functions/f/event-invoke-config";
const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

/// A configuration without its time, which is a number of seconds.
fn timeless(mut config: Value) -> Value {
    assert!(config["LastModified"].as_f64().unwrap() > 1e9, "{config}");
    config.as_object_mut().unwrap().remove("LastModified");
    config
}

fn config(qualifier: &str, members: &[(&str, Value)]) -> Value {
    let nothing = json!({ "OnSuccess": {}, "OnFailure": {} });
    let body = json!({ "FunctionArn": format!("{ARN}:{qualifier}"), "DestinationConfig": nothing });
    with(body, members)
}

#[tokio::test]
async fn a_configuration_is_put_updated_kept_and_deleted() {
    let node = Node::new().await;
    node.function("f").await;
    let (retries, age) = (("/MaximumRetryAttempts", json!(0)), ("/MaximumEventAgeInSeconds", json!(60)));
    let put = node.put(PATH, &json!({ "MaximumRetryAttempts": 0 })).await.ok(200);
    assert_eq!(timeless(put), config("$LATEST", std::slice::from_ref(&retries)));
    let put = node.put(PATH, &json!({ "MaximumEventAgeInSeconds": 60 })).await.ok(200);
    assert_eq!(timeless(put), config("$LATEST", std::slice::from_ref(&age)), "a put replaces");
    let body = json!({ "MaximumRetryAttempts": 0 }).to_string();
    let updated = node.call("POST", PATH, body).await.ok(200);
    assert_eq!(timeless(updated), config("$LATEST", &[retries.clone(), age.clone()]), "an update adds");

    let node = node.restarted().await;
    node.function("g").await;
    let other = ARN.replace(":f", ":g").replace(":gunction", ":function");
    let body = json!({ "DestinationConfig": { "OnSuccess": { "Destination": other } } }).to_string();
    let updated = timeless(node.call("POST", PATH, body).await.ok(200));
    let success = ("/DestinationConfig/OnSuccess", json!({ "Destination": other }));
    assert_eq!(updated, config("$LATEST", &[retries, age, success]));
    assert_eq!(timeless(node.get(&format!("{PATH}?Qualifier=$LATEST")).await.ok(200)), updated);
    node.call("DELETE", PATH, Body::empty()).await.ok(204);
    let none = format!("The function {ARN}:$LATEST doesn't have an EventInvokeConfig");
    node.get(PATH).await.is_error(404, "ResourceNotFoundException", &none);
    node.call("DELETE", PATH, Body::empty()).await.is_error(404, "ResourceNotFoundException", &none);
    node.call("POST", PATH, r#"{"MaximumRetryAttempts":1}"#).await.is_error(
        404,
        "ResourceNotFoundException",
        &none,
    );
}

#[tokio::test]
async fn each_version_and_alias_has_its_own() {
    let node = Node::new().await;
    node.function("f").await;
    node.call("POST", "/2015-03-31/functions/f/versions", "{}").await.ok(201);
    let alias = json!({ "Name": "live", "FunctionVersion": "1" }).to_string();
    node.call("POST", "/2015-03-31/functions/f/aliases", alias).await.ok(201);
    let body = json!({ "MaximumRetryAttempts": 1 });
    let retries = [("/MaximumRetryAttempts", json!(1))];
    for qualifier in ["$LATEST", "1", "live"] {
        let put = node.put(&format!("{PATH}?Qualifier={qualifier}"), &body).await.ok(200);
        assert_eq!(timeless(put), config(qualifier, &retries));
    }
    let mut listed = Vec::new();
    let mut path = format!("{PATH}/list?MaxItems=2");
    loop {
        let page = node.get(&path).await.ok(200);
        listed.extend(page["FunctionEventInvokeConfigs"].as_array().unwrap().iter().cloned().map(timeless));
        let Some(marker) = page["NextMarker"].as_str() else { break };
        path = format!("{PATH}/list?MaxItems=2&Marker={}", marker.replace('=', "%3D"));
    }
    assert_eq!(listed, ["$LATEST", "1", "live"].map(|qualifier| config(qualifier, &retries)));
}

#[tokio::test]
async fn what_cannot_be_configured_is_refused_in_aws_words() {
    let node = Node::new().await;
    node.function("f").await;
    let (parameter, missing) = ("InvalidParameterValueException", "ResourceNotFoundException");
    let to = |arn: &str| json!({ "DestinationConfig": { "OnSuccess": { "Destination": arn } } });
    let nothing = "You must specify at least one of error handling or destination setting.";
    node.put(PATH, &json!({})).await.is_error(400, parameter, nothing);
    let iam = ARN.replace(":lambda:", ":iam:");
    for (arn, message) in [
        (ARN.into(), "You can't specify the function as a destination for itself.".to_owned()),
        (format!("{ARN}x"), format!("The destination ARN {ARN}x is invalid.")),
        (
            iam.clone(),
            format!(
                "The provided destination config DestinationConfig(onSuccess=OnSuccess(destination={iam}), onFailure=null) is invalid."
            ),
        ),
        (
            "arn:aws:sns:us-east-1:000000000000:t".into(),
            "A destination that is no function, no queue and nothing that its configuration names is not supported by this \
             Tinderbox node."
                .into(),
        ),
        (
            "arn:aws:sqs:us-east-1:111111111111:q".into(),
            "The destination ARN arn:aws:sqs:us-east-1:111111111111:q is invalid.".into(),
        ),
    ] {
        node.put(PATH, &to(&arn)).await.is_error(400, parameter, &message);
    }
    let no_function = "The function doesn't exist.";
    for path in ["/2019-09-25/functions/no/event-invoke-config", &format!("{PATH}?Qualifier=no")] {
        let body = json!({ "MaximumRetryAttempts": 0 });
        node.put(path, &body).await.is_error(404, missing, no_function);
    }
    let list = "/2019-09-25/functions/no/event-invoke-config/list";
    node.get(list).await.is_error(404, missing, no_function);
    let none = format!("The function {ARN}:$LATEST doesn't have an EventInvokeConfig");
    node.get(PATH).await.is_error(404, missing, &none);
}
