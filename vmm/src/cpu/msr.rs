//! Model-specific registers: those whose value after reset is not what Linux expects of firmware, and all of them, to be
//! saved and put back.

use std::sync::Arc;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

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

/// Numbers of all MSRs that are saved, in the order in which they are set.
pub(crate) type MsrIndices = Arc<[u32]>;

/// `IA32_TIME_STAMP_COUNTER`.
const TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: arms a timer relative to the TSC.
const TSC_DEADLINE: u32 = 0x6e0;
/// `MSR_KVM_WALL_CLOCK`, old and new: setting it makes KVM write the time to guest memory, once. A guest that wants to know
/// again sets it again.
const KVM_WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];
/// Memory types (SDM 3A §12.11): variable ranges, fixed ranges, default. KVM keeps them and older versions do not list them.
const MTRRS: [std::ops::RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];
/// Four MSRs for each machine check bank (SDM 3B §16.3.2); KVM has up to 32 banks and lists none.
const MACHINE_CHECK_BANKS: std::ops::RangeInclusive<u32> = 0x400..=0x47f;
/// What a host's processor and KVM can do, told to guests that know from CPUID to ask (SDM 4, table 2-2):
/// `IA32_ARCH_CAPABILITIES` and `IA32_PERF_CAPABILITIES`. No guest of ours does (`baseline`); hosts differ in them, and KVM
/// refuses those of another host. Each vCPU keeps what KVM has given it.
const OF_THE_HOST: [u32; 2] = [0x10a, 0x345];
/// Entries handed to KVM at once; it takes at most 256.
const AT_ONCE: usize = 128;
/// Most that a vCPU may have: KVM lists under 250, and there are 150 of the above.
pub(super) const MOST: usize = 1024;

/// Asks KVM which MSRs it saves and adds the others that it keeps.
///
/// # Errors
/// KVM's.
pub(crate) fn indices(kvm: &Kvm) -> Result<MsrIndices, kvm_ioctls::Error> {
    Ok(in_order(kvm.get_msr_index_list()?.as_slice()))
}

/// The TSC first and the deadline last: a deadline is turned into a timer when it is set, by the TSC of that moment.
fn in_order(listed: &[u32]) -> MsrIndices {
    let more = MTRRS.into_iter().flatten().chain(MACHINE_CHECK_BANKS);
    let left_out =
        |index: &u32| *index == TSC || KVM_WALL_CLOCK.contains(index) || OF_THE_HOST.contains(index);
    let mut all: Vec<u32> = listed.iter().copied().chain(more).filter(|index| !left_out(index)).collect();
    all.sort_unstable_by_key(|&index| (index == TSC_DEADLINE, index));
    all.dedup();
    std::iter::once(TSC).chain(all).collect()
}

/// Arms the timer of a vCPU whose deadline has passed to fire at once.
///
/// KVM clears the deadline when it has passed and keeps a mark of its own until it puts the interrupt into the local APIC,
/// which may have been copied out before. A guest whose timer is never heard of again arms no later one. An interrupt too
/// many, in a guest that had no deadline, does nothing but look at the clock.
pub(crate) fn catch_up(saved: &mut [kvm_msr_entry]) {
    let Some(now) = saved.iter().find(|msr| msr.index == TSC).map(|msr| msr.data) else { return };
    if let Some(deadline) = saved.iter_mut().find(|msr| msr.index == TSC_DEADLINE && msr.data == 0) {
        deadline.data = now;
    }
}

