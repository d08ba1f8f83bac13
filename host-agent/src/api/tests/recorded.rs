//! What AWS answered, member by member, beside what this node answers to the same requests.
//!
//! The recordings (`../shared/conformance/recordings` beside the clone, or where `TINDERBOX_RECORDINGS` says) hold answers of AWS
//! with placeholders for what differs from run to run; the requests are ours. A placeholder stands for one value within its
//! test, and no two revisions for the same.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{LazyLock, PoisonError},
};

use regex::Regex;

use super::*;

mod buckets;
mod called;
mod coverage;
mod ends;
mod functions;
mod images;
mod invoked;
mod layers;
mod provisioned;
mod runtimes;
mod scripts;
mod tags;
mod urls;

/// What was compared and is the same: file, test, answer.
static SAME: Mutex<BTreeSet<[String; 3]>> = Mutex::new(BTreeSet::new());

/// Placeholders that stand for nothing in particular.
const LOOSE: &[&str] = &["<code-size>", "<layer-location>", "<location>", "<partition>", "<region>"];

/// The recordings; `None`, and it is said, where there are none.
fn recordings() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance/recordings");
    let dir = std::env::var_os("TINDERBOX_RECORDINGS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: no recordings of AWS in {}", dir.display());
    None
}

/// All tests of each file of recordings with their answers; read once.
static RECORDED: LazyLock<BTreeMap<String, BTreeMap<String, Value>>> = LazyLock::new(|| {
    let files = recordings().map(|dir| std::fs::read_dir(dir).unwrap()).into_iter().flatten();
    let files = files.map(|file| (file.as_ref().unwrap().file_name().into_string().unwrap(), file.unwrap()));
    let recorded = files.filter(|(name, _)| name.ends_with(".snapshot.json"));
    recorded.map(|(name, file)| (name, tests_of(&file.path()))).collect()
});

/// The same of one file.
fn tests_of(file: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(file).unwrap().replace("111111111111", "000000000000");
    // So long a name of a single letter; and what became of a placeholder that was replaced by another.
    let long = Regex::new(r"<a:len\(([0-9]+)\)>").unwrap();
    let text = long.replace_all(&text, |len: &regex::Captures<'_>| "a".repeat(len[1].parse().unwrap()));
    let text = text.replace("<<code-sha-256>:", "<code-sha256:");
    serde_json::from_str(&text).unwrap()
}

/// All tests of a file of recordings with their answers; `None` without recordings.
fn all_in(file: &str) -> Option<&'static BTreeMap<String, Value>> {
    recordings()?;
    Some(RECORDED.get(file).unwrap_or_else(|| panic!("no {file} among the recordings")))
}

/// The recorded answers of one test, and what has been compared with them.
struct Recorded {
    file: String,
    test: String,
    answers: Value,
    known: HashMap<String, String>,
    compared: usize,
    differing: Vec<String>,
}

impl Recorded {
    /// The test of that name in a file of recordings; `None` without recordings.
    fn of(file: &str, test: &str) -> Option<Self> {
        let (test, answers) = all_in(file)?.iter().find(|(name, _)| name.ends_with(test)).unwrap();
        let (test, answers) = (test.clone(), answers.clone());
        let (file, known) = (file.to_owned(), HashMap::new());
        Some(Self { file, test, answers, known, compared: 0, differing: Vec::new() })
    }

    /// All tests of that name, by what each of them was given; none without recordings.
    fn all_of(file: &str, test: &str) -> Vec<(String, Self)> {
        let beginning = format!("{test}[");
        let given = |name: &str| {
            let (_, given) = name.split_once(&beginning)?;
            given.strip_suffix(']').map(str::to_owned)
        };
        let given: Vec<_> =
            all_in(file).into_iter().flat_map(BTreeMap::keys).filter_map(|name| given(name)).collect();
        given
            .into_iter()
            .map(|given| (given.clone(), Self::of(file, &format!("{test}[{given}]")).unwrap()))
            .collect()
    }

