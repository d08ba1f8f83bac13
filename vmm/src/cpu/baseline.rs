//! The features that guests may be told of, by name: a table, and the host's processor cut down to it.
//!
//! A snapshot goes on where every feature that its guest was told of is there, so guests are told of no more than this: what
//! x86-64-v3 has, what comes with it in servers since 2019, and what KVM adds. Left out: AVX-512 and AMX (state that not
//! every host can hold), mitigations (the guest's kernel has none, see `configs/kernel`), transactional memory,
//! protection keys, and whatever is not known here. A host may have less than the table; then so has its guest.
//!
//! Asynchronous page faults (bits 4, 10 and 14 of KVM's leaf) would let a guest run something else while the host fetches a
//! page. Every first touch of a clone's memory is such a fault, and a guest of one processor pays an exception, an interrupt
//! and two switches for each of its processes' ones, to wait for what comes within microseconds. KVM lets it wait outside instead.

use kvm_bindings::kvm_cpuid_entry2;
use snapshot::{Feature, FeatureWord, Fingerprint, Mismatch, Register};

use Register::{Eax, Ebx, Ecx, Edx};

/// Of this table. A change of the table is a new name.
pub(crate) const NAME: &str = "x86-64-v3-server-2";

/// x87, SSE and AVX state: bits of XCR0.
const XCR0: u32 = 0b111;
/// Bytes of those with the header, SDM 1 §13.4.
const XSAVE_LEN: u32 = 512 + 64 + 256;

/// Bits of one register, with the names that `/proc/cpuinfo` gives them.
struct Word {
    leaf: u32,
    index: u32,
    register: Register,
    bits: &'static [(u32, &'static str)],
}

const fn word(leaf: u32, index: u32, register: Register, bits: &'static [(u32, &'static str)]) -> Word {
    Word { leaf, index, register, bits }
}

