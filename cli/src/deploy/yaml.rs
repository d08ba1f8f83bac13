//! YAML of templates as JSON values: CloudFormation's short tags become the functions that they stand for.
//!
//! `saphyr-parser` says what is in the text, event by event; what of it a template may have is decided here, with bounds, since a template
//! may come from anywhere.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

/// Longest template, bytes: CloudFormation's limit.
pub(crate) const MAX_TEMPLATE_LEN: usize = 1024 * 1024;

/// Deepest nesting of collections. CloudFormation documents none; real templates stay below twenty.
pub(crate) const MAX_DEPTH: usize = 64;

/// Most values, those that aliases repeat counted each time: what few lines can be made to stand for has no other end.
const MAX_VALUES: usize = 200_000;

/// Why a text is no template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum YamlError {
    /// It is no YAML.
    #[error("line {line}: {reason}")]
    Syntax {
        /// From 1.
        line: usize,
        /// The parser's words.
        reason: String,
    },
    /// It is YAML that no template has.
    #[error("line {line}: {what}")]
    Unusable {
        /// From 1.
        line: usize,
        /// What is there.
        what: String,
    },
    /// There is nothing in it.
    #[error("there is no document in it")]
    Empty,
}

/// Reads one document.
///
/// # Errors
/// No YAML; more than one document, a key that is no text or comes twice, a merge key; deeper or longer than the bounds.
pub(crate) fn parse(text: &str) -> Result<Value, YamlError> {
    if text.len() > MAX_TEMPLATE_LEN {
        let what = format!("{} bytes are more than {MAX_TEMPLATE_LEN}", text.len());
        return Err(YamlError::Unusable { line: 1, what });
    }
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| YamlError::Syntax {
            line: error.marker().line(),
            reason: error.info().to_owned(),
        })?;
        let line = span.start.line();
        reader.take(event).map_err(|what| YamlError::Unusable { line, what })?;
    }
    reader.document.ok_or(YamlError::Empty)
}

/// A collection that is not complete yet.
struct Open {
    kind: Kind,
    anchor: usize,
    tag: Option<String>,
}

enum Kind {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    document: Option<Value>,
    /// What aliases repeat, by the parser's numbers, with how many values it is.
    anchors: std::collections::BTreeMap<usize, (Value, usize)>,
    values: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => {
                let (value, count) =
                    self.anchors.get(&anchor).ok_or("an alias repeats what it is part of")?.clone();
                self.count(count)?;
                self.place(value)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                let value = tagged(scalar(&text, style, tag.as_deref())?, name(tag.as_deref())?)?;
                self.remember(anchor, &value);
                self.place(value)
            }
            Event::SequenceStart(anchor, tag) => self.begin(Kind::List(Vec::new()), anchor, tag.as_deref()),
            Event::MappingStart(anchor, tag) => {
                self.begin(Kind::Map(Map::new(), None), anchor, tag.as_deref())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { kind, anchor, tag } =
                    self.open.pop().ok_or("a collection ends that never began")?;
                let value = match kind {
                    Kind::List(items) => Value::Array(items),
                    Kind::Map(members, _) => Value::Object(members),
                };
                let value = tagged(value, tag)?;
                self.remember(anchor, &value);
                self.place(value)
            }
        }
    }

    fn begin(&mut self, kind: Kind, anchor: usize, tag: Option<&Tag>) -> Result<(), String> {
        self.count(1)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.open.push(Open { kind, anchor, tag: name(tag)? });
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(more);
        if self.values > MAX_VALUES { Err(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn remember(&mut self, anchor: usize, value: &Value) {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), count(value)));
        }
    }

    fn place(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut() {
            None if self.document.is_some() => return Err("a second document begins".to_owned()),
            None => self.document = Some(value),
            Some(Open { kind: Kind::List(items), .. }) => items.push(value),
            Some(Open { kind: Kind::Map(members, waiting), .. }) => match waiting.take() {
                None => *waiting = Some(key(value)?),
                Some(key) if members.contains_key(&key) => {
                    return Err(format!("the key `{key}` comes twice"));
                }
                Some(key) => drop(members.insert(key, value)),
            },
        }
        Ok(())
    }
}

/// Values in a value, itself included. Its depth is bounded by what read it.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Object(members) => members.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// Numbers are keys of mappings at times (accounts, ports); merging is no part of YAML 1.2.
fn key(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if text == "<<" => Err("the merge key `<<` is not read".to_owned()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(format!("a key is no text: {other}")),
    }
}

