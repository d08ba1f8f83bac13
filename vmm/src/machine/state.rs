//! Sections of a snapshot that are neither a device's nor a vCPU's: the machine's shape, its interrupt controllers and
//! clock, what the client wants to know it by.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip};
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
    /// Section `net`.
    Net,
}

impl SavedState for MachineState {
    const NAME: &'static str = "machine";
    const VERSION: u32 = 2;
}

/// KVM's interrupt controllers, in the order in which they are saved and put back.
pub(super) const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// One of each; in a file a list, which may have too few or too many.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<Raw<kvm_irqchip>>", into = "Vec<Raw<kvm_irqchip>>")]
pub(crate) struct Irqchips(pub(super) [Raw<kvm_irqchip>; IRQCHIPS.len()]);

impl TryFrom<Vec<Raw<kvm_irqchip>>> for Irqchips {
    type Error = String;

    fn try_from(chips: Vec<Raw<kvm_irqchip>>) -> Result<Self, String> {
        let (found, expected) = (chips.len(), IRQCHIPS.len());
        let chips = chips.try_into().map_err(|_| format!("{found} interrupt controllers, not {expected}"));
        chips.map(Self)
    }
}

impl From<Irqchips> for Vec<Raw<kvm_irqchip>> {
    fn from(chips: Irqchips) -> Self {
        chips.0.into()
    }
}

/// What KVM keeps for all vCPUs together.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlatformState {
    /// Both PICs and the IOAPIC, in the order of [`IRQCHIPS`].
    pub irqchips: Irqchips,
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
