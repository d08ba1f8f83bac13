//! How much of what functions consist of is stored: of many functions on one runtime, and of many versions of one function. The
//! images are those that a node makes. Nothing is stored: chunks are made and counted, each name once.

use super::chunks::RUNTIME;
use super::figures::{RATIO, Samples};
use super::size;
use crate::context::Context;
use crate::hash::Inputs;
use crate::payload::{self, CodeBuilder};
use crate::progress::Step;
use crate::run;
use anyhow::{Context as _, Result, ensure};
use chunk_store::{ChunkName, ChunkSize, Salt, Sealed, seal};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const REQUIREMENTS: &str = "configs/bench/requirements.txt";
const RECIPE: &str = "bench-packages 1";
/// Whose wheels fit the runtime.
const PLATFORMS: &[&str] = &["manylinux_2_28_x86_64", "manylinux2014_x86_64"];

const WEB: &[&str] = &["requests", "urllib3", "certifi", "idna", "charset_normalizer"];
const PAGES: &[&str] = &["jinja2", "markupsafe"];
/// What functions bring along, in turn.
const STACKS: &[&[&[&str]]] =
    &[&[WEB], &[&["numpy"]], &[WEB, &["pyyaml"]], &[PAGES, &["pyyaml"]], &[WEB, &["numpy"], PAGES]];
/// How many functions there are on one runtime.
const FUNCTIONS: &[usize] = &[1, 5, 20];
/// What the function brings along that is changed again and again.
const VERSIONED: &[&[&str]] = &[WEB, PAGES, &["pyyaml"]];
const VERSIONS: usize = 100;
/// Of a handler that one person wrote.
const HANDLER_LINES: usize = 120;

/// Takes the figures, in a folder that it makes.
pub(super) fn measure(ctx: &Context, dir: &Path) -> Result<Vec<Samples>> {
    let packages = packages(ctx)?;
    let bench = Bench { ctx, packages, builder: CodeBuilder::new(ctx)?, dir };
    let step = ctx.progress.step("counting what functions and versions store");
    let mut samples = bench.functions(&step)?;
    samples.extend(bench.versions(&step)?);
    step.done();
    Ok(samples)
}

struct Bench<'a> {
    ctx: &'a Context,
    packages: PathBuf,
    builder: CodeBuilder,
    dir: &'a Path,
}

/// What is stored.
struct Stored {
    salt: Salt,
    names: HashSet<ChunkName>,
    bytes: u64,
}

impl Bench<'_> {
    /// Different functions on one runtime, which is counted as one of them: what they consist of unpacked, and what is stored.
    fn functions(&self, step: &Step) -> Result<Vec<Samples>> {
        let runtime = payload::runtime_image(self.ctx, RUNTIME)?;
        let mut stored = Stored::nothing();
        stored.add(&runtime)?;
        let mut given = data_len(&runtime)?;
        let mut samples = Vec::new();
        for number in 0..FUNCTIONS.iter().copied().max().unwrap_or_default() {
            step.note(&format!("function {}", number + 1));
            let stack = STACKS.get(number % STACKS.len()).copied().unwrap_or_default();
            let (image, len) = self.image(step, stack, &handler(number, 0))?;
            payload::check_aligned(&image)?;
            stored.add(&image)?;
            given += len;
            if FUNCTIONS.contains(&(number + 1)) {
                let name = |what: &str| format!("dedup_functions_{}_{what}", number + 1);
                samples.push(size(&name("given"), given));
                samples.push(size(&name("stored"), stored.bytes));
                samples.push(ratio(&name("stored_of_given"), stored.bytes, given));
            }
        }
        Ok(samples)
    }

    /// Versions of one function whose handler is another one each time.
    fn versions(&self, step: &Step) -> Result<Vec<Samples>> {
        let mut stored = Stored::nothing();
        let mut one = 0;
        for number in 0..VERSIONS {
            step.note(&format!("version {}", number + 1));
            let (image, _) = self.image(step, VERSIONED, &handler(0, number))?;
            stored.add(&image)?;
            if number == 0 {
                one = stored.bytes;
            }
        }
        Ok(vec![
            size("dedup_version_stored", one),
            size("dedup_versions_100_stored", stored.bytes),
            ratio("dedup_versions_100_of_one", stored.bytes, one),
        ])
    }

    /// The image of a function, and the bytes of its files.
    fn image(&self, step: &Step, stack: &[&[&str]], handler: &str) -> Result<(PathBuf, u64)> {
        if self.dir.exists() {
            fs::remove_dir_all(self.dir).with_context(|| format!("empty {}", self.dir.display()))?;
        }
        let (source, out) = (self.dir.join("source"), self.dir.join("out"));
        for folder in [&source, &out] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        for package in stack.iter().copied().flatten() {
            let from = self.packages.join(package);
            self.ctx.cmd("cp", "bench", step).arg("--recursive").arg(from.join(".")).arg(&source).run()?;
        }
        fs::write(source.join("app.py"), handler).context("write a handler")?;
        let zip = self.dir.join("code.zip");
        fs::write(&zip, run::zip_of(self.ctx, &source)?).context("write a function's zip")?;
        Ok((self.builder.image(self.ctx, step, &zip, &out)?, tree_len(&source)?))
    }
}

