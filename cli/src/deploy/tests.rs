//! Whole deployments of what `sam build` and `cdk synth` wrote, against a node in memory.

use std::path::Path;

use super::{fake::Fake, *};

const SAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sam/build");
const CDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cdk/cdk.out");

/// A stack of a folder's template, changed by `edit`.
fn stack(folder: &str, parameters: &[(&str, &str)], edit: impl FnOnce(&mut Value)) -> Stack {
    without(folder, parameters, &[], edit)
}

/// The same without what is to be skipped.
fn without(folder: &str, parameters: &[(&str, &str)], skip: &[&str], edit: impl FnOnce(&mut Value)) -> Stack {
    let mut source = source::find(Some(Path::new(folder)), Some("shop")).unwrap();
    edit(&mut source.document);
    let wanted = Wanted {
        name: source.stack,
        region: "us-east-1".into(),
        account: "000000000000".into(),
        parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        skip: Skip::new(skip.iter().map(|name| (*name).to_owned())),
    };
    Stack::new(source.document, wanted, source.assets).unwrap()
}

/// Deploys; what was said, and the outputs.
fn deployed(node: &Fake, stack: &Stack, mode: Mode) -> (Vec<String>, BTreeMap<String, Value>) {
    let mut said = Vec::new();
    let mut say = |line: &str| {
        said.push(line.to_owned());
        Ok(())
    };
    let outputs = deploy(node, stack, mode, false, &mut say).unwrap();
    (said, outputs)
}

fn steps(said: &[String]) -> Vec<&str> {
    said.iter().map(String::as_str).filter(|line| ["+ ", "~ ", "- "].contains(&&line[..2])).collect()
}

#[test]
fn a_sam_template_becomes_functions_and_stays_as_it_is() {
    let node = Fake::default();
    let stack = stack(SAM, &[], |_| {});
    let (planned, outputs) = deployed(&node, &stack, Mode::Plan);
    assert!(node.changes.borrow().is_empty(), "a plan changes nothing");
    assert_eq!(outputs["Url"], "(GreeterUrl)");
    let (said, outputs) = deployed(&node, &stack, Mode::Apply);
    assert_eq!(steps(&planned).len(), 8);
    assert_eq!(steps(&said).len(), 8);
    assert_eq!(said[0], "left out: GreeterRole (AWS::IAM::Role): a node has no roles");
    assert_eq!(said.last().unwrap(), "shop: 8 created, 0 changed, 0 removed, 1 as they were, 1 later");
    assert_eq!(outputs["Url"], "http://url.localhost/");
    let name = outputs["Name"].as_str().unwrap();
    assert!(name.starts_with("shop-Greeter-"), "{name}");
    let function = node.function("shop-Greeter-");
    let configuration = &function["Configuration"];
    assert_eq!(configuration["MemorySize"], 256);
    let variables = serde_json::json!({ "STAGE": "dev", "GREETING": "hello from shop" });
    assert_eq!(configuration["Environment"]["Variables"], variables);
    assert_eq!(configuration["Layers"][0]["Arn"].as_str().unwrap().rsplit(':').next(), Some("1"));
    assert_eq!(function["Tags"]["team"], "greetings");
    assert_eq!(function["Tags"]["tinderbox:alias:live"], "GreeterAliaslive");
    let alias = node.at(&format!("/2015-03-31/functions/{name}/aliases/live")).unwrap();
    assert_eq!(alias["FunctionVersion"], "1");
    let group = format!("/aws/lambda/{name}");
    let later = format!("later: GreeterLog: log group {group} begins with its first line; deploy again then");
    assert!(said.contains(&later), "{said:?}");

    node.put(&group, serde_json::json!({ "logGroupName": group }));
    let (said, _) = deployed(&node, &stack, Mode::Apply);
    assert_eq!(steps(&said), [format!("~ GreeterLog: log group {group} is kept for 7 days")]);
    assert_eq!(node.at(&group).unwrap()["retentionInDays"], 7);

    node.changes.take();
    let (said, again) = deployed(&node, &stack, Mode::Apply);
    assert_eq!((steps(&said).len(), node.changes.take().len()), (0, 0), "{said:?}");
    assert_eq!(again, outputs);
}

