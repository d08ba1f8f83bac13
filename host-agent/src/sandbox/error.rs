//! Why a sandbox did not come up, or is of no further use, and what that says of the next one.

use std::{io, path::PathBuf, time::Duration};

use super::{
    guest::GuestError,
    scratch::ScratchError,
    vmm::{LOAD, VmmError},
};
use crate::{
    chunks::ChunksError,
    disk::DiskError,
    network::NetworkError,
    snapshots::{ContentsError, SnapshotError},
};

/// Why a sandbox did not come up, or is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The runtime's image cannot be opened.
    #[error("open the runtime image")]
    Runtime(#[source] ChunksError),
    /// The function is pinned to a version of its runtime that the node does not have.
    #[error("the function is pinned to version {pinned} of its runtime, and this Tinderbox node has {here}")]
    OtherRuntime {
        /// The version that it is pinned to.
        pinned: String,
        /// The node's.
        here: String,
    },
    /// The version of a runtime cannot be told.
    #[error("read the runtime image's version")]
    UnknownRuntime(#[source] std::io::Error),
    /// The code image cannot be opened.
    #[error("open the code image")]
    Code(#[source] ChunksError),
    /// The guest's kernel or initrd cannot be opened.
    #[error("open {}", path.display())]
    Kernel {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no /tmp for it.
    #[error("make the function's /tmp")]
    Scratch(#[from] ScratchError),
    /// A socket or pipe cannot be made.
    #[error("make the sandbox's sockets")]
    Sockets(#[from] io::Error),
    /// A snapshot's files cannot be opened or kept.
    #[error("use the snapshot")]
    Snapshot(#[from] SnapshotError),
    /// What a snapshot consists of cannot be opened.
    #[error("open the snapshot")]
    Contents(#[from] ContentsError),
    /// It has no network, and its function may go somewhere.
    #[error("connect the sandbox with the network")]
    Network(#[from] NetworkError),
    /// The VMM failed or refused.
    #[error("run the machine")]
    Vmm(#[from] VmmError),
    /// The guest failed or is not to be trusted.
    #[error("bring up the guest")]
    Guest(#[from] GuestError),
    /// Somebody needs its room.
    #[error("it was in somebody's way")]
    Stopped,
    /// Nothing came in time.
    #[error("the guest did not {what} within {} s", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
}

impl SandboxError {
    /// Whether the disk has no room for another sandbox.
    pub(crate) fn is_full_disk(&self) -> bool {
        matches!(self, Self::Scratch(ScratchError::Room(DiskError::Full { .. })))
    }

    /// Whether another sandbox may have more luck: the machine ran, but this one was lost.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Guest(_) | Self::TimedOut { .. } | Self::Vmm(VmmError::Ended(_) | VmmError::Control(_))
        )
    }

    /// Whether the snapshot that was resumed is of no use here: no file, or nothing that the VMM takes.
    pub(crate) fn is_unusable_snapshot(&self) -> bool {
        matches!(self, Self::Contents(_) | Self::Vmm(VmmError::Refused { request: LOAD, .. }))
    }
}
