//! The tests' function in Java, and the example beside it: compiled by the runtime's JDK against the runtime's interfaces, which they do not
//! bring.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache;
use crate::context::Context;
use crate::hash::Inputs;
use crate::payload::{JDK_SCRATCH, Jdk};

const RECIPE: &str = "test-java 2";
const SOURCES: &str = "tests/functions/java";
const EXAMPLE: &str = "examples/java";
/// The runtime; Lambda's interfaces are among its client's sources.
const RUNTIME: &str = "image/runtimes/java21";
const JAVAC: &[&str] = &["-encoding", "UTF-8", "-proc:none", "-implicit:none"];

/// A folder with what belongs into the function's zip: its classes, and in `lib` a jar.
pub(crate) fn function(ctx: &Context) -> Result<PathBuf> {
    let (sources, runtime, example) = (ctx.path(SOURCES), ctx.path(RUNTIME), ctx.path(EXAMPLE));
    let inputs = Inputs::new(RECIPE).text("javac", &JAVAC.join(" ")).tree(&sources)?.tree(&runtime)?;
    let key = inputs.tree(&example)?.key();
    let step = ctx.progress.step("compiling the tests' function in Java");
    let made = ctx.cache.artefact("test-java", &key, &step, |out| {
        let root = out.join("root");
        fs::create_dir(&root).context("make a JDK's folder")?;
        let jdk = Jdk::extract(ctx, &step, &root)?;
        jdk.give(&sources, Path::new("sources"))?;
        jdk.give(&runtime.join("client"), Path::new("client"))?;
        jdk.give(&example, Path::new("sources/example"))?;
        compile(&jdk, &sources.join("crac/org/crac"), "crac/org/crac", "crac")?;
        compile(&jdk, &sources.join("app"), "app", "function")?;
        compile(&jdk, &example, "example", "function")?;
        fs::create_dir(root.join("tinderbox/function/lib")).context("make the function's folder of jars")?;
        let [jar, crac] = ["function/lib/crac.jar", "crac"].map(|path| format!("{JDK_SCRATCH}/{path}"));
        jdk.run("jar", &["--create", "--file", &jar, "-C", &crac, "."])?;
        fs::rename(root.join("tinderbox/function"), out.join("function")).context("keep the function")?;
        cache::remove_tree(&root)
    })?;
    step.done();
    Ok(made.join("function"))
}

/// The sources in one folder, which the JDK has as `from`, into another.
fn compile(jdk: &Jdk<'_>, folder: &Path, from: &str, to: &str) -> Result<()> {
    let entries: std::io::Result<Vec<_>> = fs::read_dir(folder).and_then(Iterator::collect);
    let entries = entries.with_context(|| format!("list {}", folder.display()))?;
    let mut args: Vec<_> = JAVAC.iter().map(|&arg| arg.to_owned()).collect();
    args.extend(["-d".to_owned(), format!("{JDK_SCRATCH}/{to}")]);
    args.push("-sourcepath".to_owned());
    args.push(["sources/crac", "client"].map(|path| format!("{JDK_SCRATCH}/{path}")).join(":"));
    for entry in entries.iter().filter(|entry| entry.path().extension().is_some_and(|kind| kind == "java")) {
        args.push(format!("{JDK_SCRATCH}/sources/{from}/{}", entry.file_name().to_string_lossy()));
    }
    jdk.run("javac", &args.iter().map(String::as_str).collect::<Vec<_>>())
}
