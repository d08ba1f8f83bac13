//! Which processor the guest sees: KVM's supported features, made consistent with the machine that the guest has.
//!
//! Pure, and a table of decisions rather than a copy of the host: one package, one thread a core, as many cores as
//! vCPUs, APIC id = index. Hidden: performance counters, nested virtualisation, SGX, processor trace, resource
//! directors, memory encryption, MONITOR, the host's frequency and its brand. Kept: the instruction sets, KVM's
//! own leaves (kvm-clock), the invariant TSC.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// What distinguishes one vCPU's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    /// vCPUs of the machine, 1 to 16.
    pub count: u8,
    /// This vCPU, also its APIC id.
    pub index: u8,
}

impl Topology {
    /// APIC ids that the package spans: the count, rounded up to a power of two.
    fn id_span(self) -> u32 {
        u32::from(self.count).next_power_of_two()
    }

    fn id_bits(self) -> u32 {
        self.id_span().trailing_zeros()
    }
}

/// Whether KVM emulates the TSC deadline timer (`KVM_CAP_TSC_DEADLINE_TIMER`); `KVM_GET_SUPPORTED_CPUID` does not say
/// so by itself on every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadlineTimer {
    /// Offer it.
    Emulated,
    /// Hide it.
    Missing,
}

const VENDOR_AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
const VENDOR_HYGON: [u32; 3] = [0x6f67_7948, 0x656e_6975, 0x6e65_476e];

/// Names for leaves 0x8000_0002 to 4, zero-padded to 48 bytes: programs look for the vendor in them, and a name of our
/// own would look like a processor that nobody knows.
const BRAND_AMD: &str = "AMD EPYC Processor";
const BRAND_INTEL: &str = "Intel(R) Xeon(R) Processor";

/// CPUID.1:ECX.
mod ecx1 {
    pub(super) const DTES64: u32 = 1 << 2;
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const DS_CPL: u32 = 1 << 4;
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const SMX: u32 = 1 << 6;
    pub(super) const EIST: u32 = 1 << 7;
    pub(super) const TM2: u32 = 1 << 8;
    pub(super) const PDCM: u32 = 1 << 15;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
    pub(super) const HIDDEN: u32 = DTES64 | MONITOR | DS_CPL | VMX | SMX | EIST | TM2 | PDCM | TSC_DEADLINE;
}

/// CPUID.1:EDX.
mod edx1 {
    pub(super) const DS: u32 = 1 << 21;
    pub(super) const ACPI_THERMAL: u32 = 1 << 22;
    pub(super) const HTT: u32 = 1 << 28;
    pub(super) const TM: u32 = 1 << 29;
    pub(super) const HIDDEN: u32 = DS | ACPI_THERMAL | HTT | TM;
}

/// CPUID.7.0.
mod leaf7 {
    pub(super) const EBX_SGX: u32 = 1 << 2;
    pub(super) const EBX_RDT_MONITORING: u32 = 1 << 12;
    pub(super) const EBX_RDT_ALLOCATION: u32 = 1 << 15;
    pub(super) const EBX_PROCESSOR_TRACE: u32 = 1 << 25;
    pub(super) const ECX_SGX_LAUNCH: u32 = 1 << 30;
    pub(super) const EBX_HIDDEN: u32 =
        EBX_SGX | EBX_RDT_MONITORING | EBX_RDT_ALLOCATION | EBX_PROCESSOR_TRACE;
}

/// CPUID.0x8000_0001:ECX (AMD APM 3, appendix E.4.2).
mod extended {
    pub(super) const SVM: u32 = 1 << 2;
    pub(super) const EXTENDED_APIC: u32 = 1 << 3;
    pub(super) const IBS: u32 = 1 << 10;
    pub(super) const SKINIT: u32 = 1 << 12;
    pub(super) const WATCHDOG: u32 = 1 << 13;
    pub(super) const LWP: u32 = 1 << 15;
    pub(super) const PERF_CORE: u32 = 1 << 23;
    pub(super) const PERF_NB: u32 = 1 << 24;
    pub(super) const PERF_TSC: u32 = 1 << 27;
    pub(super) const PERF_LLC: u32 = 1 << 28;
    pub(super) const MONITORX: u32 = 1 << 29;
    pub(super) const HIDDEN: u32 = SVM
        | EXTENDED_APIC
        | IBS
        | SKINIT
        | WATCHDOG
        | LWP
        | PERF_CORE
        | PERF_NB
        | PERF_TSC
        | PERF_LLC
        | MONITORX;
}

