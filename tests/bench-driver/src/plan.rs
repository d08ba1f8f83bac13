//! What to measure and how often, as xtask wrote it.

use std::path::PathBuf;

use serde::Deserialize;

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Boots of a minimal guest.
    Boot,
    /// Snapshots and loads of one.
    Snapshot,
    /// Clones of a guest that touches memory, from a disk.
    Touch,
    /// What a jail and a network slot cost.
    Jail,
    /// Invocations of a warm function.
    Invoke,
    /// The same beside a noisy neighbour.
    Fair,
    /// Cold starts of a function.
    Resume,
    /// What snapshots have in common.
    Shared,
    /// First answers of functions whose runtimes differ in length.
    Images,
    /// Resumes by an agent that has just been started.
    Restarted,
}

/// A runtime of the node that is there to be measured.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// What figures call it.
    pub(crate) name: String,
    /// Its runtime's name.
    pub(crate) runtime: String,
}

/// The plan file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// What of it, in any order.
    pub(crate) parts: Vec<Part>,
    /// Our VMM.
    pub(crate) vmm: PathBuf,
    /// What starts it in a jail.
    pub(crate) launcher: PathBuf,
    /// Starts in a jail, and as many without one.
    pub(crate) jailed_starts: u32,
    /// What makes network slots.
    pub(crate) gateway: PathBuf,
    /// Network slots.
    pub(crate) slots: u32,
    /// Guest kernel, the same for both VMMs.
    pub(crate) kernel: PathBuf,
    /// Guest initrd, the same for both VMMs.
    pub(crate) initrd: PathBuf,
    /// Initrd of a guest that rests, the same for both VMMs.
    pub(crate) resting_initrd: PathBuf,
    /// The peer to boot the same guest with, when there is one.
    pub(crate) firecracker: Option<PathBuf>,
    /// Boots of each VMM, taken in turn.
    pub(crate) boots: u32,
    /// Full snapshots of the resting guest by each VMM, taken in turn.
    pub(crate) snapshots: u32,
    /// Loads of the last one by each VMM, taken in turn.
    pub(crate) loads: u32,
    /// Clones of a guest that touches its memory, of each kind.
    pub(crate) touches: u32,
    /// Address of the node's Lambda API, `http://127.0.0.1:9000`.
    pub(crate) endpoint: String,
    /// Zip file of the function to create.
    pub(crate) function_zip: PathBuf,
    /// Its runtime.
    pub(crate) runtime: String,
    /// Its handler.
    pub(crate) handler: String,
    /// How often the function is created.
    pub(crate) creates: u32,
    /// Warm invocations at concurrency 1.
    pub(crate) warm_invokes: u32,
    /// Warm invocations of each of the eight callers at concurrency 8; 0 leaves the figure out.
    pub(crate) warm_invokes_by_eight: u32,
    /// Zip file of `tests/functions/echo`.
    pub(crate) echo_zip: PathBuf,
    /// Warm invocations of each open loop; 0 leaves the figures out.
    pub(crate) load_calls: u32,
    /// Invocations at once with the longest events and answers; 0 leaves the figures out.
    pub(crate) big_calls: usize,
    /// Zip file of `tests/functions/noisy`.
    pub(crate) noisy_zip: PathBuf,
    /// Zip file of the same function behind `tests/functions/ends`.
    pub(crate) resume_zip: PathBuf,
    /// Cold starts of it that boot.
    pub(crate) cold_boots: u32,
    /// How many clones come at once, one figure after the other.
    pub(crate) clones: Vec<usize>,
    /// Whether all of them come with a dropped page cache, too.
    pub(crate) dropped: bool,
    /// Clones of each figure, at least; as many rounds as that takes.
    pub(crate) clone_samples: u32,
    /// Runtimes of different lengths, which any program `bootstrap` runs on.
    pub(crate) images: Vec<Image>,
    /// Zip file of a function for them.
    pub(crate) image_zip: PathBuf,
    /// Cold starts on each, behind the first.
    pub(crate) image_boots: u32,
    /// The agent's state.
    pub(crate) state_dir: PathBuf,
    /// Resumes with a working set, and without.
    pub(crate) recorded_resumes: u32,
    /// Resumes at once of what is not on the node.
    pub(crate) crowd: usize,
}
