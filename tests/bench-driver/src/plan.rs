//! What to measure and how often, as xtask wrote it.

use std::path::PathBuf;

use serde::Deserialize;

/// The plan file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Our VMM.
    pub(crate) vmm: PathBuf,
    /// Guest kernel, the same for both VMMs.
    pub(crate) kernel: PathBuf,
    /// Guest initrd, the same for both VMMs.
    pub(crate) initrd: PathBuf,
    /// The peer to boot the same guest with, when there is one.
    pub(crate) firecracker: Option<PathBuf>,
    /// Boots of each VMM, taken in turn.
    pub(crate) boots: u32,
    /// Address of the node's Lambda API, `http://127.0.0.1:9000`.
    pub(crate) endpoint: String,
    /// Zip file of the function to create.
    pub(crate) function_zip: PathBuf,
    /// Its runtime.
    pub(crate) runtime: String,
    /// Its handler.
    pub(crate) handler: String,
    /// Warm invocations at concurrency 1.
    pub(crate) warm_invokes: u32,
    /// Warm invocations of each of the eight callers at concurrency 8; 0 leaves the figure out.
    pub(crate) warm_invokes_by_eight: u32,
}
