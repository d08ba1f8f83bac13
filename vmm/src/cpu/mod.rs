//! What a vCPU is before its first instruction: features (`cpuid`, limited by `baseline`), registers (`registers`),
//! model-specific registers (`msr`); how it is copied out and put back (`state`), and whether that can be done here (`host`).
//! Called by `machine` for each vCPU, in that order, because KVM checks the later against the earlier, and by the vCPU's
//! thread.

pub(crate) mod baseline;
pub(crate) mod cpuid;
pub(crate) mod host;
mod msr;
mod raw;
mod registers;
pub(crate) mod state;

use std::sync::Arc;

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};

pub(crate) use msr::{MsrIndices, indices as msr_indices, read as read_msrs, set_boot_msrs};
pub(crate) use raw::Raw;
#[cfg(test)]
pub(crate) use raw::RawList;
pub(crate) use registers::{set_boot_registers, set_local_interrupts, write_boot_tables};

/// What is known of a vCPU that has not run.
#[derive(Clone, Debug)]
pub(crate) struct FreshCpu {
    /// Its CPUID.
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    /// Its TSC rate; zero when the host does not say.
    pub(crate) tsc_khz: u32,
    /// The MSRs that this host's KVM saves.
    pub(crate) msr_indices: MsrIndices,
    /// Their values; none when nobody asked. A restore leaves out what is so already.
    pub(crate) msrs: Arc<[kvm_msr_entry]>,
}

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
    /// More MSRs than KVM takes at once.
    #[error("fit {0} MSRs into KVM's table")]
    TooManyMsrs(usize),
    /// Boot structures could not be written.
    #[error("write the boot vCPU's tables into guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}
