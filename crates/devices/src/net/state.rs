//! Saved form of the network device. Queues are in the transport's state; frames on their way are not saved.

use std::io;

use serde::{Deserialize, Serialize};
use snapshot::SavedState;

/// A saved [`Net`](super::Net).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// Whether the guest was told that its link is up.
    pub link_up: bool,
}

impl SavedState for NetState {
    const NAME: &'static str = "net";
    const VERSION: u32 = 1;
}

/// Why a saved network device was refused.
#[derive(Debug, thiserror::Error)]
pub enum NetRestoreError {
    /// Neighbours that the guest knows would not know it.
    #[error("saved network device has another Ethernet address: {0:02x?}")]
    Mac([u8; 6]),
    /// The device could not be set up.
    #[error("could not set up the network device")]
    Io(#[from] io::Error),
}