/// SDM 2A, CPUID; AMD APM 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
#[rustfmt::skip]
const WORDS: &[Word] = &[
    word(0x1, 0, Ecx, &[
        (0, "pni"), (1, "pclmulqdq"), (9, "ssse3"), (12, "fma"), (13, "cx16"), (17, "pcid"), (19, "sse4_1"),
        (20, "sse4_2"), (21, "x2apic"), (22, "movbe"), (23, "popcnt"), (24, "tsc_deadline_timer"), (25, "aes"),
        (26, "xsave"), (27, "osxsave"), (28, "avx"), (29, "f16c"), (30, "rdrand"), (31, "hypervisor"),
    ]),
    word(0x1, 0, Edx, &[
        (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"), (8, "cx8"),
        (9, "apic"), (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"),
        (19, "clflush"), (23, "mmx"), (24, "fxsr"), (25, "sse"), (26, "sse2"), (27, "ss"), (28, "ht"),
    ]),
    word(0x6, 0, Eax, &[(2, "arat")]),
    word(0x7, 0, Eax, &[]),
    word(0x7, 0, Ebx, &[
        (0, "fsgsbase"), (1, "tsc_adjust"), (3, "bmi1"), (5, "avx2"), (6, "fdp_excptn_only"), (7, "smep"), (8, "bmi2"),
        (9, "erms"), (10, "invpcid"), (13, "zero_fcs_fds"), (18, "rdseed"), (19, "adx"), (20, "smap"),
        (23, "clflushopt"), (24, "clwb"), (29, "sha_ni"),
    ]),
    word(0x7, 0, Ecx, &[(2, "umip"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"), (22, "rdpid")]),
    word(0x7, 0, Edx, &[(4, "fsrm")]),
    word(0xd, 1, Eax, &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves")]),
    word(0x4000_0001, 0, Eax, &[
        (0, "kvmclock"), (1, "kvm_nopiodelay"), (3, "kvmclock2"), (5, "kvm_steal_time"), (6, "kvm_pv_eoi"),
        (7, "kvm_pv_unhalt"), (9, "kvm_pv_tlb_flush"), (11, "kvm_pv_ipi"), (12, "kvm_poll_control"),
        (13, "kvm_pv_sched_yield"), (24, "kvmclock_stable"),
    ]),
    word(0x8000_0001, 0, Ecx, &[
        (0, "lahf_lm"), (1, "cmp_legacy"), (4, "cr8_legacy"), (5, "abm"), (6, "sse4a"), (7, "misalignsse"),
        (8, "3dnowprefetch"), (22, "topoext"),
    ]),
    word(0x8000_0001, 0, Edx, &[
        (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"), (8, "cx8"),
        (9, "apic"), (11, "syscall"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"), (16, "pat"), (17, "pse36"),
        (20, "nx"), (22, "mmxext"), (23, "mmx"), (24, "fxsr"), (25, "fxsr_opt"), (26, "pdpe1gb"), (27, "rdtscp"),
        (29, "lm"),
    ]),
    word(0x8000_0007, 0, Edx, &[(8, "constant_tsc")]),
    word(0x8000_0008, 0, Ebx, &[(0, "clzero"), (2, "xsaveerptr")]),
];

/// Leaves that are left as they are but for [`WORDS`]: ranges, family, caches, state sizes, topology, names, widths.
const fn is_known(leaf: u32) -> bool {
    matches!(leaf,
        0x0..=0x2 | 0x4 | 0x6 | 0x7 | 0xb | 0xd | 0x4000_0000 | 0x4000_0001
        | 0x8000_0000..=0x8000_0008 | 0x8000_001a | 0x8000_001d | 0x8000_001e)
}

/// Cuts a table down to the baseline.
pub(crate) fn limit(table: &mut Vec<kvm_cpuid_entry2>) {
    table.retain(|entry| is_known(entry.function) && !is_extra_index(entry));
    for entry in table.iter_mut() {
        let place = (entry.function, entry.index);
        for word in WORDS.iter().filter(|word| (word.leaf, word.index) == place) {
            *register_mut(entry, word.register) &= mask(word);
        }
        match (entry.function, entry.index) {
            (0xd, 0) => {
                entry.eax &= XCR0;
                entry.ecx = XSAVE_LEN;
                entry.edx = 0;
            }
            // No supervisor states.
            (0xd, 1) => (entry.ecx, entry.edx) = (0, 0),
            _ => {}
        }
    }
}

/// Feature and state leaves have more indices than the baseline.
fn is_extra_index(entry: &kvm_cpuid_entry2) -> bool {
    match entry.function {
        0x7 => entry.index > 0,
        0xd => entry.index > 1 && XCR0 >> entry.index.min(31) & 1 == 0,
        _ => false,
    }
}

fn mask(word: &Word) -> u32 {
    word.bits.iter().fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// What a guest with this table needs of a host; what a host with this table offers.
pub(crate) fn fingerprint(table: &[kvm_cpuid_entry2]) -> Fingerprint {
    let find = |leaf: u32, index: u32| table.iter().find(|e| (e.function, e.index) == (leaf, index)).copied();
    let vendor = find(0, 0).map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat());
    let words = WORDS.iter().map(|word| FeatureWord {
        leaf: word.leaf,
        index: word.index,
        register: word.register,
        bits: find(word.leaf, word.index).map_or(0, |mut entry| *register_mut(&mut entry, word.register)),
    });
    Fingerprint {
        vendor: String::from_utf8_lossy(&vendor.unwrap_or_default()).into_owned(),
        baseline: NAME.to_owned(),
        physical_bits: find(0x8000_0008, 0).map_or(0, |entry| (entry.eax & 0xff) as u8),
        words: words.collect(),
    }
}

/// In words.
pub(crate) fn describe(mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Vendor { saved, host } => {
            format!("it was taken on a processor of {saved}, this one is of {host}")
        }
        Mismatch::PhysicalBits { saved, host } => {
            format!("its guest has {saved} bits of physical address, this processor {host}")
        }
        Mismatch::Missing(feature) => format!("this processor has no {} ({feature})", name_of(feature)),
    }
}

fn name_of(feature: &Feature) -> &'static str {
    WORDS
        .iter()
        .filter(|w| (w.leaf, w.index, w.register) == (feature.leaf, feature.index, feature.register))
        .flat_map(|word| word.bits)
        .find(|(bit, _)| *bit == feature.bit)
        .map_or("such feature", |(_, name)| name)
}

fn register_mut(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Eax => &mut entry.eax,
        Ebx => &mut entry.ebx,
        Ecx => &mut entry.ecx,
        Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let all = u32::MAX;
        kvm_cpuid_entry2 { function, index, eax: all, ebx: all, ecx: all, edx: all, ..Default::default() }
    }

    fn everything() -> Vec<kvm_cpuid_entry2> {
        let leaves =
            [0x0, 0x1, 0x4, 0x7, 0xd, 0x19, 0x1d, 0x24, 0x4000_0001, 0x8000_0001, 0x8000_0008, 0x8000_0021];
        let mut table: Vec<_> = leaves.map(|leaf| entry(leaf, 0)).into();
        table.extend([entry(0x7, 1), entry(0xd, 1), entry(0xd, 2), entry(0xd, 9), entry(0xd, 63)]);
        limit(&mut table);
        table
    }

    fn find(table: &[kvm_cpuid_entry2], leaf: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        table.iter().find(|e| (e.function, e.index) == (leaf, index)).copied()
    }

    #[test]
    fn a_processor_with_everything_is_cut_down() {
        let table = everything();
        let (avx512f, pku, amx_tile) = (1 << 16, 1 << 3, 1 << 24);
        let leaf7 = find(&table, 7, 0).expect("there");
        assert_eq!(leaf7.ebx & avx512f | leaf7.ecx & pku | leaf7.edx & amx_tile | leaf7.eax, 0);
        assert_ne!(leaf7.ebx & 1 << 5, 0, "AVX2");
        let state = find(&table, 0xd, 0).expect("there");
        assert_eq!((state.eax, state.ecx, state.edx), (7, 832, 0));
        for gone in [(0x7, 1), (0xd, 9), (0xd, 63), (0x19, 0), (0x1d, 0), (0x24, 0), (0x8000_0021, 0)] {
            assert!(find(&table, gone.0, gone.1).is_none(), "{gone:x?}");
        }
        assert!(find(&table, 0xd, 2).is_some(), "AVX state");
        let kvm = find(&table, 0x4000_0001, 0).expect("there");
        assert_eq!(kvm.eax & (1 << 4 | 1 << 10 | 1 << 14), 0, "asynchronous page faults");
    }

    #[test]
    fn what_is_missing_is_named_as_linux_names_it() {
        let saved = fingerprint(&everything());
        assert_eq!(saved.runs_on(&saved), Ok(()));
        let mut host = saved.clone();
        let word = host.words.iter_mut().find(|w| (w.leaf, w.register) == (7, Ebx)).expect("there");
        word.bits &= !(1 << 29);
        let mismatch = saved.runs_on(&host).expect_err("less");
        assert_eq!(describe(&mismatch), "this processor has no sha_ni (CPUID 0x7.0 Ebx bit 29)");
        assert_eq!(host.runs_on(&saved), Ok(()), "a host may have more");
    }

    #[test]
    fn no_bit_is_named_twice() {
        for word in WORDS {
            assert_eq!(mask(word).count_ones() as usize, word.bits.len(), "{:#x}", word.leaf);
        }
    }
}