    /// Compares an answer with the recorded one of that name.
    fn check(&mut self, name: &str, got: &Got) {
        let mut shown = as_boto_reads(got);
        // What helped to record creations showed them beside an event source, of which there is none.
        if self.answers[name].get("CreateFunctionResponse").is_some() {
            shown = json!({ "CreateEventSourceMappingResponse": null, "CreateFunctionResponse": shown });
        }
        self.check_shown(name, &shown);
    }

    /// Compares what was made of an answer.
    fn check_shown(&mut self, name: &str, shown: &Value) {
        let expected =
            self.answers.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.test)).clone();
        self.compared += 1;
        let known = without_unlisted_code(&expected);
        if known != expected {
            // Not counted: a member of it is missing on purpose.
            let compared = self.same(&known, shown, name);
            self.differing.extend(compared.err().map(|difference| format!("{}: {difference}", self.test)));
            return;
        }
        if let Err(difference) = self.same(&expected, shown, name) {
            self.differing.push(format!("{}: {difference}", self.test));
            return;
        }
        let compared = [self.file.clone(), self.test.clone(), name.to_owned()];
        SAME.lock().unwrap_or_else(PoisonError::into_inner).insert(compared);
    }

    /// All that was compared is the same; whether that is all there is, `coverage` looks.
    #[track_caller]
    fn finish(self) {
        let Self { test, compared, differing, .. } = self;
        println!("{test}: {} of {compared} as recorded", compared - differing.len());
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    }

    fn same(&mut self, expected: &Value, got: &Value, at: &str) -> Result<(), String> {
        match (expected, got) {
            (Value::Object(expected), Value::Object(got)) => {
                let names: BTreeSet<_> = expected.keys().chain(got.keys()).collect();
                for name in names {
                    let (expected, got) = (expected.get(name), got.get(name));
                    match (expected, got) {
                        (Some(expected), Some(got)) => self.same(expected, got, &format!("{at}.{name}"))?,
                        _ => return Err(format!("{at}.{name}: {expected:?} was recorded, {got:?} came")),
                    }
                }
                Ok(())
            }
            (Value::Array(expected), Value::Array(got)) if expected.len() == got.len() => {
                let pairs = expected.iter().zip(got).enumerate();
                pairs.into_iter().try_for_each(|(index, (expected, got))| {
                    self.same(expected, got, &format!("{at}[{index}]"))
                })
            }
            // Policies are documents in a string, which the recordings have taken apart.
            (Value::Object(_), Value::String(text)) => match serde_json::from_str(text) {
                Ok(document) => self.same(expected, &document, at),
                Err(_) => Err(format!("{at}: {text:?} is no document")),
            },
            (Value::String(expected), got) => {
                let shown = got.as_str().map_or_else(|| got.to_string(), String::from);
                if self.stands_for(expected, &shown) {
                    Ok(())
                } else {
                    Err(format!("{at}: {expected:?} was recorded, {shown:?} came"))
                }
            }
            (expected, got) if expected == got => Ok(()),
            (expected, got) => Err(format!("{at}: {expected} was recorded, {got} came")),
        }
    }

    /// Whether a string with placeholders stands for another.
    fn stands_for(&mut self, expected: &str, got: &str) -> bool {
        if ["date", "datetime", "code-sha256", "log-result"].contains(&expected) {
            return !got.is_empty();
        }
        static PLACEHOLDER: LazyLock<Regex> =
            LazyLock::new(|| Regex::new("<[a-z0-9_-]+(:[0-9]+)?>").unwrap());
        if !PLACEHOLDER.is_match(expected) {
            return expected == got;
        }
        let mut pattern = String::from("(?s)^");
        let mut names = Vec::new();
        let mut end = 0;
        for found in PLACEHOLDER.find_iter(expected) {
            pattern += &regex::escape(&expected[end..found.start()]);
            pattern += if found.start() == 0 && found.end() == expected.len() { "(.+)" } else { "([^:]+)" };
            names.push(found.as_str());
            end = found.end();
        }
        pattern += &(regex::escape(&expected[end..]) + "$");
        let pattern = Regex::new(&pattern).unwrap();
        let Some(captures) = pattern.captures(got) else { return false };
        names.iter().zip(captures.iter().skip(1)).all(|(name, value)| {
            let value = value.unwrap().as_str().to_owned();
            if LOOSE.contains(name) {
                return true;
            }
            match self.known.get(*name) {
                Some(known) => *known == value,
                None if name.starts_with("<uuid:") && self.known.values().any(|known| *known == value) => {
                    false
                }
                None => {
                    self.known.insert((*name).to_owned(), value);
                    true
                }
            }
        })
    }
}