#[test]
fn what_changes_in_a_template_changes_on_the_node_and_nothing_else() {
    let node = Fake::default();
    deployed(&node, &stack(SAM, &[], |_| {}), Mode::Apply);
    node.changes.take();
    let (said, _) = deployed(&node, &stack(SAM, &[("Stage", "prod")], |_| {}), Mode::Apply);
    let name = node.function("shop-Greeter-")["Configuration"]["FunctionName"].as_str().unwrap().to_owned();
    assert_eq!(
        steps(&said),
        [
            format!("~ Greeter: Environment, MemorySize of {name}"),
            format!("+ GreeterVersion: a version of {name}"),
            format!("~ GreeterAliaslive: alias live of {name} is of version 2"),
        ]
    );
    let inline = |document: &mut Value| {
        let properties = document["Resources"]["Greeter"]["Properties"].as_object_mut().unwrap();
        properties.remove("CodeUri");
        properties.insert("InlineCode".into(), "x = 1".into());
    };
    let (said, _) = deployed(&node, &stack(SAM, &[("Stage", "prod")], inline), Mode::Apply);
    assert_eq!(steps(&said)[0], format!("~ Greeter: code of {name}"));
    assert_eq!(steps(&said).len(), 3);
}

#[test]
fn what_is_no_longer_in_a_template_is_removed() {
    let node = Fake::default();
    deployed(&node, &stack(SAM, &[], |_| {}), Mode::Apply);
    let less = |document: &mut Value| {
        let greeter = document["Resources"]["Greeter"]["Properties"].as_object_mut().unwrap();
        for property in ["AutoPublishAlias", "FunctionUrlConfig", "EventInvokeConfig", "Tags"] {
            greeter.remove(property);
        }
        document.as_object_mut().unwrap().remove("Outputs");
    };
    // A statement and an alias that are not the stack's stay.
    let name = node.function("shop-Greeter-")["Configuration"]["FunctionName"].as_str().unwrap().to_owned();
    node.put(&format!("/2015-03-31/functions/{name}/aliases/mine"), Value::Null);
    let (said, _) = deployed(&node, &stack(SAM, &[], less), Mode::Apply);
    let kinds: Vec<_> =
        steps(&said).into_iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(kinds, ["~ Greeter:", "- statement", "- statement", "- URL", "- asynchronous", "- alias"]);
    assert!(node.at(&format!("/2015-03-31/functions/{name}/aliases/live")).is_none());
    assert!(node.at(&format!("/2015-03-31/functions/{name}/aliases/mine")).is_some());
    let tags = node.function("shop-Greeter-")["Tags"].clone();
    assert_eq!(tags, serde_json::json!({ "tinderbox:stack": "shop", "tinderbox:logical-id": "Greeter" }));

    let steps = remove::steps(&node, "other", &Kept::default()).unwrap();
    assert_eq!(steps, [], "another stack has nothing here");
    let mut tally = Tally::default();
    let steps = remove::steps(&node, "shop", &Kept::default()).unwrap();
    perform(&node, steps, Mode::Apply, &mut tally, &mut |_| Ok(())).unwrap();
    assert_eq!(tally.removed, 1);
    assert!(node.at(&format!("/2015-03-31/functions/{name}")).is_none());
}

#[test]
fn what_cdk_synthesised_becomes_functions() {
    let node = Fake::default();
    let stack = stack(CDK, &[], |_| {});
    let (said, outputs) = deployed(&node, &stack, Mode::Apply);
    assert!(steps(&said).len() == 8, "{said:?}");
    assert_eq!(outputs["Url"], "http://url.localhost/");
    let function = node.function("shop-GreeterA41DC22A-");
    let group = function["Configuration"]["LoggingConfig"]["LogGroup"].as_str().unwrap();
    assert!(group.starts_with("shop-Log95422804-"), "{group}");
    let role = function["Configuration"]["Role"].as_str().unwrap();
    assert!(role.starts_with("arn:aws:iam::000000000000:role/shop-GreeterServiceRole"), "{role}");
    node.changes.take();
    assert_eq!(steps(&deployed(&node, &stack, Mode::Apply).0).len(), 0);
    assert_eq!(node.changes.take().len(), 0);
}

