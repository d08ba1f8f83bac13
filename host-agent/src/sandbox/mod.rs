//! Sandboxes: microVMs that run one function version each, from the decision to have one to its last trace.
//!
//! `invoke` is the only caller. What decides (`policy`, `machine`) is pure; what acts is one task a sandbox, which owns
//! the `vmm` process, the guest's connection and nothing that another task may touch:
//!
//! ```text
//!            policy::Pool            which sandbox, a new one, or a refusal; values in, values out
//!            way                     how a new one comes to be: cloned from version or runtime, or booted
//!                 │
//!   boot, resume ─┼── spawn           asks the launcher for a jailed `vmm`; what ends it and says how it ended
//!                 ├── blanks          processes with a machine reserved, waiting for the snapshot that they become
//!                 ├── vmm             control socket: Configure, Start, Snapshot, Load, Exited; kill and reap
//!                 ├── scratch         /tmp of the function: a sparse copy of a template, without a name
//!                 ├── console         serial output and the VMM's stderr, bounded, into the log
//!                 └── guest           frames over vsock: Hello, Start, InitDone, Invoke … Done
//!                 │
//!                life                 once its guest is up: init, events, end
//! ```

pub(crate) mod blanks;
pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod error;
pub(crate) mod guest;
pub(crate) mod life;
pub(crate) mod logs;
pub(crate) mod machine;
pub(crate) mod packet;
pub(crate) mod policy;
pub(crate) mod resume;
pub(crate) mod scratch;
pub(crate) mod shutdown;
pub(crate) mod spawn;
pub(crate) mod vmm;
pub(crate) mod way;

use std::{error::Error, fmt};

use crate::functions::model::FunctionId;

/// Names one sandbox for the life of the agent; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SandboxId(pub(crate) u64);

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sb-{}", self.0)
    }
}

/// What a sandbox is for: code and settings of one version. Sandboxes are shared by equal keys only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VersionKey {
    /// The function.
    pub(crate) function: FunctionId,
    /// `$LATEST` or a number.
    pub(crate) version: String,
    /// Changes whenever a running sandbox no longer is the function.
    pub(crate) deployment_id: String,
    /// The version of the runtime that it has to have: one that is there already may have another.
    pub(crate) pin: Option<String>,
}

/// An error and what caused it, as one line.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    line
}
