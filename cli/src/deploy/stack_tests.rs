//! What of templates is refused, left out or made, before any node is asked.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::deploy::yaml;

fn wanted(skip: &[&str]) -> Wanted {
    Wanted {
        name: "shop".into(),
        region: "us-east-1".into(),
        account: "000000000000".into(),
        parameters: BTreeMap::new(),
        skip: Skip::new(skip.iter().map(|name| (*name).to_owned())),
    }
}

fn stack(document: Value, skip: &[&str]) -> Result<Stack, Vec<String>> {
    let read = Stack::new(document, wanted(skip), Assets::default());
    read.map_err(|refusals| refusals.iter().map(ToString::to_string).collect())
}

fn function(more: Value) -> Value {
    let mut properties = json!({ "CodeUri": "f", "Handler": "a.b", "Runtime": "python3.13" });
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "Type": "AWS::Serverless::Function", "Properties": properties })
}

#[test]
fn everything_that_cannot_be_done_is_named_at_once() {
    let document = json!({ "Resources": {
        "Api": { "Type": "AWS::Serverless::HttpApi" },
        "Table": { "Type": "AWS::DynamoDB::Table" },
        "F": function(json!({ "Events": { "E": { "Type": "Schedule" } }, "Architectures": ["arm64"],
            "Environment": { "Variables": { "TABLE": { "Ref": "Table" } } } })),
        "G": function(json!({ "VpcConfig": { "SubnetIds": ["s"] } })),
    }, "Outputs": { "X": { "Value": { "Fn::ImportValue": "y" } } } });
    assert_eq!(
        stack(document, &[]).unwrap_err(),
        [
            "Api: AWS::Serverless::HttpApi is not supported",
            "F: Events {\"E\":{\"Type\":\"Schedule\"}} is not supported",
            "F: Ref Table is not known: no such parameter or resource, or it is left out or has no such attribute",
            "FEventInvokeConfig: x",
            "G: VpcConfig {\"SubnetIds\":[\"s\"]} is not supported",
            "Table: AWS::DynamoDB::Table is not supported",
        ]
        .into_iter()
        .filter(|line| !line.starts_with("FEvent"))
        .collect::<Vec<_>>()
    );
}

#[test]
fn what_is_skipped_is_left_out_and_said() {
    let document = json!({ "Resources": {
        "Api": { "Type": "AWS::Serverless::HttpApi" },
        "F": function(json!({ "Events": { "E": {} }, "Policies": ["P"] })),
    } });
    let stack = stack(document.clone(), &["AWS::Serverless::HttpApi", "F.Events"]).unwrap();
    assert_eq!(
        stack.left_out,
        [
            "Api (AWS::Serverless::HttpApi): as --skip says",
            "F.Events: as --skip says",
            "F.Policies: a node has no roles",
            "FRole (AWS::IAM::Role): a node has no roles",
        ]
    );
    let refused = self::stack(document, &["Apy"]).unwrap_err();
    assert!(
        refused.iter().any(|line| line == "Apy: is to be skipped, and there is no such thing"),
        "{refused:?}"
    );
}

#[test]
fn a_circle_is_refused() {
    let document = json!({ "Resources": {
        "A": function(json!({ "Environment": { "Variables": { "B": { "Ref": "B" } } } })),
        "B": function(json!({ "Description": { "Fn::Sub": "${A.Arn}" } })),
    } });
    assert_eq!(stack(document, &[]).unwrap_err(), ["A, B: need each other in a circle"]);
}

#[test]
fn a_condition_decides_what_is_there() {
    let mut optional = function(json!({}));
    optional["Condition"] = "IsProd".into();
    let document = json!({
        "Conditions": { "IsProd": { "Fn::Equals": [{ "Ref": "AWS::Region" }, "eu-west-1"] } },
        "Resources": { "A": function(json!({})), "B": optional },
        "Outputs": { "B": { "Condition": "IsProd", "Value": { "Ref": "B" } } },
    });
    let stack = stack(document, &[]).unwrap();
    assert_eq!(stack.order, ["ARole", "A"]);
}

