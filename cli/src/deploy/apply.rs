//! Goes through a stack's resources one after the other: what is there, what is to be done, and, unless it is a plan, does it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{
    desired::{Alias, Code, Desired, Events, Function, Layer, Permission, Url, Version},
    names,
    node::{self, Node},
    package::Packages,
    paths,
    plan::{self, Call, Made, Sign, Step},
    remove::Kept,
    scope::{Attributes, REF},
    stack::Stack,
};

/// Whether anything is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plan,
    Apply,
}

/// What became of a stack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) created: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
    /// Resources of the template of which nothing was to be done.
    pub(crate) same: usize,
    /// Those of which something is to be done that cannot be yet.
    pub(crate) later: usize,
}

/// A pass through a stack.
pub(crate) struct Pass<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) node: &'a dyn Node,
    pub(crate) packages: &'a mut Packages,
    pub(crate) mode: Mode,
    /// Told each step: when it is planned, or when it is done.
    pub(crate) say: &'a mut dyn FnMut(&str) -> Result<()>,
    pub(crate) known: Attributes,
    pub(crate) tally: Tally,
    /// What the node's functions of the template are tagged with.
    tags: BTreeMap<String, BTreeMap<String, String>>,
    /// Functions of which something is changed.
    touched: BTreeSet<String>,
    /// Tags of what functions are to have, and statements.
    wanted_tags: BTreeMap<String, BTreeSet<String>>,
    wanted_statements: BTreeSet<(String, String, String)>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(
        stack: &'a Stack,
        node: &'a dyn Node,
        packages: &'a mut Packages,
        mode: Mode,
        say: &'a mut dyn FnMut(&str) -> Result<()>,
    ) -> Self {
        Self {
            stack,
            node,
            packages,
            mode,
            say,
            known: Attributes::new(),
            tally: Tally::default(),
            tags: BTreeMap::new(),
            touched: BTreeSet::new(),
            wanted_tags: BTreeMap::new(),
            wanted_statements: BTreeSet::new(),
        }
    }

    /// Makes the node have what the template says.
    ///
    /// # Errors
    /// What could not be done; what was done before that is done.
    pub(crate) fn run(&mut self) -> Result<()> {
        for id in &self.stack.order {
            let later = self.tally.later;
            let steps = self.resource(id).with_context(|| id.clone())?;
            self.tally.same += usize::from(steps == 0 && self.tally.later == later);
        }
        Ok(())
    }

    /// What of the stack is to stay.
    pub(crate) fn kept(&self) -> Kept<'_> {
        let tags = self.wanted_tags.iter().map(|(function, tags)| (function.as_str(), tags));
        let statements = self.wanted_statements.iter();
        Kept {
            tags: tags.collect(),
            statements: statements.map(|(of, on, sid)| (of.as_str(), on.as_str(), sid.as_str())).collect(),
            skipped: self.stack.skipped.iter().map(String::as_str).collect(),
        }
    }

    /// Returns how many steps there were.
    fn resource(&mut self, id: &str) -> Result<usize> {
        let desired = self.stack.desired(id, &self.known).map_err(|why| anyhow!(why))?;
        self.stack.learn_names(id, &desired, &mut self.known);
        match desired {
            Desired::Function(function) => self.function(id, &function),
            Desired::Layer(layer) => self.layer(id, &layer),
            Desired::Version(version) => self.version(id, &version),
            Desired::Alias(alias) => self.alias(id, &alias),
            Desired::Url(url) => self.url(id, &url),
            Desired::Events(events) => self.events(id, &events),
            Desired::Permission(permission) => self.permission(id, &permission),
            Desired::Retention { group, days } => self.retention(id, &group, days),
            Desired::Queue { .. } | Desired::Role { .. } | Desired::Nothing => Ok(0),
        }
    }

    /// Tells of steps, and does them unless this is a plan. What the last one answered is returned with how many there were.
    fn perform(&mut self, steps: Vec<Step>) -> Result<(usize, Value)> {
        let mut answer = Value::Null;
        let count = steps.len();
        for step in steps {
            if self.mode == Mode::Apply {
                for call in &step.calls {
                    answer = node::perform(self.node, call).with_context(|| step.line())?;
                }
            }
            *match step.sign {
                Sign::Create => &mut self.tally.created,
                Sign::Change => &mut self.tally.changed,
                Sign::Remove => &mut self.tally.removed,
            } += 1;
            (self.say)(&step.line())?;
        }
        Ok((count, answer))
    }

    fn function(&mut self, id: &str, function: &Function) -> Result<usize> {
        let current = node::get(self.node, &paths::path(&function.name, "", ""))?;
        let tags = current.as_ref().map(|current| tags_in(&current["Tags"])).unwrap_or_default();
        let stack = self.stack.wanted.name.as_str();
        if current.is_some() && tags.get(names::STACK).map(String::as_str) != Some(stack) {
            let whose =
                tags.get(names::STACK).map_or("no stack's".to_owned(), |other| format!("stack {other}'s"));
            bail!("function {} is there already, and is {whose}", function.name);
        }
        let steps = match &function.code {
            Code::Zip(source) => {
                let package = self.packages.of(source)?;
                plan::function(id, function, Made::Zip(&package), current.as_ref())
            }
            Code::Image(uri) => {
                let digest = self.image(uri)?;
                plan::function(id, function, Made::Image(&digest), current.as_ref())
            }
        };
        let steps = steps.map_err(|why| anyhow!(why))?;
        if !steps.is_empty() {
            self.touched.insert(function.name.clone());
        }
        self.tags.insert(function.name.clone(), tags);
        self.wanted_tags.entry(function.name.clone()).or_default();
        self.perform(steps).map(|(count, _)| count)
    }

    /// The digest of an image that was pushed under that name.
    fn image(&self, uri: &str) -> Result<String> {
        let listed = node::get(self.node, "/tinderbox/images")?.unwrap_or_default();
        let is_wanted = |image: &&Value| {
            let (name, tag) =
                (image["Name"].as_str().unwrap_or_default(), image["Tag"].as_str().unwrap_or_default());
            let digest = image["Digest"].as_str().unwrap_or_default();
            uri == format!("{name}:{tag}")
                || uri == format!("{name}@{digest}")
                || (tag == "latest" && uri == name)
        };
        let found = listed["Images"].as_array().into_iter().flatten().find(is_wanted);
        let digest = found.and_then(|image| image["Digest"].as_str()).map(str::to_owned);
        digest.with_context(|| {
            format!("the node has no image {uri}: push it first (tinderbox images push ARCHIVE {uri})")
        })
    }

    fn layer(&mut self, id: &str, layer: &Layer) -> Result<usize> {
        let package = self.packages.of(&layer.content)?;
        let versions = node::get(self.node, &format!("{}?MaxItems=1", paths::layer_path(&layer.name)))?;
        let newest = versions.as_ref().and_then(|list| list["LayerVersions"][0]["Version"].as_u64());
        let path = newest.map(|number| format!("{}/{number}", paths::layer_path(&layer.name)));
        let newest = path.map(|path| node::get(self.node, &path)).transpose()?.flatten();
        let steps = plan::layer(id, layer, &package, newest.as_ref());
        let there = if steps.is_empty() { newest } else { None };
        let (count, answer) = self.perform(steps)?;
        let there = there.unwrap_or(answer);
        let arn = there["LayerVersionArn"].as_str().map_or_else(|| format!("({id})"), str::to_owned);
        self.learn(id, &[REF, "LayerVersionArn"], &arn);
        Ok(count)
    }

    fn version(&mut self, id: &str, version: &Version) -> Result<usize> {
        let Version { function, description, provisioned, is_follower } = version;
        let tag = names::tag("version", id);
        let kept = if *is_follower {
            None
        } else {
            self.tags.get(function).and_then(|tags| tags.get(&tag)).cloned()
        };
        let kept = match kept {
            Some(number) => {
                node::get(self.node, &paths::path(function, "/configuration", &number))?.map(|_| number)
            }
            None => None,
        };
        let newest = if *is_follower { self.newest(function)? } else { None };
        let step = plan::version(id, function, description.as_deref());
        let (mut count, number) = match (kept, self.mode) {
            (Some(number), _) => (0, number),
            // Nothing is published of a function that is as it was; only the node knows that for sure.
            (None, Mode::Apply) if *is_follower => {
                let answer = step.calls.iter().map(|call| node::perform(self.node, call)).next_back();
                let number = number_in(&answer.transpose()?.unwrap_or_default())?;
                let is_new = newest.as_deref() != Some(number.as_str());
                (self.perform(published(step, is_new))?.0, number)
            }
            (None, Mode::Plan) if *is_follower && !self.touched.contains(function) && newest.is_some() => {
                (0, newest.unwrap_or_default())
            }
            (None, Mode::Plan) => (self.perform(vec![step])?.0, format!("({id})")),
            (None, Mode::Apply) => {
                let (count, answer) = self.perform(vec![step])?;
                (count, number_in(&answer)?)
            }
        };
        if self.mode == Mode::Apply {
            node::perform(self.node, &Call::Settled(paths::path(function, "/configuration", &number)))?;
        }
        if !*is_follower {
            self.own(function, &tag, &number)?;
        }
        let arn = format!("{}:{number}", self.arn(function));
        self.learn(id, &[REF, "FunctionArn"], &arn);
        self.learn(id, &["Version"], &number);
        count += self.provisioned(id, function, &number, *provisioned)?;
        Ok(count)
    }

    /// The number of the newest version of a function.
    fn newest(&self, function: &str) -> Result<Option<String>> {
        let versions = node::all(self.node, &paths::path(function, "/versions", ""), "Versions")?;
        let numbers = versions.iter().filter_map(|version| version["Version"].as_str()?.parse::<u64>().ok());
        Ok(numbers.max().map(|number| number.to_string()))
    }

    fn alias(&mut self, id: &str, alias: &Alias) -> Result<usize> {
        let Alias { function, name, provisioned, .. } = alias;
        let current = node::get(self.node, &paths::alias_path(function, name))?;
        let steps = plan::alias(id, alias, current.as_ref());
        self.own(function, &names::tag("alias", name), names::tag_value(id))?;
        let (count, _) = self.perform(steps)?;
        Ok(count + self.provisioned(id, function, name, *provisioned)?)
    }

    fn provisioned(
        &mut self,
        id: &str,
        function: &str,
        qualifier: &str,
        wanted: Option<i64>,
    ) -> Result<usize> {
        let current = match qualifier.starts_with('(') {
            true => None,
            false => node::get(self.node, &paths::provisioned_path(function, qualifier))?,
        };
        let current =
            current.and_then(|current| current["RequestedProvisionedConcurrentExecutions"].as_i64());
        self.perform(plan::provisioned(id, function, qualifier, wanted, current)).map(|(count, _)| count)
    }

    fn url(&mut self, id: &str, url: &Url) -> Result<usize> {
        let current = node::get(self.node, &paths::url_path(&url.function, &url.qualifier))?;
        let steps = plan::url(id, url, current.as_ref());
        self.own(&url.function, &names::tag("url", &url.qualifier), names::tag_value(id))?;
        let (count, answer) = self.perform(steps)?;
        let shown = [Some(&answer), current.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|shown| shown["FunctionUrl"].as_str());
        let shown = shown.map_or_else(|| format!("({id})"), str::to_owned);
        self.learn(id, &["FunctionUrl"], &shown);
        Ok(count)
    }

    fn events(&mut self, id: &str, events: &Events) -> Result<usize> {
        let current = node::get(self.node, &paths::events_path(&events.function, &events.qualifier))?;
        let steps = plan::events(id, events, current.as_ref());
        self.own(&events.function, &names::tag("events", &events.qualifier), names::tag_value(id))?;
        self.perform(steps).map(|(count, _)| count)
    }

    fn permission(&mut self, id: &str, permission: &Permission) -> Result<usize> {
        let Permission { function, qualifier, sid, .. } = permission;
        let current = statements(self.node, function, qualifier)?;
        self.wanted_statements.insert((function.clone(), qualifier.clone(), sid.clone()));
        self.perform(plan::permission(id, permission, &current)).map(|(count, _)| count)
    }

    /// How long a log group is kept. It begins with its first line, and cannot be told before.
    fn retention(&mut self, id: &str, group: &str, days: Option<i64>) -> Result<usize> {
        let groups = self.node.ask_logs("DescribeLogGroups", &json!({ "logGroupNamePrefix": group }))?;
        let mut groups = groups["logGroups"].as_array().into_iter().flatten();
        match (groups.find(|found| found["logGroupName"] == group), days) {
            (Some(found), _) => {
                let steps = plan::retention(id, group, days, found["retentionInDays"].as_i64());
                self.perform(steps).map(|(count, _)| count)
            }
            (None, None) => Ok(0),
            (None, Some(_)) => {
                (self.say)(&format!(
                    "later: {id}: log group {group} begins with its first line; deploy again then"
                ))?;
                self.tally.later += 1;
                Ok(0)
            }
        }
    }

    /// Says on a function, before something of it is made, that the stack made it.
    fn own(&mut self, function: &str, tag: &str, value: &str) -> Result<()> {
        self.wanted_tags.entry(function.to_owned()).or_default().insert(tag.to_owned());
        let arn = self.arn(function);
        let tags = self.tags.entry(function.to_owned()).or_default();
        if self.mode == Mode::Plan || tags.get(tag).map(String::as_str) == Some(value) {
            return Ok(());
        }
        let body = json!({ "Tags": { tag: value } });
        node::perform(self.node, &plan::ask("POST", paths::tags_path(&arn), Some(body)))?;
        tags.insert(tag.to_owned(), value.to_owned());
        Ok(())
    }

    fn arn(&self, function: &str) -> String {
        let place = self.stack.wanted.place();
        format!("arn:aws:lambda:{}:{}:function:{function}", place.region, place.account)
    }

    fn learn(&mut self, id: &str, attributes: &[&str], value: &str) {
        attributes.iter().for_each(|attribute| self.stack.learn(id, attribute, value, &mut self.known));
    }
}

/// A step that was done already, if anything came of it.
fn published(mut step: Step, is_new: bool) -> Vec<Step> {
    step.calls.clear();
    if is_new { vec![step] } else { Vec::new() }
}

fn number_in(published: &Value) -> Result<String> {
    published["Version"].as_str().map(str::to_owned).context("understand which version was published")
}

/// The names of the statements of a policy.
pub(crate) fn statements(node: &dyn Node, function: &str, qualifier: &str) -> Result<Vec<String>> {
    let answer = node::get(node, &paths::path(function, "/policy", qualifier))?.unwrap_or_default();
    let policy: Value =
        serde_json::from_str(answer["Policy"].as_str().unwrap_or("{}")).context("read a policy")?;
    let statements = policy["Statement"].as_array().into_iter().flatten();
    Ok(statements.filter_map(|statement| statement["Sid"].as_str().map(str::to_owned)).collect())
}

/// Tags as the node shows them.
pub(crate) fn tags_in(shown: &Value) -> BTreeMap<String, String> {
    let shown = shown.as_object().into_iter().flatten();
    shown.filter_map(|(tag, value)| Some((tag.clone(), value.as_str()?.to_owned()))).collect()
}
