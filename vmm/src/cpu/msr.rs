//! Model-specific registers whose value after reset is not what Linux expects of firmware.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::CpuError;

/// `IA32_MISC_ENABLE` (SDM 4, table 2-2) with fast string operations on, as every BIOS leaves it.
const MISC_ENABLE: kvm_msr_entry = kvm_msr_entry { index: 0x1a0, reserved: 0, data: 1 };
/// `IA32_MTRR_DEF_TYPE` (SDM 3A §12.11.2.1): MTRRs on, memory without a range of its own is write-back. The value after
/// reset makes all memory uncached.
const MTRR_DEFAULT_TYPE: kvm_msr_entry = kvm_msr_entry { index: 0x2ff, reserved: 0, data: 1 << 11 | 6 };

struct BootMsr {
    entry: kvm_msr_entry,
    need: Need,
}

#[derive(PartialEq)]
enum Need {
    Required,
    /// KVM versions and hosts differ in whether they take it, and Linux copes.
    IfAccepted,
}

/// Everything else that the boot protocols ask for (SYSENTER, STAR, LSTAR, KERNEL_GS_BASE: zero) is KVM's reset value,
/// and `ARCH_CAPABILITIES` is set by KVM to what the host really has.
const BOOT_MSRS: [BootMsr; 2] = [
    BootMsr { entry: MTRR_DEFAULT_TYPE, need: Need::Required },
    BootMsr { entry: MISC_ENABLE, need: Need::IfAccepted },
];

/// Sets them on one vCPU.
///
/// # Errors
/// KVM refuses one that is required.
pub(crate) fn set_boot_msrs(vcpu: &VcpuFd, index: u8) -> Result<(), CpuError> {
    for msr in &BOOT_MSRS {
        // One entry always fits in KVM's table.
        let table =
            Msrs::from_entries(&[msr.entry]).map_err(|_| CpuError::MsrRefused { index: msr.entry.index })?;
        let accepted =
            vcpu.set_msrs(&table).map_err(|source| CpuError::Kvm { what: "set the MSRs", index, source })?;
        if accepted == 0 && msr.need == Need::Required {
            return Err(CpuError::MsrRefused { index: msr.entry.index });
        }
    }
    Ok(())
}
