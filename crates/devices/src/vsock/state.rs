//! Saved form of the socket device. Queues are in the transport's state; connections are not saved.

use std::io;

use serde::{Deserialize, Serialize};
use snapshot::SavedState;

/// A saved [`Vsock`](super::Vsock).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The guest's address.
    pub guest_cid: u64,
    /// Where the search for a free host port goes on.
    pub next_host_port: u32,
}

impl SavedState for VsockState {
    const NAME: &'static str = "vsock";
    const VERSION: u32 = 1;
}

/// Why a saved socket device was refused.
#[derive(Debug, thiserror::Error)]
pub enum VsockRestoreError {
    /// Not an address of a guest.
    #[error("saved vsock address {0} is none that a guest can have")]
    GuestCid(u64),
    /// The device could not be set up.
    #[error("could not set up the socket device")]
    Io(#[from] io::Error),
}
