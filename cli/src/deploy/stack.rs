//! A stack: a template that was found to be all of it something that can be done, with what it is to be called and where it goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    assets::Assets,
    desired::{self, Context, Desired},
    order::order,
    scope::{Attributes, Place, REF, Scope},
    serverless,
    skip::{SKIPPED, Skip},
    table,
    template::{Refusal, Resource, Template},
};

/// Which stack is wanted, and how.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) skip: Skip,
}

impl Wanted {
    pub(crate) fn place(&self) -> Place<'_> {
        Place { stack: &self.name, region: &self.region, account: &self.account }
    }
}

/// A stack.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) wanted: Wanted,
    pub(crate) assets: Assets,
    scope: Scope,
    resources: BTreeMap<String, Resource>,
    /// The logical ids, each behind what it needs.
    pub(crate) order: Vec<String>,
    /// Functions by their names on the node, with their logical ids.
    pub(crate) functions: BTreeMap<String, String>,
    stand_ins: BTreeMap<String, String>,
    followers: BTreeSet<String>,
    outputs: BTreeMap<String, Value>,
    /// Resources that the user leaves out.
    pub(crate) skipped: BTreeSet<String>,
    /// What a node is not told, and why: a line each.
    pub(crate) left_out: Vec<String>,
}

impl Stack {
    /// Reads a template and evaluates all of it, as far as that goes before anything is there.
    ///
    /// # Errors
    /// Everything of it that cannot be done.
    pub(crate) fn new(document: Value, wanted: Wanted, assets: Assets) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut template = Template::read(document, &mut refusals);
        let scope = Scope::new(&template, &wanted.parameters, wanted.place()).map_err(|unclear| {
            let unclear = unclear.into_iter().map(|(name, why)| Refusal::new(&name, why));
            refusals.iter().cloned().chain(unclear).collect::<Vec<_>>()
        })?;
        let skipped = choose(&mut template, &scope, &wanted.skip, &mut refusals);
        let mut left_out: Vec<_> =
            skipped.iter().map(|(id, kind)| format!("{id} ({kind}): {SKIPPED}")).collect();
        let transformed = serverless::transform(&mut template, &scope, &wanted.skip, &mut refusals);
        left_out.extend(transformed.left_out.iter().map(|(id, name, why)| format!("{id}.{name}: {why}")));
        left_out.extend(sift(&mut template, &wanted.skip, &mut refusals));
        for name in wanted.skip.unknown() {
            refusals.push(Refusal::new(&name, "is to be skipped, and there is no such thing"));
        }
        let outputs = outputs(&template, &scope, &mut refusals);
        let order = order(&template.resources, &transformed.stand_ins).unwrap_or_else(|circle| {
            refusals.push(Refusal::new(&circle.join(", "), "need each other in a circle"));
            Vec::new()
        });
        left_out.sort();
        let mut stack = Self {
            wanted,
            assets,
            scope,
            resources: template.resources,
            order,
            functions: BTreeMap::new(),
            stand_ins: transformed.stand_ins,
            followers: transformed.followers.into_iter().collect(),
            outputs,
            skipped: skipped.into_keys().collect(),
            left_out,
        };
        stack.rehearse(&mut refusals);
        refusals.sort();
        refusals.dedup();
        if refusals.is_empty() { Ok(stack) } else { Err(refusals) }
    }

    /// What a resource is to be, with what is known of those before it.
    pub(crate) fn desired(&self, id: &str, known: &Attributes) -> Result<Desired, String> {
        let resource = self.resources.get(id).ok_or("there is no such resource")?;
        let properties = self.scope.members(&resource.properties, known)?;
        let context = Context {
            place: self.wanted.place(),
            assets: &self.assets,
            functions: &self.functions,
            is_follower: self.followers.contains(id),
        };
        desired::read(id, &resource.kind, properties, context)
    }

    /// Keeps an attribute of a resource, under the other name that it may have, too.
    pub(crate) fn learn(&self, id: &str, attribute: &str, value: &str, known: &mut Attributes) {
        known.insert((id.to_owned(), attribute.to_owned()), value.into());
        for (name, _) in self.stand_ins.iter().filter(|(_, stands_for)| attribute == REF && *stands_for == id)
        {
            known.insert((name.clone(), REF.to_owned()), value.into());
            if let Some((id, attribute)) = name.split_once('.') {
                known.insert((id.to_owned(), attribute.to_owned()), value.into());
            }
        }
    }

    /// Keeps what is known of a resource before it is there.
    pub(crate) fn learn_names(&self, id: &str, desired: &Desired, known: &mut Attributes) {
        let mut own = Attributes::new();
        desired.attributes(id, self.wanted.place(), &mut own);
        for ((id, attribute), value) in own {
            if let Value::String(text) = value {
                self.learn(&id, &attribute, &text, known);
            }
        }
    }

    /// The outputs of a stack whose resources are known.
    pub(crate) fn outputs(&self, known: &Attributes) -> Result<BTreeMap<String, Value>, String> {
        let mut outputs = BTreeMap::new();
        for (name, value) in &self.outputs {
            let value = self.scope.evaluate(value, known).map_err(|why| format!("{name}: {why}"))?;
            outputs.insert(name.clone(), value.unwrap_or_default());
        }
        Ok(outputs)
    }

    /// Goes through all resources as if they were made, so that what cannot be is known before anything is.
    fn rehearse(&mut self, refusals: &mut Vec<Refusal>) {
        let mut known = Attributes::new();
        for id in &self.order.clone() {
            let desired = match self.desired(id, &known) {
                Ok(desired) => desired,
                Err(why) => {
                    refusals.push(Refusal::new(id, why));
                    continue;
                }
            };
            self.learn_names(id, &desired, &mut known);
            let later = format!("({id})");
            let attributes: &[&str] = match &desired {
                Desired::Layer(_) => &[REF, "LayerVersionArn"],
                Desired::Version(_) => &[REF, "FunctionArn", "Version"],
                Desired::Url(_) => &["FunctionUrl"],
                _ => &[],
            };
            attributes.iter().for_each(|attribute| self.learn(id, attribute, &later, &mut known));
            if let Desired::Function(function) = desired
                && let Some(other) = self.functions.insert(function.name.clone(), id.clone())
            {
                refusals.push(Refusal::new(id, format!("is called {}, and so is {other}", function.name)));
            }
        }
        if refusals.is_empty()
            && let Err(why) = self.outputs(&known)
        {
            refusals.push(Refusal::new("Outputs", why));
        }
    }
}

