//! `tinderbox deploy`: a node's functions become what a template says that `sam build` or `cdk synth` wrote.
//!
//! ```text
//!  source ──► yaml, JSON ──► template ──► serverless (SAM's types) ──► table (what is read) ──► scope, desired ──► plan ──► node
//!  └── I/O                  └───────────────────────── pure, refuses ──────────────────────────────────┘            └── I/O
//! ```
//!
//! A template is gone through three times: to see whether all of it can be done, to plan it against what is there, and to do it. Only the
//! third changes anything. What a stack made is known by tags of its functions (`names`), so there is no state beside the node's.

mod apply;
mod assets;
mod desired;
#[cfg(test)]
mod fake;
mod names;
mod node;
mod order;
mod package;
mod paths;
mod plan;
mod properties;
mod remove;
mod scope;
mod serverless;
mod skip;
mod source;
mod stack;
mod table;
mod template;
mod yaml;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::{
    apply::{Mode, Pass, Tally},
    node::Node,
    package::Packages,
    plan::{Sign, Step},
    remove::Kept,
    skip::Skip,
    stack::{Stack, Wanted},
};
use crate::{client::Client, print};

/// Exit status when something of a template cannot be done. Nothing was changed then.
const REFUSED: u8 = 3;

/// What is to be deployed.
#[derive(Debug, clap::Args)]
pub(crate) struct Wish {
    /// A template, or a folder with one: `.aws-sam/build`, `cdk.out`. Otherwise the one of these that is here.
    template: Option<PathBuf>,
    /// The stack's name. Otherwise CDK's, or the name of the folder that SAM's build is in. Of several stacks of CDK's it says which.
    #[arg(long)]
    stack: Option<String>,
    /// NAME=VALUE: a value in place of a parameter's default. May be given more than once.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// A type, a logical id, or a property of either (`Greeter.Events`) to leave out. May be given more than once.
    #[arg(long, value_name = "TYPE_OR_LOGICAL_ID")]
    skip: Vec<String>,
    /// Keep what is no longer in the template.
    #[arg(long)]
    keep: bool,
    /// Print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove everything that the stack made. No template is read.
    #[arg(long, requires = "stack", conflicts_with_all = ["template", "parameters", "skip", "keep"])]
    remove: bool,
    /// The node's account (`account_id` in its configuration).
    #[arg(long, default_value = "000000000000", value_name = "ID")]
    account: String,
}

/// Deploys, and prints what was done and the stack's outputs; with `json` the outputs alone go to the standard output.
pub(crate) fn run(client: &Client, wish: Wish, region: &str, json: bool) -> Result<ExitCode> {
    let mut say = |line: &str| {
        if json {
            eprintln!("{line}");
            return Ok(());
        }
        print(&format!("{line}\n"))
    };
    let mode = if wish.dry_run { Mode::Plan } else { Mode::Apply };
    if wish.remove {
        let stack = wish.stack.unwrap_or_default();
        let steps = remove::steps(client, &stack, &Kept::default())?;
        let mut tally = Tally::default();
        perform(client, steps, mode, &mut tally, &mut say)?;
        say(&summary(&stack, &tally, mode))?;
        return Ok(ExitCode::SUCCESS);
    }
    let source = source::find(wish.template.as_deref(), wish.stack.as_deref())?;
    let shown = source.shown;
    let wanted = Wanted {
        name: source.stack,
        region: region.to_owned(),
        account: wish.account,
        parameters: wish.parameters.into_iter().collect(),
        skip: Skip::new(wish.skip),
    };
    let stack = match Stack::new(source.document, wanted, source.assets) {
        Ok(stack) => stack,
        Err(refusals) => {
            eprintln!("tinderbox: {shown} asks for what cannot be done; nothing was changed:");
            refusals.iter().for_each(|refusal| eprintln!("  {refusal}"));
            eprintln!("--skip leaves something out: a type, a logical id, or a property of either");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let outputs = deploy(client, &stack, mode, wish.keep, &mut say)?;
    if json {
        print(&format!("{}\n", serde_json::to_string(&outputs).context("write the outputs")?))?;
    } else {
        for (name, value) in outputs {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say(&format!("{name} = {text}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Plans, then does it if that is wanted. Returns the outputs.
fn deploy(
    node: &dyn Node,
    stack: &Stack,
    mode: Mode,
    keep: bool,
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<BTreeMap<String, Value>> {
    for line in &stack.left_out {
        say(&format!("left out: {line}"))?;
    }
    let mut packages = Packages::default();
    let mut quiet = |_: &str| Ok(());
    if mode == Mode::Apply {
        Pass::new(stack, node, &mut packages, Mode::Plan, &mut quiet).run().context("nothing was changed")?;
    }
    let mut pass = Pass::new(stack, node, &mut packages, mode, say);
    if let Err(error) = pass.run() {
        let Tally { created, changed, .. } = pass.tally;
        return Err(match mode {
            Mode::Plan => error,
            Mode::Apply => error
                .context(format!("{} steps were done, and stay; deploy again to go on", created + changed)),
        });
    }
    let mut tally = std::mem::take(&mut pass.tally);
    let outputs = stack.outputs(&pass.known);
    let steps = remove::steps(node, &stack.wanted.name, &pass.kept())?;
    if keep {
        for step in steps {
            say(&format!("kept, though no longer in the template: {}", step.what))?;
        }
    } else {
        perform(node, steps, mode, &mut tally, say)?;
    }
    say(&summary(&stack.wanted.name, &tally, mode))?;
    outputs.map_err(|why| anyhow::anyhow!(why)).context("the stack's outputs")
}

fn perform(
    node: &dyn Node,
    steps: Vec<Step>,
    mode: Mode,
    tally: &mut Tally,
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    for step in steps {
        if mode == Mode::Apply {
            for call in &step.calls {
                node::perform(node, call).with_context(|| step.line())?;
            }
        }
        tally.removed += usize::from(step.sign == Sign::Remove);
        say(&step.line())?;
    }
    Ok(())
}

fn summary(stack: &str, tally: &Tally, mode: Mode) -> String {
    let Tally { created, changed, removed, same, later } = tally;
    let how = if mode == Mode::Plan { " would be" } else { "" };
    let later = if *later > 0 { format!(", {later} later") } else { String::new() };
    format!(
        "{stack}: {created}{how} created, {changed} changed, {removed} removed, {same} as they were{later}"
    )
}

fn parameter(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("`{text}` is not NAME=VALUE"),
    }
}

#[cfg(test)]
mod tests;
