//! Numbers of the ioctls that are made after the system call filters are up, for the filters' rules: `linux/kvm.h` and
//! `linux/userfaultfd.h`, put together from direction, type, number and length as those headers do it.

use std::mem::size_of;

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_dirty_log, kvm_ioeventfd, kvm_irqchip, kvm_irqfd,
    kvm_lapic_state, kvm_mp_state, kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// Types of `_IOC`: KVM's and userfaultfd's.
const KVM: u32 = 0xae;
const UFFD: u32 = 0xaa;

const fn none(group: u32, number: u32) -> u32 {
    group << 8 | number
}

const fn read<T>(group: u32, number: u32) -> u32 {
    2 << 30 | (size_of::<T>() as u32) << 16 | none(group, number)
}

const fn write<T>(group: u32, number: u32) -> u32 {
    1 << 30 | (size_of::<T>() as u32) << 16 | none(group, number)
}

const fn both<T>(group: u32, number: u32) -> u32 {
    read::<T>(group, number) | 1 << 30
}

pub(crate) const KVM_RUN: u32 = none(KVM, 0x80);
pub(crate) const KVM_KVMCLOCK_CTRL: u32 = none(KVM, 0xad);

pub(crate) const KVM_GET_REGS: u32 = read::<kvm_regs>(KVM, 0x81);
pub(crate) const KVM_SET_REGS: u32 = write::<kvm_regs>(KVM, 0x82);
pub(crate) const KVM_GET_SREGS: u32 = read::<kvm_sregs>(KVM, 0x83);
pub(crate) const KVM_SET_SREGS: u32 = write::<kvm_sregs>(KVM, 0x84);
pub(crate) const KVM_GET_MSRS: u32 = both::<kvm_msrs>(KVM, 0x88);
pub(crate) const KVM_SET_MSRS: u32 = write::<kvm_msrs>(KVM, 0x89);
pub(crate) const KVM_GET_LAPIC: u32 = read::<kvm_lapic_state>(KVM, 0x8e);
pub(crate) const KVM_SET_LAPIC: u32 = write::<kvm_lapic_state>(KVM, 0x8f);
pub(crate) const KVM_SET_CPUID2: u32 = write::<kvm_cpuid2>(KVM, 0x90);
pub(crate) const KVM_GET_MP_STATE: u32 = read::<kvm_mp_state>(KVM, 0x98);
pub(crate) const KVM_SET_MP_STATE: u32 = write::<kvm_mp_state>(KVM, 0x99);
pub(crate) const KVM_GET_VCPU_EVENTS: u32 = read::<kvm_vcpu_events>(KVM, 0x9f);
pub(crate) const KVM_SET_VCPU_EVENTS: u32 = write::<kvm_vcpu_events>(KVM, 0xa0);
pub(crate) const KVM_GET_DEBUGREGS: u32 = read::<kvm_debugregs>(KVM, 0xa1);
pub(crate) const KVM_SET_DEBUGREGS: u32 = write::<kvm_debugregs>(KVM, 0xa2);
pub(crate) const KVM_SET_TSC_KHZ: u32 = none(KVM, 0xa2);
pub(crate) const KVM_GET_TSC_KHZ: u32 = none(KVM, 0xa3);
pub(crate) const KVM_GET_XSAVE: u32 = read::<kvm_xsave>(KVM, 0xa4);
pub(crate) const KVM_SET_XSAVE: u32 = write::<kvm_xsave>(KVM, 0xa5);
pub(crate) const KVM_GET_XCRS: u32 = read::<kvm_xcrs>(KVM, 0xa6);
pub(crate) const KVM_SET_XCRS: u32 = write::<kvm_xcrs>(KVM, 0xa7);

pub(crate) const KVM_GET_DIRTY_LOG: u32 = write::<kvm_dirty_log>(KVM, 0x42);
pub(crate) const KVM_SET_USER_MEMORY_REGION: u32 = write::<kvm_userspace_memory_region>(KVM, 0x46);
pub(crate) const KVM_GET_IRQCHIP: u32 = both::<kvm_irqchip>(KVM, 0x62);
/// The header says "read" though the kernel is given the data; it has stayed so.
pub(crate) const KVM_SET_IRQCHIP: u32 = read::<kvm_irqchip>(KVM, 0x63);
pub(crate) const KVM_IRQFD: u32 = write::<kvm_irqfd>(KVM, 0x76);
pub(crate) const KVM_IOEVENTFD: u32 = write::<kvm_ioeventfd>(KVM, 0x79);
pub(crate) const KVM_SET_CLOCK: u32 = write::<kvm_clock_data>(KVM, 0x7b);
pub(crate) const KVM_GET_CLOCK: u32 = read::<kvm_clock_data>(KVM, 0x7c);

pub(crate) const USERFAULTFD_IOC_NEW: u32 = none(UFFD, 0);
pub(crate) const UFFDIO_API: u32 = both::<[u64; 3]>(UFFD, 0x3f);
pub(crate) const UFFDIO_REGISTER: u32 = both::<[u64; 4]>(UFFD, 0);
/// "Read" as well, see above.
pub(crate) const UFFDIO_WAKE: u32 = read::<[u64; 2]>(UFFD, 2);
pub(crate) const UFFDIO_COPY: u32 = both::<[u64; 5]>(UFFD, 3);
pub(crate) const UFFDIO_ZEROPAGE: u32 = both::<[u64; 4]>(UFFD, 4);

#[cfg(test)]
mod tests {
    use super::*;

    /// As `strace` and the kernel's documentation print them.
    #[test]
    fn the_numbers_are_the_well_known_ones() {
        assert_eq!([KVM_RUN, KVM_KVMCLOCK_CTRL], [0xae80, 0xaead]);
        assert_eq!([KVM_GET_REGS, KVM_SET_SREGS], [0x8090_ae81, 0x4138_ae84]);
        assert_eq!([KVM_GET_MSRS, KVM_SET_MSRS], [0xc008_ae88, 0x4008_ae89]);
        assert_eq!([KVM_GET_IRQCHIP, KVM_SET_IRQCHIP], [0xc208_ae62, 0x8208_ae63]);
        assert_eq!([KVM_IRQFD, KVM_IOEVENTFD], [0x4020_ae76, 0x4040_ae79]);
        assert_eq!([UFFDIO_API, UFFDIO_COPY, UFFDIO_WAKE], [0xc018_aa3f, 0xc028_aa03, 0x8010_aa02]);
    }
}