/// What was recorded without the code of an update's reason that AWS's service model does not list.
fn without_unlisted_code(recorded: &Value) -> Value {
    let mut known = recorded.clone();
    let configurations = [known.clone(), known["Configuration"].clone()];
    for (at, configuration) in ["", "/Configuration"].iter().zip(configurations) {
        if configuration["LastUpdateStatusReasonCode"] == "Creating" {
            let members = known.pointer_mut(at).and_then(Value::as_object_mut);
            members.unwrap().remove("LastUpdateStatusReasonCode");
        }
    }
    known
}

/// An answer as the SDK that recorded AWS's shows it: status, and an error's name and words beside its members.
fn as_boto_reads(got: &Got) -> Value {
    let mut shown = if got.body.is_empty() { json!({}) } else { got.json() };
    if let Some(name) = got.header("x-amzn-errortype") {
        let message = shown.get("message").or_else(|| shown.get("Message")).cloned();
        // Errors that the service model does not have are shown without members.
        if name == "ValidationException" || name == "AccessDeniedException" {
            shown = json!({});
        }
        shown["Error"] = json!({ "Code": name, "Message": message });
    }
    shown["ResponseMetadata"] = json!({ "HTTPHeaders": {}, "HTTPStatusCode": got.status.as_u16() });
    shown
}

/// A node with the runtime of the recordings.
async fn node() -> Node {
    node_with(&[]).await
}

/// The same with more runtimes.
async fn node_with(runtimes: &[&str]) -> Node {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("runtimes")).unwrap();
    for runtime in runtimes.iter().chain(&["python3.12"]) {
        std::fs::write(dir.path().join(format!("runtimes/{runtime}.pack")), "").unwrap();
    }
    Node::at(dir).await
}

/// One with an image for every runtime that the recordings are of, and that those of others do not stand in for.
async fn node_of_all() -> Node {
    node_with(&[
        "dotnet10",
        "dotnet6",
        "dotnet8",
        "java21",
        "java25",
        "java8.al2",
        "nodejs16.x",
        "provided.al2",
        "python3.8",
        "python3.9",
        "ruby3.2",
        "ruby3.3",
        "ruby3.4",
    ])
    .await
}

impl Node {
    /// The recordings' function: handler, timeout and an empty environment.
    async fn recorded_function(&self, name: &str) -> Got {
        self.recorded_with(name, &[]).await
    }

    /// The same with other members, or more of them.
    async fn recorded_with(&self, name: &str, more: &[(&str, Value)]) -> Got {
        let members = [
            ("/Runtime", json!("python3.12")),
            ("/Handler", json!("handler.handler")),
            ("/Timeout", json!(30)),
            ("/Environment", json!({ "Variables": {} })),
        ];
        let created = self.create(&with(with(request(name), &members), more)).await;
        self.settled(name).await;
        created
    }

    async fn post(&self, path: &str, body: &Value) -> Got {
        self.call("POST", path, body.to_string()).await
    }

    pub(super) async fn delete(&self, path: &str) -> Got {
        self.call("DELETE", path, Body::empty()).await
    }
}

#[test]
fn a_placeholder_stands_for_one_value() {
    let mut recorded = Recorded {
        file: "f".into(),
        test: "t".into(),
        answers: json!({}),
        known: HashMap::new(),
        compared: 0,
        differing: Vec::new(),
    };
    assert!(recorded.stands_for("arn:<partition>:function:<function-name:1>", "arn:aws:function:f"));
    assert!(recorded.stands_for("<function-name:1>", "f"));
    assert!(!recorded.stands_for("<function-name:1>", "g"));
    assert!(!recorded.stands_for("arn:<partition>:x", "arn:aws:y"));
}