/// CPUID.6:EAX: the APIC timer never stops.
const ARAT: u32 = 1 << 2;
/// CPUID.0x8000_0007:EDX: the TSC runs at one rate.
const INVARIANT_TSC: u32 = 1 << 8;
/// Cache lines of 64 bytes in CPUID.1:EBX's unit of 8.
const CLFLUSH_UNITS: u32 = 8;
/// Level types of leaf 0xB.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Leaves that describe what the guest does not have. They read as zeros.
const EMPTY_LEAVES: [u32; 12] = [
    0x5,         // MONITOR/MWAIT
    0xa,         // performance counters
    0xf,         // resource monitoring
    0x10,        // resource allocation
    0x12,        // SGX
    0x14,        // processor trace
    0x15,        // TSC and crystal clock of the host: kvm-clock says the TSC's rate
    0x16,        // frequencies
    0x8000_000a, // SVM
    0x8000_001b, // instruction based sampling
    0x8000_001f, // memory encryption
    0x8000_0022, // performance counters, version 2
];

/// Leaves that are left out: second descriptions of the topology, and vendors' ranges that no Linux reads.
fn is_left_out(function: u32) -> bool {
    matches!(function, 0xb | 0x1f | 0x8000_0026 | 0x8000_0002..=0x8000_0004 | 0xc000_0000..)
}

/// The table for one vCPU from KVM's supported one.
#[must_use]
pub(crate) fn normalise(
    supported: &[kvm_cpuid_entry2],
    topology: Topology,
    timer: DeadlineTimer,
) -> Vec<kvm_cpuid_entry2> {
    let amd = is_amd(supported);
    let mut table: Vec<_> = supported.iter().copied().filter(|entry| !is_left_out(entry.function)).collect();
    for entry in &mut table {
        adapt(entry, topology, timer);
    }
    table.extend(topology_leaves(topology));
    table.extend(brand_leaves(if amd { BRAND_AMD } else { BRAND_INTEL }));
    table
}

fn is_amd(supported: &[kvm_cpuid_entry2]) -> bool {
    supported
        .iter()
        .find(|entry| entry.function == 0)
        .map(|entry| [entry.ebx, entry.edx, entry.ecx])
        .is_some_and(|vendor| vendor == VENDOR_AMD || vendor == VENDOR_HYGON)
}

fn adapt(entry: &mut kvm_cpuid_entry2, topology: Topology, timer: DeadlineTimer) {
    let id = u32::from(topology.index);
    match entry.function {
        0x1 => adapt_features(entry, topology, timer),
        // A type of 0 (bits 0 to 4) ends the list of caches.
        0x4 if entry.eax & 0x1f != 0 => {
            entry.eax =
                entry.eax & 0x3fff | sharing(entry.eax, topology) << 14 | (topology.id_span() - 1) << 26;
        }
        0x6 => set(entry, [entry.eax & ARAT, 0, 0, 0]),
        0x7 if entry.index == 0 => {
            entry.ebx &= !leaf7::EBX_HIDDEN;
            entry.ecx &= !leaf7::ECX_SGX_LAUNCH;
        }
        0x8000_0001 => entry.ecx &= !extended::HIDDEN,
        0x8000_0007 => set(entry, [0, 0, 0, entry.edx & INVARIANT_TSC]),
        // Physical and linear address widths and feature bits stay KVM's.
        0x8000_0008 => {
            entry.eax &= 0xffff;
            entry.ecx = (u32::from(topology.count) - 1) | (topology.id_bits() << 12);
            entry.edx = 0;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(entry.eax, topology) << 14;
        }
        // One thread a core, one node a package.
        0x8000_001e => set(entry, [id, id, 0, 0]),
        function if EMPTY_LEAVES.contains(&function) => set(entry, [0; 4]),
        _ => {}
    }
}

fn adapt_features(entry: &mut kvm_cpuid_entry2, topology: Topology, timer: DeadlineTimer) {
    entry.ebx =
        u32::from(topology.index) << 24 | topology.id_span() << 16 | CLFLUSH_UNITS << 8 | entry.ebx & 0xff;
    entry.ecx = entry.ecx & !ecx1::HIDDEN | ecx1::HYPERVISOR;
    if timer == DeadlineTimer::Emulated {
        entry.ecx |= ecx1::TSC_DEADLINE;
    }
    entry.edx &= !edx1::HIDDEN;
    if topology.count > 1 {
        entry.edx |= edx1::HTT;
    }
}

/// Logical processors, less one, that share a cache of this level (bits 5 to 7): all of them the third, one the others.
fn sharing(eax: u32, topology: Topology) -> u32 {
    if eax >> 5 & 0b111 >= 3 { topology.id_span() - 1 } else { 0 }
}