#[test]
fn a_stack_is_called_as_cdk_calls_it_or_as_its_folder() {
    let found = |folder: &str| source::find(Some(Path::new(folder)), None).unwrap().stack;
    assert_eq!(found(CDK), "GreeterStack");
    let project = tempfile::Builder::new().prefix("my_app").tempdir().unwrap();
    let build = project.path().join(".aws-sam/build");
    std::fs::create_dir_all(&build).unwrap();
    std::fs::copy(format!("{SAM}/template.yaml"), build.join("template.yaml")).unwrap();
    assert!(found(build.to_str().unwrap()).starts_with("my-app"));
    assert!(source::find(Some(project.path()), None).is_err());
    assert!(source::find(Some(Path::new(SAM)), Some("a_b")).is_err());
}

#[test]
fn a_failure_in_the_middle_is_gone_on_from() {
    let node = Fake::default();
    let stack = stack(SAM, &[], |_| {});
    for patience in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        node.patience.set(Some(patience));
        let error = deploy(&node, &stack, Mode::Apply, false, &mut |_| Ok(()));
        if let Err(error) = error {
            let text = format!("{error:#}");
            assert!(text.contains("deploy again to go on") && text.contains("had enough"), "{text}");
        }
    }
    node.patience.set(None);
    deployed(&node, &stack, Mode::Apply);
    node.changes.take();
    assert_eq!(steps(&deployed(&node, &stack, Mode::Apply).0).len(), 0);
    let name = node.function("shop-Greeter-")["Configuration"]["FunctionName"].as_str().unwrap().to_owned();
    let alias = node.at(&format!("/2015-03-31/functions/{name}/aliases/live")).unwrap();
    assert_eq!(alias["FunctionVersion"], "1");
}

#[test]
fn a_function_that_is_anothers_is_left_alone() {
    let node = Fake::default();
    let named =
        |document: &mut Value| document["Resources"]["Greeter"]["Properties"]["FunctionName"] = "mine".into();
    let document =
        serde_json::json!({ "Configuration": { "FunctionName": "mine", "PackageType": "Zip" }, "Tags": {} });
    node.put("/2015-03-31/functions/mine", document);
    let error = deploy(&node, &stack(SAM, &[], named), Mode::Apply, false, &mut |_| Ok(())).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("function mine is there already, and is no stack's"), "{text}");
    assert!(text.starts_with("nothing was changed"), "{text}");
    assert!(node.changes.take().is_empty());
}

#[test]
fn what_is_skipped_stays_as_it_was_deployed() {
    let node = Fake::default();
    deployed(&node, &stack(CDK, &[], |_| {}), Mode::Apply);
    node.changes.take();
    let no_outputs = |document: &mut Value| drop(document.as_object_mut().unwrap().remove("Outputs"));
    let types = ["AWS::Lambda::Url", "AWS::Lambda::Permission", "AWS::Lambda::EventInvokeConfig"];
    deployed(&node, &without(CDK, &[], &types, no_outputs), Mode::Apply);
    assert_eq!(node.changes.take(), [""; 0]);
    let types =
        [&types[..], &["AWS::Lambda::Function", "AWS::Lambda::Alias", "AWS::Lambda::Version"]].concat();
    deployed(&node, &without(CDK, &[], &types, no_outputs), Mode::Apply);
    assert_eq!(node.changes.take(), [""; 0]);
}

#[test]
fn what_is_kept_is_said() {
    let node = Fake::default();
    deployed(&node, &stack(SAM, &[], |_| {}), Mode::Apply);
    let renamed =
        |document: &mut Value| document["Resources"]["Greeter"]["Properties"]["FunctionName"] = "mine".into();
    let mut said = Vec::new();
    let mut say = |line: &str| {
        said.push(line.to_owned());
        Ok(())
    };
    deploy(&node, &stack(SAM, &[], renamed), Mode::Apply, true, &mut say).unwrap();
    assert!(
        said.iter()
            .any(|line| line.starts_with("kept, though no longer in the template: function shop-Greeter-"))
    );
    assert!(node.at("/2015-03-31/functions/mine").is_some());
    node.function("shop-Greeter-");
}

#[test]
fn a_parameter_has_a_name_and_a_value() {
    assert_eq!(parameter("A=b=c").unwrap(), ("A".into(), "b=c".into()));
    assert!(parameter("A").is_err() && parameter("=b").is_err());
}
