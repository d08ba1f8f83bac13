//! Sections of a snapshot that are neither a device's nor a vCPU's: the machine's shape, its interrupt controllers and
//! clock, what the client wants to know it by.

use kvm_bindings::kvm_irqchip;
use serde::{Deserialize, Serialize};
use snapshot::SavedState;

use crate::cpu::Raw;

/// Which machine this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineState {
    /// vCPUs; as many sections of theirs follow.
    pub vcpu_count: u8,
    /// Memory, MiB.
    pub mem_size_mib: u32,
    /// virtio devices, by slot. Section numbers of theirs are slots.
    pub devices: Vec<DeviceKind>,
}

/// Which device is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeviceKind {
    /// Section `block`.
    Block,
    /// Section `vsock`.
    Vsock,
    /// No section.
    Entropy,
}

impl SavedState for MachineState {
    const NAME: &'static str = "machine";
    const VERSION: u32 = 1;
}

/// What KVM keeps for all vCPUs together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlatformState {
    /// Both PICs and the IOAPIC, in KVM's order.
    pub irqchips: Vec<Raw<kvm_irqchip>>,
    /// kvm-clock, nanoseconds. It goes on from here: the wall clock that passed is not added, for a guest whose timers all
    /// end at once because its snapshot lay on a disk for a week would be none the better for it. The wall clock itself is
    /// set by the gate.
    pub clock_ns: u64,
}

impl SavedState for PlatformState {
    const NAME: &'static str = "platform";
    const VERSION: u32 = 1;
}

/// What the snapshot depends on, as its client said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityState {
    /// Names and values.
    pub entries: Vec<(String, String)>,
}

impl SavedState for IdentityState {
    const NAME: &'static str = "identity";
    const VERSION: u32 = 1;
}
