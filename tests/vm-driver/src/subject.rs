//! The functions of the proof: what they are, and what they draw.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use chunk_store::{MAX_BODY_LEN, Pack, Source, open};

const PYTHON_CODE: &str = include_str!("../../functions/unique/app.py");

/// A function that draws from every generator that its language has.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Identifier of its runtime.
    pub(crate) runtime: &'static str,
    pub(crate) handler: &'static str,
    /// What its language draws, by the names that a sample has.
    pub(crate) draws: &'static [&'static str],
}

/// What every sample has from the guest's kernel and files.
const SYSTEM: &[&str] = &[
    "getrandom",
    "urandom",
    "kernel_uuid",
    "boot_id",
    "machine_id",
    "hostname",
    "etc_hostname",
    "instance_id",
    "generation",
];

impl Subject {
    /// What a sample of it has that every clone must have for itself.
    pub(crate) fn distinct(&self) -> impl Iterator<Item = &'static str> {
        SYSTEM.iter().chain(self.draws).copied()
    }
}

/// `tests/functions/unique`.
pub(crate) const PYTHON: Subject = Subject {
    runtime: "python3.13",
    handler: "app.handler",
    draws: &[
        "uuid4",
        "uuid1",
        "secrets",
        "random",
        "openssl",
        "tls_client_random",
        "openssl_of_older_process",
    ],
};

/// `tests/functions/unique-rust`.
pub(crate) const RUST: Subject = Subject {
    runtime: "provided.al2023",
    handler: "bootstrap",
    // The last is no draw: who slept through the resume says so, as all that did, and who woke too early has everybody's.
    draws: &["rand", "rand_of_older_thread", "generation_at_event"],
};

/// The image of a subject's code: of the one in Rust, this program.
pub(crate) fn code_image(folder: &Path, bootstrap: Option<&Path>) -> Result<PathBuf> {
    let (source, image) = (folder.join("code"), folder.join("code.erofs"));
    fs::create_dir(&source)?;
    match bootstrap {
        // With its mode: it is executable.
        Some(program) => drop(fs::copy(program, source.join("bootstrap"))?),
        None => fs::write(source.join("app.py"), PYTHON_CODE)?,
    }
    let made = Command::new("mkfs.erofs").args(["--quiet", "--all-root"]).args([&image, &source]).status()?;
    ensure!(made.success(), "mkfs.erofs");
    Ok(image)
}

/// The image of a payload's runtime, unpacked: these machines are given files, and no agent serves them chunks.
pub(crate) fn runtime_image(lib: &Path, runtime: &str, folder: &Path) -> Result<PathBuf> {
    let path = lib.join(format!("runtimes/{runtime}.pack"));
    let pack = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let pack = Pack::open(pack).with_context(|| format!("read {}", path.display()))?;
    let (manifest, image) = (pack.manifest(), folder.join("runtime.erofs"));
    let file = File::create(&image)?;
    file.set_len(manifest.content().len)?;
    let chunk_len = manifest.content().chunk_size.bytes() as u64;
    for (index, entry) in (0_u32..).zip(manifest.chunks()) {
        let Some(entry) = entry else { continue };
        let body = pack.fetch(&entry.name, MAX_BODY_LEN, 0)?;
        let chunk = open(entry, &body, manifest.chunk_len(index))?;
        // Most chunks end with padding, which needs no room on the disk.
        let len = chunk.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        file.write_all_at(chunk.get(..len).unwrap_or_default(), u64::from(index) * chunk_len)?;
    }
    Ok(image)
}