/// The name behind `!`, if it is one of CloudFormation's.
fn name(tag: Option<&Tag>) -> Result<Option<String>, String> {
    match tag {
        None => Ok(None),
        Some(tag) if tag.is_yaml_core_schema() => Ok(None),
        Some(Tag { handle, suffix }) if handle == "!" && is_name(suffix) => Ok(Some(suffix.clone())),
        Some(Tag { handle, suffix }) => {
            Err(format!("the tag `{handle}{suffix}` is none of CloudFormation's"))
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A function in its long form. Whether there is such a function is asked where it is evaluated.
fn tagged(value: Value, tag: Option<String>) -> Result<Value, String> {
    let Some(tag) = tag else { return Ok(value) };
    let (name, value) = match (tag.as_str(), value) {
        ("Ref" | "Condition", value) => (tag, value),
        ("GetAtt", Value::String(text)) => {
            let (id, attribute) =
                text.split_once('.').ok_or_else(|| format!("`!GetAtt {text}` names no attribute"))?;
            ("Fn::GetAtt".to_owned(), Value::Array(vec![id.into(), attribute.into()]))
        }
        (_, value) => (format!("Fn::{tag}"), value),
    };
    Ok(Value::Object([(name, value)].into_iter().collect()))
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match core {
        Some("str") => return Ok(text.into()),
        Some("int" | "float" | "bool" | "null") | None => {}
        Some(other) => return Err(format!("the tag `!!{other}` is not read")),
    }
    // What has a tag of CloudFormation's is text: an account's number is none.
    if style != ScalarStyle::Plain || (tag.is_some() && core.is_none()) {
        return Ok(text.into());
    }
    Ok(plain(text))
}

/// YAML's core schema, but a number with a leading zero is text, as the numbers of accounts are.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|char| char.is_ascii_digit() || ".eE+-".contains(char))
        && (!digits.starts_with('0') || digits.len() == 1 || digits.starts_with("0."));
    if is_number {
        if let Ok(whole) = text.parse::<i64>() {
            return whole.into();
        }
        if let Some(number) = text.parse().ok().and_then(Number::from_f64) {
            return Value::Number(number);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(text: &str, expected: Value) {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn short_tags_are_functions() {
        check("a: !Ref B", json!({ "a": { "Ref": "B" } }));
        check("a: !GetAtt B.Outputs.C", json!({ "a": { "Fn::GetAtt": ["B", "Outputs.C"] } }));
        check("a: !GetAtt [B, C]", json!({ "a": { "Fn::GetAtt": ["B", "C"] } }));
        check(
            "a: !If [P, !Sub '${B}-x', !Ref 'AWS::NoValue']",
            json!({ "a": { "Fn::If": ["P", { "Fn::Sub": "${B}-x" }, { "Ref": "AWS::NoValue" }] } }),
        );
        check("c: !Not [!Condition D]", json!({ "c": { "Fn::Not": [{ "Condition": "D" }] } }));
        check(
            "a: !Join\n  - ','\n  - - x\n    - !Ref Y\n",
            json!({ "a": { "Fn::Join": [",", ["x", { "Ref": "Y" }]] } }),
        );
    }

    #[test]
    fn scalars_are_what_cloudformation_takes_them_for() {
        check(
            "a: [1, -2, 0.5, true, no, ~, 012345678901, '5', 2010-09-09, 1e3, 0x1f]",
            json!({ "a": [1, -2, 0.5, true, "no", null, "012345678901", "5", "2010-09-09", 1000.0, "0x1f"] }),
        );
        check("a: !Ref 012345678901", json!({ "a": { "Ref": "012345678901" } }));
        check("a: |\n  x\n  y\n", json!({ "a": "x\ny\n" }));
        check("200: !!str 5", json!({ "200": "5" }));
    }

    #[test]
    fn what_no_template_has_is_refused_where_it_is() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        assert!(refused("a: 1\na: 2\n").starts_with("line 2: the key `a` comes twice"));
        assert!(refused("a: &x {b: 1}\nc:\n  <<: *x\n").contains("merge key"));
        assert!(refused("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(refused("a: !python/x y\n").contains("none of CloudFormation's"));
        assert!(refused(&format!("{}x", "- ".repeat(MAX_DEPTH + 1))).contains("nested deeper"));
        assert!(parse(&"[".repeat(10_000)).is_err());
        assert!(matches!(parse("# nothing"), Err(YamlError::Empty)));
        assert!(parse("a: [").is_err() && parse("\t- x: [}").is_err());
    }

    #[test]
    fn aliases_repeat_what_they_name_within_bounds() {
        check("a: &x [1]\nb: *x\n", json!({ "a": [1], "b": [1] }));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let item = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [item.as_str(); 10].join(", "));
        }
        assert!(parse(&bomb).unwrap_err().to_string().contains("more than 200000 values"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(text in "[a-z:\\-!&*\\[\\]{}#'\"|> \n\t0-9,?%@<]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn json_means_in_yaml_what_it_means(number in any::<i64>(), text in "[ -~]{0,40}") {
            let value = json!({ "a": [number, text, null, true, { "b": text }] });
            prop_assert_eq!(parse(&value.to_string()).unwrap(), value);
        }
    }
}
