//! A vCPU at rest, copied out of KVM and put back. Called by the vCPU's own thread, which holds its descriptor.
//!
//! The order of putting back is KVM's: what is checked against something comes after it.
//!
//! ```text
//! CPUID ─► TSC rate ─► run state, registers, special registers (APIC base) ─► XCR0, XSAVE, debug registers
//!                        └─► local APIC (needs its base) ─► MSRs (TSC, ..., deadline: needs the APIC's timer mode and
//!                              the TSC) ─► events last: they hold interrupts under way, which the others would disturb
//! ```

use kvm_bindings::{
    CpuId, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use snapshot::SavedState;

use super::msr;
use super::raw::{Raw, RawList};
use super::{CpuError, FreshCpu};

/// A saved vCPU. XSAVE is KVM's legacy area of 4 KiB: larger ones belong to features (AMX) that a process has to ask the
/// kernel for, which this one does not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VcpuState {
    /// What the guest was told of its processor.
    pub cpuid: RawList<kvm_cpuid_entry2>,
    /// The guest's TSC rate; zero when the host does not say.
    pub tsc_khz: u32,
    /// Running, halted, waiting for INIT or SIPI.
    pub mp_state: Raw<kvm_mp_state>,
    /// General registers.
    pub regs: Raw<kvm_regs>,
    /// Segments, control registers, EFER, APIC base.
    pub sregs: Raw<kvm_sregs>,
    /// FPU and vector registers.
    pub xsave: Box<Raw<kvm_xsave>>,
    /// Extended control registers.
    pub xcrs: Raw<kvm_xcrs>,
    /// Debug registers.
    pub debug_regs: Raw<kvm_debugregs>,
    /// The local APIC's registers.
    pub lapic: Box<Raw<kvm_lapic_state>>,
    /// Model-specific registers, in the order they are set.
    pub msrs: RawList<kvm_msr_entry>,
    /// Exceptions and interrupts under way.
    pub events: Raw<kvm_vcpu_events>,
}

impl SavedState for VcpuState {
    const NAME: &'static str = "vcpu";
    const VERSION: u32 = 1;
}

/// Copies a vCPU out.
///
/// # Errors
/// KVM's.
pub(crate) fn save(vcpu: &VcpuFd, fresh: &FreshCpu, index: u8) -> Result<VcpuState, CpuError> {
    let failed = |what| move |source| CpuError::Kvm { what, index, source };
    // First: KVM finishes there what an INIT or SIPI has begun, which changes registers.
    let mp_state = vcpu.get_mp_state().map_err(failed("read the run state"))?;
    Ok(VcpuState {
        mp_state: Raw(mp_state),
        cpuid: RawList(fresh.cpuid.clone()),
        tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
        regs: Raw(vcpu.get_regs().map_err(failed("read the registers"))?),
        sregs: Raw(vcpu.get_sregs().map_err(failed("read the special registers"))?),
        xsave: Box::new(Raw(vcpu.get_xsave().map_err(failed("read the vector registers"))?)),
        xcrs: Raw(vcpu.get_xcrs().map_err(failed("read the extended control registers"))?),
        debug_regs: Raw(vcpu.get_debug_regs().map_err(failed("read the debug registers"))?),
        lapic: Box::new(Raw(vcpu.get_lapic().map_err(failed("read the local APIC"))?)),
        msrs: RawList(msrs(vcpu, fresh, index)?),
        events: Raw(vcpu.get_vcpu_events().map_err(failed("read the events"))?),
    })
}

/// After the local APIC: a timer that fires in between is caught up with.
fn msrs(vcpu: &VcpuFd, fresh: &FreshCpu, index: u8) -> Result<Vec<kvm_msr_entry>, CpuError> {
    let mut msrs = msr::read(vcpu, index, &fresh.msr_indices)?;
    msr::catch_up(&mut msrs);
    Ok(msrs)
}

/// Puts a state into a vCPU that has not run. `host` has found that it can be done, as far as that can be known.
///
/// # Errors
/// KVM's, and an MSR that this host does not take.
pub(crate) fn restore(
    vcpu: &VcpuFd,
    fresh: &mut FreshCpu,
    index: u8,
    state: &VcpuState,
) -> Result<(), CpuError> {
    let failed = |what| move |source| CpuError::Kvm { what, index, source };
    if fresh.cpuid != state.cpuid.0 {
        set_cpuid(vcpu, index, &state.cpuid.0)?;
        fresh.cpuid.clone_from(&state.cpuid.0);
    }
    if state.tsc_khz != 0 && state.tsc_khz != fresh.tsc_khz {
        vcpu.set_tsc_khz(state.tsc_khz).map_err(failed("set the TSC rate"))?;
    }
    vcpu.set_mp_state(state.mp_state.0).map_err(failed("set the run state"))?;
    vcpu.set_regs(&state.regs.0).map_err(failed("set the registers"))?;
    vcpu.set_sregs(&state.sregs.0).map_err(failed("set the special registers"))?;
    vcpu.set_xcrs(&state.xcrs.0).map_err(failed("set the extended control registers"))?;
    set_xsave(vcpu, &state.xsave.0).map_err(failed("set the vector registers"))?;
    vcpu.set_debug_regs(&state.debug_regs.0).map_err(failed("set the debug registers"))?;
    vcpu.set_lapic(&state.lapic.0).map_err(failed("set the local APIC"))?;
    msr::restore(vcpu, index, &state.msrs.0, &fresh.msrs)?;
    vcpu.set_vcpu_events(&state.events.0).map_err(failed("set the events"))
}

#[expect(unsafe_code, reason = "kvm-ioctls cannot know how long an XSAVE area KVM reads")]
fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: KVM_SET_XSAVE reads no more than sizeof(struct kvm_xsave) unless the process has been granted dynamic
    // features by arch_prctl, which this one never asks for.
    unsafe { vcpu.set_xsave(xsave) }
}

pub(crate) fn set_cpuid(vcpu: &VcpuFd, index: u8, entries: &[kvm_cpuid_entry2]) -> Result<(), CpuError> {
    let table = CpuId::from_entries(entries).map_err(|_| CpuError::TooManyEntries(entries.len()))?;
    vcpu.set_cpuid2(&table).map_err(|source| CpuError::Kvm { what: "set the CPUID", index, source })
}