#[test]
fn names_that_are_the_same_and_functions_of_others_are_refused() {
    let document = json!({ "Resources": {
        "A": function(json!({ "FunctionName": "same" })),
        "B": function(json!({ "FunctionName": "same" })),
        "P": { "Type": "AWS::Lambda::Permission", "Properties": { "Action": "lambda:InvokeFunction", "FunctionName": "elsewhere",
            "Principal": "*" } },
        "Q": { "Type": "AWS::Lambda::Function", "DeletionPolicy": "Retain", "Properties": { "Code": { "S3Bucket": "b", "S3Key": "k" },
            "Handler": "a.b", "Runtime": "python3.13", "Role": "r", "Tags": [{ "Key": "tinderbox:stack", "Value": "x" }] } },
    } });
    assert_eq!(
        stack(document, &[]).unwrap_err(),
        [
            "B: is called same, and so is A",
            "P: FunctionName: elsewhere is no function of this template",
            "Q: a policy to retain it: what is no longer in the template is removed",
            "Q: code in a bucket is not fetched: s3://b/k",
        ]
    );
}

#[test]
fn a_queue_is_a_name_that_destinations_may_have() {
    let letters = json!({ "Type": "SQS", "TargetArn": { "Fn::GetAtt": ["Lost", "Arn"] } });
    let document = json!({ "Resources": {
        "Lost": { "Type": "AWS::SQS::Queue" }, "F": function(json!({ "DeadLetterQueue": letters })) } });
    let stack = stack(document, &[]).unwrap();
    let mut known = Attributes::new();
    for id in &stack.order {
        let desired = stack.desired(id, &known).unwrap();
        stack.learn_names(id, &desired, &mut known);
        if let Desired::Function(function) = desired {
            let target = function.settings["DeadLetterConfig"]["TargetArn"].as_str().unwrap().to_owned();
            assert!(target.starts_with("arn:aws:sqs:us-east-1:000000000000:shop-Lost-"), "{target}");
        }
    }
}

proptest! {
    /// Lines of a template in any order and number: read or refused, and nothing else.
    #[test]
    fn any_template_is_read_or_refused(lines in prop::collection::vec(0..LINES.len(), 0..25)) {
        let text: String = lines.into_iter().map(|line| format!("{}\n", LINES[line])).collect();
        if let Ok(document) = yaml::parse(&text) {
            let _ = Stack::new(document, wanted(&["F.Events"]), Assets::default());
        }
    }
}

const LINES: &[&str] = &[
    "Transform: AWS::Serverless-2016-10-31",
    "Parameters: {P: {Type: String, Default: x}}",
    "Conditions: {C: !Equals [!Ref P, x]}",
    "Globals: {Function: {Runtime: python3.13, Timeout: 5}}",
    "Resources:",
    "  F:",
    "  G:",
    "    Type: AWS::Serverless::Function",
    "    Type: AWS::Lambda::Function",
    "    Type: AWS::Lambda::Alias",
    "    Type: AWS::Lambda::Permission",
    "    Type: AWS::Serverless::LayerVersion",
    "    DependsOn: G",
    "    Condition: C",
    "    Properties:",
    "      CodeUri: x",
    "      Code: {ZipFile: x}",
    "      Handler: !Sub '${P}.b'",
    "      Runtime: !Ref Missing",
    "      AutoPublishAlias: !Ref P",
    "      FunctionUrlConfig: {AuthType: NONE}",
    "      EventInvokeConfig: {DestinationConfig: {OnFailure: 5}}",
    "      Layers: [!Ref G, !If [C, a, !Ref 'AWS::NoValue']]",
    "      Environment: {Variables: {A: !GetAtt G.Arn}}",
    "      Tags: 5",
    "      Events: {}",
    "      FunctionName: !Ref F",
    "      Name: !Select [0, []]",
    "Outputs: {O: {Value: !GetAtt F.Arn}}",
];