impl Stored {
    fn nothing() -> Stored {
        Stored { salt: Salt::public(), names: HashSet::new(), bytes: 0 }
    }

    /// Counts the bodies of an image that are not there yet.
    fn add(&mut self, image: &Path) -> Result<()> {
        let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
        let (len, chunk_len) = (file.metadata()?.len(), ChunkSize::IMAGE.bytes());
        for at in (0..len).step_by(chunk_len) {
            let mut chunk = vec![0; chunk_len.min(usize::try_from(len - at)?)];
            file.read_exact_at(&mut chunk, at).context("read an image")?;
            if let Sealed::Chunk { entry, body } = seal(&chunk, &self.salt)?
                && self.names.insert(entry.name)
            {
                self.bytes += body.len() as u64;
            }
        }
        Ok(())
    }
}

/// The packages, each unpacked in a folder of its name.
fn packages(ctx: &Context) -> Result<PathBuf> {
    let requirements = ctx.path(REQUIREMENTS);
    let key = Inputs::new(RECIPE).file(&requirements)?.key();
    let step = ctx.progress.step("fetching packages that functions use");
    let folder = ctx.cache.artefact("bench-packages", &key, &step, |out| {
        let (venv, wheels) = (out.join("venv"), out.join("wheels"));
        ctx.cmd("/usr/bin/python3", "bench", &step).args(["-m", "venv"]).arg(&venv).run()?;
        let pip = ctx.cmd(venv.join("bin/pip"), "bench", &step).args(["download", "--dest"]).arg(&wheels);
        let pip = pip.args(["--no-deps", "--require-hashes", "--only-binary=:all:"]);
        let pip = pip.args(["--implementation", "cp", "--python-version", "3.13"]);
        let pip = pip.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
        pip.arg("--disable-pip-version-check").arg("--requirement").arg(&requirements).run()?;
        for wheel in fs::read_dir(&wheels).context("list wheels")? {
            let wheel = wheel?.path();
            let name = wheel.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            let package = name.split('-').next().context("a wheel has a name")?;
            let unzip = ctx.cmd("/usr/bin/python3", "bench", &step).args(["-m", "zipfile", "-e"]);
            unzip.arg(&wheel).arg(out.join(package)).run()?;
        }
        Ok([venv, wheels].iter().try_for_each(fs::remove_dir_all)?)
    })?;
    step.done();
    Ok(folder)
}

/// A handler of some kilobytes; versions of one differ by a number.
fn handler(function: usize, version: usize) -> String {
    let line = |number| format!("    total += event.get(\"field_{function}_{number}\", {number})\n");
    let lines: String = (0..HANDLER_LINES).map(line).collect();
    format!("VERSION = {version}\n\n\ndef handler(event, context):\n    total = 0\n{lines}    return total\n")
}

/// Bytes of all files in a folder.
fn tree_len(folder: &Path) -> Result<u64> {
    let mut len = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        len += if meta.is_dir() { tree_len(&entry.path())? } else { meta.len() };
    }
    Ok(len)
}

/// Bytes of an image without the holes between its files.
fn data_len(image: &Path) -> Result<u64> {
    let meta = fs::metadata(image).with_context(|| format!("look at {}", image.display()))?;
    let len = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    ensure!(len > 0, "{} has nothing in it", image.display());
    Ok(len)
}

fn ratio(name: &str, part: u64, whole: u64) -> Samples {
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let ratio = part as f64 / whole as f64;
    Samples { name: name.to_owned(), unit: RATIO.to_owned(), samples: vec![ratio] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_chunks_are_counted_once_and_zeros_never() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let chunk = |byte: u8| vec![byte; ChunkSize::IMAGE.bytes()];
        fs::write(file.path(), [chunk(1), chunk(0), chunk(1), chunk(2)].concat()).unwrap();
        let mut stored = Stored::nothing();
        stored.add(file.path()).unwrap();
        let (names, bytes) = (stored.names.len(), stored.bytes);
        assert_eq!(names, 2);
        stored.add(file.path()).unwrap();
        assert_eq!((stored.names.len(), stored.bytes), (names, bytes));
    }

    #[test]
    fn versions_of_a_handler_differ_by_little() {
        assert_eq!(handler(0, 1).len(), handler(0, 2).len());
        assert_ne!(handler(0, 1), handler(0, 2));
    }
}
