//! ListFunctions and GetAccountSettings.

use super::*;

#[tokio::test]
async fn pages_hold_every_function_once_in_order() {
    let node = Node::new().await;
    let names = ["a", "b-1", "b_2", "c", "d"];
    for name in ["d", "b_2", "a", "c", "b-1"] {
        node.function(name).await;
    }
    for size in [1, 2, 5, 10] {
        let (mut seen, mut marker) = (Vec::new(), String::new());
        loop {
            let page =
                node.get(&format!("/2015-03-31/functions/?MaxItems={size}&Marker={marker}")).await.ok(200);
            let functions = page["Functions"].as_array().unwrap();
            assert!(functions.len() <= size);
            seen.extend(
                functions.iter().map(|function| function["FunctionName"].as_str().unwrap().to_owned()),
            );
            match page["NextMarker"].as_str() {
                Some(next) => marker = next.replace('=', "%3D").replace('+', "%2B"),
                None => break,
            }
        }
        assert_eq!(seen, names, "pages of {size}");
    }
}

#[tokio::test]
async fn a_listed_function_shows_nothing_that_changes_by_itself() {
    let node = Node::new().await;
    node.function("f").await;
    let listed = node.get("/2015-03-31/functions?FunctionVersion=ALL").await.ok(200)["Functions"][0].clone();
    assert_eq!(listed["FunctionArn"], "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST");
    for absent in ["State", "LastUpdateStatus", "RuntimeVersionConfig"] {
        assert_eq!(listed.get(absent), None, "{absent}");
    }
    assert_eq!(listed["Runtime"], "python3.13");
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let node = Node::new().await;
    for (query, at) in [
        ("MaxItems=0", "maxItems"),
        ("MaxItems=10001", "maxItems"),
        ("MaxItems=x", "maxItems"),
        ("FunctionVersion=1", "functionVersion"),
        ("MasterRegion=x", "masterRegion"),
    ] {
        let got = node.get(&format!("/2015-03-31/functions?{query}")).await;
        assert_eq!(got.header("x-amzn-errortype"), Some("ValidationException"), "{query}");
        assert!(got.json()["message"].as_str().unwrap().contains(&format!("at '{at}' failed")), "{query}");
    }
    assert_eq!(node.get("/2015-03-31/functions?Marker=%21").await.status, 400);
}

#[tokio::test]
async fn account_settings_count_what_is_there() {
    let node = Node::new().await;
    let created = node.function("f").await;
    let settings = node.get("/2016-08-19/account-settings").await.ok(200);
    let limits = json!({
        "CodeSizeUnzipped": 262_144_000,
        "CodeSizeZipped": 52_428_800,
        "ConcurrentExecutions": 1000,
        "TotalCodeSize": 80_530_636_800u64,
        "UnreservedConcurrentExecutions": 1000,
    });
    assert_eq!(settings["AccountLimit"], limits);
    assert_eq!(settings["AccountUsage"], json!({ "FunctionCount": 1, "TotalCodeSize": created["CodeSize"] }));
}

#[tokio::test]
async fn there_is_no_code_signing_to_read() {
    let node = Node::new().await;
    node.function("f").await;
    let of_function = |name: &str| format!("/2020-06-30/functions/{name}/code-signing-config");
    let none = json!({ "CodeSigningConfigArn": "", "FunctionName": "f" });
    assert_eq!(node.get(&of_function("f")).await.ok(200), none);
    let missing = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:no";
    node.get(&of_function("no")).await.is_error(404, "ResourceNotFoundException", missing);
    let configs = "/2020-04-22/code-signing-configs";
    assert_eq!(node.get(&format!("{configs}/")).await.ok(200), json!({ "CodeSigningConfigs": [] }));
    let arn = "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdef0";
    let message = format!("The Lambda code signing configuration {arn} can not be found.");
    for path in [format!("{configs}/{arn}"), format!("{configs}/{arn}/functions")] {
        node.get(&path).await.is_error(404, "ResourceNotFoundException", &message);
    }
    let refused = node.get(&format!("{configs}/f")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("x-amzn-errortype")),
        (400, Some("ValidationException"))
    );
}