/// The values of those of `indices` that this vCPU has.
///
/// # Errors
/// KVM's.
pub(crate) fn read(vcpu: &VcpuFd, index: u8, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, CpuError> {
    let mut values = Vec::with_capacity(indices.len());
    for mut rest in indices.chunks(AT_ONCE) {
        while !rest.is_empty() {
            let entries: Vec<_> =
                rest.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
            let mut table = table(&entries)?;
            let read = vcpu.get_msrs(&mut table).map_err(|source| CpuError::Kvm {
                what: "read the MSRs",
                index,
                source,
            })?;
            values.extend(table.as_slice().iter().take(read));
            // KVM stops at one that this vCPU does not have.
            rest = rest.get(read + 1..).unwrap_or_default();
        }
    }
    Ok(values)
}

/// Sets the saved MSRs of a vCPU whose values are `fresh`.
///
/// # Errors
/// KVM refuses one whose value matters.
pub(crate) fn restore(
    vcpu: &VcpuFd,
    index: u8,
    saved: &[kvm_msr_entry],
    fresh: &[kvm_msr_entry],
) -> Result<(), CpuError> {
    for mut rest in changed(saved, fresh).chunks(AT_ONCE) {
        while !rest.is_empty() {
            let set = vcpu.set_msrs(&table(rest)?).map_err(|source| CpuError::Kvm {
                what: "set the MSRs",
                index,
                source,
            })?;
            // A host without the MSR is as good as one where it is zero.
            if let Some(refused) = rest.get(set).filter(|msr| msr.data != 0) {
                return Err(CpuError::MsrRefused { index: refused.index });
            }
            rest = rest.get(set + 1..).unwrap_or_default();
        }
    }
    Ok(())
}

/// The first saved MSR that has a value and is none of `fresh`, those that a vCPU has here.
pub(super) fn missing(saved: &[kvm_msr_entry], fresh: &[kvm_msr_entry]) -> Option<u32> {
    let is_here = |msr: &kvm_msr_entry| fresh.iter().any(|fresh| fresh.index == msr.index);
    let matters = |msr: &&kvm_msr_entry| msr.data != 0 && !OF_THE_HOST.contains(&msr.index);
    saved.iter().filter(matters).find(|msr| !is_here(msr)).map(|msr| msr.index)
}

/// The saved MSRs that are not so already; most of a hundred are not touched by Linux. Time moves on, so it always counts.
///
/// Both lists are in the order of [`indices`], so what is found in `fresh` need not be looked at again.
fn changed(saved: &[kvm_msr_entry], fresh: &[kvm_msr_entry]) -> Vec<kvm_msr_entry> {
    let mut fresh = fresh.iter();
    let mut is_so = |msr: &kvm_msr_entry| {
        let mut ahead = fresh.clone();
        let found = ahead.find(|fresh| fresh.index == msr.index);
        if found.is_some() {
            fresh = ahead;
        }
        found.is_some_and(|fresh| fresh.data == msr.data)
    };
    let always = |msr: &kvm_msr_entry| msr.index == TSC || msr.index == TSC_DEADLINE;
    let taken = |msr: &&kvm_msr_entry| !OF_THE_HOST.contains(&msr.index) && (!is_so(msr) || always(msr));
    saved.iter().filter(taken).copied().collect()
}

fn table(entries: &[kvm_msr_entry]) -> Result<Msrs, CpuError> {
    // AT_ONCE is within KVM's bound.
    Msrs::from_entries(entries).map_err(|_| CpuError::TooManyMsrs(entries.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry { index, data, ..Default::default() }
    }

    #[test]
    fn the_deadline_comes_last_and_the_tsc_first() {
        let order = in_order(&[TSC_DEADLINE, 0xc000_0080, TSC, 0x2ff, 0x11, 0x1a0, 0x10a]);
        assert_eq!((order.first(), order.last()), (Some(&TSC), Some(&TSC_DEADLINE)));
        assert_eq!(order.iter().filter(|&&index| index == 0x2ff).count(), 1);
        assert!(order.contains(&0x403) && order.contains(&0xc000_0080) && !order.contains(&0x11));
        assert!(!order.contains(&0x10a), "the host's own");
    }

    #[test]
    fn an_msr_that_a_host_lacks_matters_when_it_is_set() {
        let fresh = [msr(TSC, 5), msr(0x277, 6)];
        let check = |saved: &[kvm_msr_entry], expected| assert_eq!(missing(saved, &fresh), expected);
        check(&[msr(TSC, 9), msr(0x277, 0)], None);
        check(&[msr(TSC, 9), msr(0x1a0, 0), msr(0x10a, 1)], None);
        check(&[msr(TSC, 9), msr(0x1a0, 1), msr(0x1a1, 1)], Some(0x1a0));
    }

    #[test]
    fn a_deadline_that_has_passed_comes_at_once() {
        let mut passed = [msr(TSC, 500), msr(0x277, 6), msr(TSC_DEADLINE, 0)];
        catch_up(&mut passed);
        assert_eq!(passed, [msr(TSC, 500), msr(0x277, 6), msr(TSC_DEADLINE, 500)]);
        let mut ahead = [msr(TSC, 500), msr(TSC_DEADLINE, 900)];
        catch_up(&mut ahead);
        assert_eq!(ahead, [msr(TSC, 500), msr(TSC_DEADLINE, 900)]);
        let mut without = [msr(TSC, 500)];
        catch_up(&mut without);
        assert_eq!(without, [msr(TSC, 500)]);
    }

    #[test]
    fn only_what_differs_is_set_and_time_always() {
        let fresh = [msr(TSC, 5), msr(0x277, 6), msr(0x1a0, 1), msr(TSC_DEADLINE, 0)];
        let saved = [
            msr(TSC, 5),
            msr(0x277, 6),
            msr(0x4b56_4d01, 0),
            msr(0x10a, 1),
            msr(0x1a0, 2),
            msr(TSC_DEADLINE, 0),
        ];
        let set: Vec<_> = changed(&saved, &fresh).iter().map(|msr| msr.index).collect();
        assert_eq!(set, [TSC, 0x4b56_4d01, 0x1a0, TSC_DEADLINE]);
    }
}
