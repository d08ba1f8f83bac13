//! What every subcommand gets: where the checkout is, the cache, the progress display.

use crate::cache::Cache;
use crate::cmd::Cmd;
use crate::progress::{Progress, Step};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// The surroundings of one xtask run.
pub(crate) struct Context {
    /// The checkout's top folder.
    pub(crate) root: PathBuf,
    /// Artefacts that outlive the checkout.
    pub(crate) cache: Cache,
    /// Tells the user what is being done.
    pub(crate) progress: Progress,
}

impl Context {
    pub(crate) fn new() -> Result<Context> {
        // At run time, where cargo says it: a target folder shared by two checkouts holds one binary for both.
        let package =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent().context("xtask has no parent folder")?;
        Ok(Context { root: root.to_owned(), cache: Cache::open()?, progress: Progress::new() })
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Where cargo puts what it builds for this checkout.
    pub(crate) fn target_dir(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.path("target"), |dir| self.path(dir))
    }

    /// A program whose output goes to the log `name` in the cache, and whose last line is shown on `step`.
    pub(crate) fn cmd(&self, program: impl AsRef<std::ffi::OsStr>, name: &str, step: &Step) -> Cmd {
        Cmd::new(program).log(self.cache.log(name)).step(step)
    }
}