fn topology_leaves(topology: Topology) -> [kvm_cpuid_entry2; 3] {
    let id = u32::from(topology.index);
    let leaf = |index, eax, ebx, level: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | level << 8,
        edx: id,
        ..Default::default()
    };
    [
        leaf(0, 0, 1, LEVEL_THREAD),
        leaf(1, topology.id_bits(), u32::from(topology.count), LEVEL_CORE),
        leaf(2, 0, 0, 0),
    ]
}

fn brand_leaves(brand: &str) -> [kvm_cpuid_entry2; 3] {
    let mut text = [0u8; 48];
    for (to, from) in text.iter_mut().zip(brand.bytes()) {
        *to = from;
    }
    let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    [0usize, 1, 2].map(|n| {
        let at = n * 16;
        let mut entry = kvm_cpuid_entry2 { function: 0x8000_0002 + n as u32, ..Default::default() };
        set(&mut entry, [word(at), word(at + 4), word(at + 8), word(at + 12)]);
        entry
    })
}

fn set(entry: &mut kvm_cpuid_entry2, [eax, ebx, ecx, edx]: [u32; 4]) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 { function, index, ..Default::default() };
        set(&mut entry, registers);
        entry
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = table.iter().filter(|e| e.function == function && e.index == index);
        let first = *found.next().expect("leaf present");
        assert!(found.next().is_none(), "leaf {function:#x}.{index} twice");
        first
    }

    /// A host that has everything.
    fn host() -> Vec<kvm_cpuid_entry2> {
        let all = [u32::MAX; 4];
        let mut host = vec![entry(0, 0, [0x20, VENDOR_AMD[0], VENDOR_AMD[2], VENDOR_AMD[1]])];
        host.extend(
            [1, 5, 6, 7, 0xa, 0x14, 0x1f, 0x8000_0001, 0x8000_0007, 0x8000_0008].map(|f| entry(f, 0, all)),
        );
        host.extend([0xb, 0x8000_0002, 0x8000_000a, 0x8000_001e, 0xc000_0000].map(|f| entry(f, 0, all)));
        host.extend(
            [0x21, 0x42, 0x63, 0x0]
                .into_iter()
                .zip(0..)
                .map(|(eax, n)| entry(4, n, [eax | 0xfc00_0000, 0, 0, 0])),
        );
        host
    }

    proptest! {
        #[test]
        fn the_topology_is_the_same_wherever_it_is_told(count in 1u8..=16, index in 0u8..16) {
            prop_assume!(index < count);
            let topology = Topology { count, index };
            let table = normalise(&host(), topology, DeadlineTimer::Emulated);
            let basic = find(&table, 1, 0);
            prop_assert_eq!(basic.ebx >> 24, u32::from(index));
            prop_assert_eq!(basic.edx & edx1::HTT != 0, count > 1);
            let core = find(&table, 0xb, 1);
            prop_assert_eq!(core.ebx, u32::from(count));
            prop_assert_eq!(1u32 << core.eax, basic.ebx >> 16 & 0xff);
            prop_assert!(u32::from(index) < 1 << core.eax);
            prop_assert_eq!(find(&table, 0x8000_0008, 0).ecx & 0xff, u32::from(count) - 1);
            prop_assert_eq!(find(&table, 0x8000_001e, 0).eax, u32::from(index));
            prop_assert_eq!(find(&table, 4, 2).eax >> 14 & 0xfff, (1 << core.eax) - 1, "the third level is shared");
            prop_assert_eq!(find(&table, 4, 1).eax >> 14 & 0xfff, 0, "the second is not");
        }
    }

    #[test]
    fn the_host_does_not_shine_through() {
        let table = normalise(&host(), Topology { count: 2, index: 1 }, DeadlineTimer::Missing);
        let basic = find(&table, 1, 0);
        assert_eq!(basic.ecx & (ecx1::VMX | ecx1::PDCM | ecx1::MONITOR | ecx1::TSC_DEADLINE), 0);
        assert_eq!(find(&table, 0x8000_0001, 0).ecx & extended::SVM, 0);
        for empty in [5, 0xa, 0x14, 0x8000_000a] {
            let leaf = find(&table, empty, 0);
            assert_eq!([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx], [0; 4], "leaf {empty:#x}");
        }
        assert!(table.iter().all(|e| e.function != 0x1f && e.function < 0xc000_0000));
        assert_eq!(find(&table, 0x8000_0002, 0).eax.to_le_bytes(), *b"AMD ");
    }
}
