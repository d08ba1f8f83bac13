//! Saved form of a block device: what the guest knows about it. Queues are in the transport's state.

use serde::{Deserialize, Serialize};
use snapshot::SavedState;

use super::BlockError;

/// A saved [`Block`](super::Block).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Serial, zero-padded.
    pub id: [u8; 20],
    /// Whether VIRTIO_BLK_F_RO was offered.
    pub read_only: bool,
    /// Capacity in sectors of 512 bytes.
    pub sectors: u64,
}

impl SavedState for BlockState {
    const NAME: &'static str = "block";
    const VERSION: u32 = 1;
}

/// Why a saved block device was refused.
#[derive(Debug, thiserror::Error)]
pub enum BlockRestoreError {
    /// The drive itself is at fault.
    #[error(transparent)]
    Drive(#[from] BlockError),
    /// Another disk would surprise the guest.
    #[error("drive differs from the saved one in id or access")]
    Mismatch,
}
