//! Tests of `scope`.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const PLACE: Place<'static> = Place { stack: "shop", region: "us-east-1", account: "000000000000" };

fn template(document: Value) -> Template {
    let mut document = document;
    document["Resources"] = json!({ "R": { "Type": "T" } });
    let mut refusals = Vec::new();
    let template = Template::read(document, &mut refusals);
    assert_eq!(refusals, []);
    template
}

fn scope() -> Scope {
    let template = template(json!({
        "Parameters": {
            "Stage": { "Type": "String", "Default": "dev", "AllowedValues": ["dev", "prod"] },
            "Names": { "Type": "CommaDelimitedList", "Default": "a, b" },
        },
        "Mappings": { "Sizes": { "dev": { "Memory": 128 } } },
        "Conditions": {
            "IsProd": { "Fn::Equals": [{ "Ref": "Stage" }, "prod"] },
            "IsDev": { "Fn::Not": [{ "Condition": "IsProd" }] },
            "Always": { "Fn::Or": [{ "Condition": "IsProd" }, { "Condition": "IsDev" }] },
            "Never": { "Fn::And": [{ "Condition": "IsProd" }, { "Condition": "IsDev" }] },
        },
    }));
    Scope::new(&template, &BTreeMap::new(), PLACE).unwrap()
}

fn known() -> Attributes {
    [(("F".to_owned(), REF.to_owned()), json!("f-1")), (("F".to_owned(), "Arn".to_owned()), json!("arn:f"))]
        .into()
}

fn check(value: Value, expected: Value) {
    assert_eq!(scope().evaluate(&value, &known()), Ok(Some(expected)), "{value}");
}

#[test]
fn functions_are_evaluated() {
    check(json!({ "Ref": "Stage" }), json!("dev"));
    check(json!({ "Ref": "Names" }), json!(["a", "b"]));
    check(json!({ "Ref": "F" }), json!("f-1"));
    check(json!({ "Fn::GetAtt": ["F", "Arn"] }), json!("arn:f"));
    check(json!({ "Fn::GetAtt": "F.Arn" }), json!("arn:f"));
    check(
        json!({ "Fn::Sub": "${F}/${F.Arn}/${AWS::Region}/${!x}/$y" }),
        json!("f-1/arn:f/us-east-1/${x}/$y"),
    );
    check(json!({ "Fn::Sub": ["${v}-${Stage}", { "v": { "Ref": "F" } }] }), json!("f-1-dev"));
    check(json!({ "Fn::Join": ["-", ["a", { "Ref": "Stage" }, 5]] }), json!("a-dev-5"));
    check(json!({ "Fn::Join": ["+", { "Ref": "Names" }] }), json!("a+b"));
    check(json!({ "Fn::Select": [1, { "Fn::Split": [":", "a:b:c"] }] }), json!("b"));
    check(json!({ "Fn::Select": ["0", { "Ref": "Names" }] }), json!("a"));
    check(json!({ "Fn::FindInMap": ["Sizes", { "Ref": "Stage" }, "Memory"] }), json!(128));
    check(json!({ "Fn::If": ["IsProd", 1, { "Ref": "AWS::AccountId" }] }), json!("000000000000"));
    check(json!({ "Fn::If": ["Always", 1, 2] }), json!(1));
    check(json!({ "Fn::If": ["Never", 1, 2] }), json!(2));
}

#[test]
fn no_value_is_as_if_it_were_not_there() {
    let nothing = json!({ "Fn::If": ["IsDev", { "Ref": "AWS::NoValue" }, 1] });
    check(json!({ "a": nothing, "b": [1, nothing] }), json!({ "b": [1] }));
}

