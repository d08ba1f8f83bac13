//! What a vCPU is before its first instruction: features (`cpuid`), registers (`registers`), model-specific registers
//! (`msr`). Called by `machine` for each vCPU, in that order, because KVM checks the later against the earlier.

pub(crate) mod cpuid;
mod msr;
mod registers;

pub(crate) use msr::set_boot_msrs;
pub(crate) use registers::{set_boot_registers, set_local_interrupts, write_boot_tables};

/// A vCPU that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpuError {
    /// A KVM request failed.
    #[error("{what} of vCPU {index}")]
    Kvm {
        /// Which.
        what: &'static str,
        /// Of which vCPU.
        index: u8,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// More CPUID entries than KVM takes.
    #[error("fit {0} CPUID entries into KVM's table")]
    TooManyEntries(usize),
    /// KVM refused an MSR that Linux cannot boot without.
    #[error("set MSR {index:#x}, which the host's KVM refuses")]
    MsrRefused {
        /// Its number.
        index: u32,
    },
    /// Boot structures could not be written.
    #[error("write the boot vCPU's tables into guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}
