//! Saved form of the generation devices. What guest memory holds of them is not looked at.

use serde::{Deserialize, Serialize};
use snapshot::SavedState;

/// A saved [`Generation`](super::Generation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationState {
    /// The generation id.
    pub id: [u8; 16],
    /// `seq_count` of the VMClock page; even.
    pub sequence: u32,
    /// `disruption_marker`.
    pub disruption_marker: u64,
    /// `vm_generation_counter`; 0 for a machine that was never resumed.
    pub counter: u64,
}

impl SavedState for GenerationState {
    const NAME: &'static str = "generation";
    const VERSION: u32 = 1;
}