#[test]
fn what_is_not_known_is_an_error() {
    for (value, said) in [
        (json!({ "Fn::ImportValue": "x" }), "Fn::ImportValue \"x\" is not known"),
        (json!({ "Fn::Cidr": ["10.0.0.0/8", 1, 2] }), "Fn::Cidr"),
        (json!({ "Ref": "Nobody" }), "Ref Nobody is not known"),
        (json!({ "Fn::GetAtt": ["F", "Colour"] }), "F.Colour is not known"),
        (json!({ "Fn::Sub": "${Nobody.Arn}" }), "Nobody.Arn is not known"),
        (json!({ "Fn::If": ["Nowhere", 1, 2] }), "there is no condition Nowhere"),
        (json!({ "Fn::Select": [7, ["a"]] }), "finds no value 7"),
        (json!({ "Fn::Join": ["", [{ "a": 1 }]] }), "is no text"),
        (json!({ "Fn::Sub": format!("{}", "${F.Arn}".repeat(60_000)) }), "longer than"),
    ] {
        let error = scope().evaluate(&value, &known()).unwrap_err();
        assert!(error.contains(said), "{}: {error}", shortened(&value));
    }
}

#[test]
fn parameters_are_given_or_have_defaults() {
    let parameters = json!({ "Parameters": { "A": { "Type": "String", "AllowedValues": ["x"] }, "B": { "Type": "Number" } } });
    let new = |given: &[(&str, &str)]| {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Scope::new(&template(parameters.clone()), &given, PLACE)
    };
    assert!(new(&[("A", "x"), ("B", "1")]).is_ok());
    let wrong = new(&[("A", "y"), ("B", "one"), ("C", "z")]).unwrap_err();
    let named: Vec<_> = wrong.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    assert_eq!(
        named,
        ["C: the template has no such parameter", "A: `y` is none of x", "B: `one` is no number"]
    );
    assert!(new(&[]).unwrap_err()[0].1.contains("has no value"));
}

#[test]
fn a_parameter_that_is_kept_elsewhere_has_to_be_given() {
    let declared = json!({ "Type": "AWS::SSM::Parameter::Value<String>", "Default": "/some/path" });
    let template = template(json!({ "Parameters": { "A": declared } }));
    let evaluate = |given: BTreeMap<String, String>| {
        let scope = Scope::new(&template, &given, PLACE).unwrap();
        scope.evaluate(&json!({ "Ref": "A" }), &known())
    };
    assert!(evaluate(BTreeMap::new()).is_err());
    assert_eq!(evaluate([("A".to_owned(), "x".to_owned())].into()), Ok(Some(json!("x"))));
}

#[test]
fn a_condition_of_itself_is_none() {
    let conditions = json!({ "A": { "Fn::Not": [{ "Condition": "B" }] }, "B": { "Condition": "A" } });
    let template = template(json!({ "Conditions": conditions }));
    let wrong = Scope::new(&template, &BTreeMap::new(), PLACE).unwrap_err();
    assert!(wrong[0].1.contains("made of itself"), "{wrong:?}");
}

#[test]
fn references_are_found_wherever_they_are() {
    let value = json!({ "a": [{ "Ref": "A" }, { "Fn::GetAtt": ["B", "Arn"] }, { "Fn::Sub": "${C.Arn} ${D} ${!E}" }],
        "b": { "Fn::Join": ["", [{ "Fn::Sub": ["${x}", { "x": { "Ref": "F" } }] }]] }, "c": { "Fn::GetAtt": "G.Arn" } });
    let found: Vec<_> = references(&value).into_iter().collect();
    assert_eq!(found, ["!E", "A", "B", "C.Arn", "D", "F", "G.Arn", "x"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "Ref",
        "Fn::Sub",
        "Fn::Join",
        "Fn::GetAtt",
        "Fn::If",
        "Fn::Select",
        "Fn::Split",
        "Condition",
        "x"
    ];
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[A-Z${}.!:a-z]{0,12}".prop_map(Value::from),
        Just(json!("F")),
        Just(json!("IsProd")),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            (name.clone(), inner).prop_map(|(name, value)| json!({ name: value })),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_evaluated_or_refused(value in any_value()) {
        let _ = scope().evaluate(&value, &known());
        let _ = references(&value);
    }

    #[test]
    fn what_has_no_function_is_itself(items in prop::collection::vec("[ -~]{0,20}", 0..5)) {
        check(json!({ "a": items }), json!({ "a": items }));
    }
}