/// Takes out what a condition or the user leaves out, and returns the latter by their types; refuses types that nothing is known of.
fn choose(
    template: &mut Template,
    scope: &Scope,
    skip: &Skip,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<String, String> {
    let mut skipped = BTreeMap::new();
    template.resources.retain(|id, resource| {
        match scope.holds(resource.condition.as_deref()) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(why) => refusals.push(Refusal::new(id, why)),
        }
        let kind = table::kind(&resource.kind);
        if skip.resource(id, &resource.kind) && !kind.is_some_and(|kind| kind.is_left_out) {
            skipped.insert(id.clone(), resource.kind.clone());
            return false;
        }
        if kind.is_none() {
            refusals.push(Refusal::new(id, format!("{} is not supported", resource.kind)));
        }
        kind.is_some()
    });
    skipped
}

/// Takes out properties that mean nothing on a node; refuses those that nothing is known of.
fn sift(template: &mut Template, skip: &Skip, refusals: &mut Vec<Refusal>) -> Vec<String> {
    let mut left_out = Vec::new();
    for (id, resource) in &mut template.resources {
        let Some(kind) = table::kind(&resource.kind) else { continue };
        let properties = kind.sift(id, &mut resource.properties, skip, refusals);
        left_out.extend(properties.iter().map(|(name, why)| format!("{id}.{name}: {why}")));
        if kind.is_left_out {
            resource.depends_on.clear();
            let why = kind.becomes.strip_prefix("left out: ").unwrap_or(kind.becomes);
            left_out.push(format!("{id} ({}): {}", kind.name, why.split(". ").next().unwrap_or(why)));
        }
        if resource.is_retained && !desired::may_be_retained(resource) {
            refusals.push(Refusal::new(
                id,
                "a policy to retain it: what is no longer in the template is removed",
            ));
        }
    }
    left_out
}

fn outputs(template: &Template, scope: &Scope, refusals: &mut Vec<Refusal>) -> BTreeMap<String, Value> {
    let mut outputs = BTreeMap::new();
    for (name, (value, condition)) in &template.outputs {
        match scope.holds(condition.as_deref()) {
            Ok(true) => drop(outputs.insert(name.clone(), value.clone())),
            Ok(false) => {}
            Err(why) => refusals.push(Refusal::new(name, why)),
        }
    }
    outputs
}

#[cfg(test)]
#[path = "stack_tests.rs"]
mod tests;
