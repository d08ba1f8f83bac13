//! The functions of the proof: what they are, and what they draw.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

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
