//! Where a template is, what it is called, and what lies beside it.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{assets::Assets, names, yaml};

/// Where `sam build` writes, from its project's folder.
const SAM: &str = ".aws-sam/build";

/// What it writes there.
const SAM_TEMPLATE: &str = "template.yaml";

/// Where `cdk synth` writes.
const CDK: &str = "cdk.out";

/// Its list of stacks.
const CDK_MANIFEST: &str = "manifest.json";

/// Longest manifest of CDK's, bytes: it tells of each construct.
const MAX_MANIFEST_LEN: u64 = 64 * 1024 * 1024;

/// A template that was found.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its file, for people.
    pub(crate) shown: String,
    pub(crate) stack: String,
    pub(crate) document: Value,
    pub(crate) assets: Assets,
}

/// Finds a template: the one that is named, or that of `sam build` or `cdk synth` below the current folder.
///
/// # Errors
/// There is none, or more than one; it is no YAML or JSON; its stack has no name.
pub(crate) fn find(named: Option<&Path>, stack: Option<&str>) -> Result<Source> {
    if let Some(name) = stack {
        ensure!(
            names::is_stack(name),
            "`{name}` is no stack's name: letters, digits and hyphens, a letter first"
        );
    }
    let Some(path) = named else {
        let here: Vec<_> = [SAM, CDK].map(Path::new).into_iter().filter(|path| path.is_dir()).collect();
        return match here.as_slice() {
            [folder] => in_folder(folder, stack),
            [] => bail!(
                "there is neither {SAM} nor {CDK} here: run `sam build` or `cdk synth`, or name a template"
            ),
            _ => bail!("there are both {SAM} and {CDK} here: name one of them"),
        };
    };
    if path.is_dir() { in_folder(path, stack) } else { file(path, stack) }
}

fn in_folder(folder: &Path, stack: Option<&str>) -> Result<Source> {
    if folder.join(CDK_MANIFEST).is_file() {
        return of_cdk(folder, stack);
    }
    let template = folder.join(SAM_TEMPLATE);
    ensure!(template.is_file(), "there is neither {SAM_TEMPLATE} nor {CDK_MANIFEST} in {}", folder.display());
    file(&template, stack)
}

/// A template by itself. Its stack is called as the project's folder is, unless it is said.
fn file(path: &Path, stack: Option<&str>) -> Result<Source> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stack = match stack {
        Some(name) => name.to_owned(),
        None => project(folder)?
            .with_context(|| "no folder that could name the stack: say --stack NAME".to_owned())?,
    };
    let beside =
        path.file_name().and_then(|name| name.to_str()?.strip_suffix(".template.json").map(str::to_owned));
    let manifest =
        beside.map(|stem| folder.join(format!("{stem}.assets.json"))).filter(|path| path.is_file());
    let assets = match manifest {
        Some(manifest) => with_manifest(folder, &manifest)?,
        None => Assets::below(folder),
    };
    Ok(Source { shown: path.display().to_string(), stack, document: document(path)?, assets })
}

/// The name of the folder that SAM's build is in, or of the template's.
fn project(folder: &Path) -> Result<Option<String>> {
    let folder = fs::canonicalize(folder).with_context(|| format!("find {}", folder.display()))?;
    let above = if folder.ends_with(SAM) { folder.ancestors().nth(2) } else { Some(folder.as_path()) };
    Ok(above.and_then(Path::file_name).and_then(|name| names::stack_of(name.to_str()?)))
}

/// A stack of CDK's: the one that there is, or that is meant.
fn of_cdk(folder: &Path, stack: Option<&str>) -> Result<Source> {
    let path = folder.join(CDK_MANIFEST);
    let manifest: Value = serde_json::from_slice(&read(&path, MAX_MANIFEST_LEN)?)
        .with_context(|| format!("read {}", path.display()))?;
    let artifacts = manifest["artifacts"].as_object().into_iter().flatten();
    let stacks: Vec<_> = artifacts
        .filter(|(_, artifact)| artifact["type"] == "aws:cloudformation:stack")
        .map(|(id, artifact)| {
            let properties = &artifact["properties"];
            let name = properties["stackName"].as_str().unwrap_or(id);
            (name, id, properties["templateFile"].as_str().unwrap_or_default())
        })
        .collect();
    let (name, id, template) = match (stacks.as_slice(), stack) {
        ([], _) => bail!("{} tells of no stack", path.display()),
        ([only], _) => *only,
        (several, Some(wanted)) => *several
            .iter()
            .find(|(name, id, _)| *name == wanted || *id == wanted)
            .with_context(|| format!("{} has no stack {wanted}", path.display()))?,
        (several, None) => {
            let names: Vec<_> = several.iter().map(|(name, ..)| *name).collect();
            bail!("{} has several stacks: say --stack with one of {}", path.display(), names.join(", "))
        }
    };
    let plain = Path::new(template);
    ensure!(
        plain.file_name() == Some(plain.as_os_str()),
        "the template of {name} is not in {}",
        folder.display()
    );
    let manifest = folder.join(format!("{id}.assets.json"));
    let assets = if manifest.is_file() { with_manifest(folder, &manifest)? } else { Assets::below(folder) };
    let name = if stacks.len() == 1 { stack.unwrap_or(name) } else { name };
    ensure!(names::is_stack(name), "`{name}` is no stack's name: say --stack NAME");
    let template = folder.join(plain);
    let document = document(&template)?;
    Ok(Source { shown: template.display().to_string(), stack: name.to_owned(), document, assets })
}

fn with_manifest(folder: &Path, manifest: &Path) -> Result<Assets> {
    let text = read(manifest, MAX_MANIFEST_LEN)?;
    Assets::with_manifest(folder, &text).with_context(|| format!("read {}", manifest.display()))
}

/// JSON is YAML, but not the other way round, and errors in either are told in its own words.
fn document(path: &Path) -> Result<Value> {
    let text = read(path, yaml::MAX_TEMPLATE_LEN as u64)?;
    let failed = || format!("read {}", path.display());
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_slice(&text).with_context(failed);
    }
    let text = String::from_utf8(text).with_context(failed)?;
    yaml::parse(&text).with_context(failed)
}

fn read(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(longest + 1).read_to_end(&mut text).with_context(|| format!("read {}", path.display()))?;
    ensure!(text.len() as u64 <= longest, "{} is longer than {longest} bytes", path.display());
    Ok(text)
}
