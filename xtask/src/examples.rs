//! The example that is neither cargo's nor Go's: `examples/custom-bootstrap`, a runtime in C, built as its README says.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cmd::Cmd;
use crate::context::Context;
use crate::hash::Inputs;

const RECIPE: &str = "custom-bootstrap 1";
const SOURCE: &str = "examples/custom-bootstrap/bootstrap.c";
const CC: &[&str] = &["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror"];

/// The static program.
pub(crate) fn custom_bootstrap(ctx: &Context) -> Result<PathBuf> {
    let source = ctx.path(SOURCE);
    let compiler = Cmd::new("cc").arg("--version").read()?;
    let inputs = Inputs::new(RECIPE).text("compiler", &compiler).text("flags", &CC.join(" "));
    let step = ctx.progress.step("building the custom runtime of the examples");
    let made = ctx.cache.artefact("custom-bootstrap", &inputs.file(&source)?.key(), &step, |out| {
        let cmd = ctx.cmd("cc", "examples", &step).args(CC).arg("-o").arg(out.join("bootstrap")).arg(&source);
        cmd.run().with_context(|| format!("compile {}", source.display()))
    })?;
    step.done();
    Ok(made.join("bootstrap"))
}
