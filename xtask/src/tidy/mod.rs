//! `cargo xtask tidy`: what can be checked about the tree without compiling or running it.
//!
//! Every check is a pure function from the [`Tree`] (and cargo's [`Metadata`]) to [`Finding`]s, with a test that shows
//! it fail. Not here: formatting, lints and behaviour, which `cargo fmt`, `cargo clippy` and `cargo xtask test` check.

mod dependencies;
mod documents;
mod invariants;
mod modules;
mod sources;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::metadata::Metadata;
use tree::Tree;

/// Something about a file that a person should change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    path: PathBuf,
    /// Counted from 1.
    line: Option<usize>,
    message: String,
}

/// Whether a finding fails the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

impl Finding {
    fn error(path: impl Into<PathBuf>, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.into(), line, message: message.into() }
    }

    fn warning(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, path: path.into(), line: None, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Check what can be checked about the tree without compiling it.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Prints what is found and fails when a finding is an error, or when cargo-deny is installed and refuses a dependency.
pub(crate) fn run(_args: &Args, ctx: &Context) -> Result<()> {
    let tree = Tree::of_checkout(&ctx.root)?;
    let metadata = Metadata::of_workspace(&ctx.root)?;
    let findings = check(&tree, &metadata);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    println!("tidy: {} files, {errors} errors, {warnings} warnings", tree.len());
    if errors > 0 {
        bail!("the tree is not tidy");
    }
    deny(&ctx.root)
}

fn check(tree: &Tree, metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(modules::orphans(tree, &metadata.target_roots()));
    findings.extend(sources::lengths(tree));
    findings.extend(sources::headers(tree));
    findings.extend(sources::forbidden_words(tree));
    findings.extend(sources::registry_hosts(tree));
    findings.extend(sources::shell_scripts(tree));
    findings.extend(dependencies::edges(metadata));
    findings.extend(dependencies::trees(metadata));
    findings.extend(dependencies::declarations(tree));
    findings.extend(documents::named_paths(tree));
    findings.extend(documents::decision_records(tree));
    findings.extend(invariants::seccomp_reasons(tree));
    findings.extend(invariants::saved_state_versions(tree));
    findings
}

/// Licences, bans and duplicate versions, by cargo-deny and `deny.toml`. The tool is not part of a stable toolchain, so
/// a machine without it says so and goes on.
fn deny(root: &Path) -> Result<()> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("tidy: cargo-deny is not installed; deny.toml was not checked");
        return Ok(());
    }
    let status = Command::new("cargo")
        .args(["deny", "--offline", "check", "bans", "licenses", "sources"])
        .current_dir(root)
        .status()
        .context("start cargo deny")?;
    if !status.success() {
        bail!("cargo deny refused a dependency");
    }
    Ok(())
}
