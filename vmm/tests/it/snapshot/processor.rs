//! State files of machines with another processor than this host's: what this one lacks is refused by name, what it has
//! more of is kept from the guest.

use std::ops::Range;

use kvm_ioctls::{Cap, Kvm};
use snapshot::{Fingerprint, Register, StateReader, StateWriter};
use vmm_api::{Request, Response};

use super::content::{bytes_of, file_key, number_at, sealed, sections, write_over};
use super::hostile::Forgery;
use super::{Snapshot, read_more};

/// The state of a machine whose processor is another one, to itself and to its vCPU.
fn of_processor(
    forgery: &Forgery,
    change: impl Fn(&mut Fingerprint),
    change_vcpu: impl Fn(&mut Vec<u8>),
) -> Vec<u8> {
    let state = StateReader::open(&forgery.state, &file_key()).unwrap();
    let mut cpu: Fingerprint = state.get(0).unwrap();
    change(&mut cpu);
    let mut all = sections(&forgery.state);
    for section in &mut all {
        match section.name {
            "cpu" => section.bytes = encoded(&cpu),
            "vcpu" => change_vcpu(&mut section.bytes),
            _ => {}
        }
    }
    sealed(&forgery.state, &all)
}

fn encoded(cpu: &Fingerprint) -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.add(0, cpu).unwrap();
    sections(&writer.finish(&file_key(), &[0; 16])).remove(0).bytes
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|found| found == wanted).unwrap()
}

#[test]
fn a_snapshot_of_another_processor_is_refused_and_says_what_is_different() {
    let forgery = Forgery::new();
    let state = StateReader::open(&forgery.state, &file_key()).unwrap();
    let vendor = state.get::<Fingerprint>(0).unwrap().vendor;
    // CPUID has a vendor's name in ebx, edx, ecx; its structure has ecx before edx.
    let registers = |name: &str| [&name[..4], &name[8..], &name[4..8]].concat();
    let other = of_processor(
        &forgery,
        |cpu| cpu.vendor = "CentaurHauls".into(),
        |vcpu| {
            let at = find(vcpu, registers(&vendor).as_bytes());
            vcpu[at..at + 12].copy_from_slice(registers("CentaurHauls").as_bytes());
        },
    );
    let refusal = forgery.refusal(&other);
    let expected = format!("it was taken on a processor of CentaurHauls, this one is of {vendor} (baseline ");
    assert!(refusal.starts_with(&expected), "{refusal}");
    forgery.assert_still_loads();
}

#[test]
fn a_feature_that_this_processor_lacks_is_named() {
    let forgery = Forgery::new();
    // SGX: no host offers it to a guest of ours.
    let bit = 1 << 2;
    let feature = |cpu: &mut Fingerprint| {
        let word = cpu.words.iter_mut().find(|word| (word.leaf, word.register) == (7, Register::Ebx));
        word.unwrap().bits |= bit;
    };
    let more = of_processor(&forgery, feature, |vcpu| {
        // Leaf, index, flags (the index counts), eax, ebx.
        let leaf = [7u32, 0, 1].map(u32::to_le_bytes).concat();
        let at = find(vcpu, &leaf) + 16;
        vcpu[at] |= bit as u8;
    });
    let refusal = forgery.refusal(&more);
    assert!(refusal.starts_with("this processor has no such feature (CPUID 0x7.0 Ebx bit 2)"), "{refusal}");
    // Said of the machine alone, its vCPUs contradict it.
    let alone = forgery.refusal(&of_processor(&forgery, feature, |_| ()));
    assert_eq!(alone, "its vCPUs do not have the processor that it was taken on");
    forgery.assert_still_loads();
}

/// The state with its vCPU's section changed by somebody who has the key.
fn of_vcpu(forgery: &Forgery, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    of_processor(forgery, |_| (), change)
}

/// Where a saved vCPU's TSC rate is, and which: it follows the CPUID table.
fn tsc_khz(vcpu: &[u8]) -> (Range<usize>, usize) {
    let (table, len) = number_at(vcpu, 0);
    let (end, khz) = number_at(vcpu, table + len);
    (table + len..end, khz)
}

#[test]
fn a_tsc_rate_that_this_host_cannot_scale_to_is_refused_with_both_rates() {
    let forgery = Forgery::new();
    // A processor that scales does so within bounds; KVM alone does not slow a counter down.
    let scales = Kvm::new().unwrap().check_extension(Cap::TscControl);
    let (khz, encoded): (u32, &[u8]) =
        if scales { (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]) } else { (1, &[1]) };
    let refusal = forgery.refusal(&of_vcpu(&forgery, |vcpu| {
        let (place, _) = tsc_khz(vcpu);
        vcpu.splice(place, encoded.iter().copied());
    }));
    assert!(refusal.starts_with(&format!("its TSC runs at {khz} kHz, which this host of ")), "{refusal}");
    assert!(refusal.ends_with(" kHz cannot scale to"), "{refusal}");
    forgery.assert_still_loads();
}

#[test]
fn an_msr_that_this_host_does_not_have_is_named() {
    let forgery = Forgery::new();
    // The memory type that the VMM gives a guest that it boots, under another number.
    let entry = [0x2ffu64, 0x806].map(u64::to_le_bytes).concat();
    let other = of_vcpu(&forgery, |vcpu| {
        let at = find(vcpu, &entry);
        vcpu[at..at + 4].copy_from_slice(&0x0bad_cafe_u32.to_le_bytes());
    });
    assert_eq!(forgery.refusal(&other), "its MSR 0xbadcafe is set, which this host's KVM does not have");
    forgery.assert_still_loads();
}

#[test]
fn what_the_hosts_own_processor_says_of_itself_is_not_put_back() {
    let forgery = Forgery::new();
    // IA32_ARCH_CAPABILITIES, with bits that no host has.
    let foreign = [0x10au64, u64::MAX].map(u64::to_le_bytes).concat();
    let with_it = of_vcpu(&forgery, |vcpu| {
        let at = find(vcpu, &[0x2ffu64, 0x806].map(u64::to_le_bytes).concat());
        vcpu[at..at + 16].copy_from_slice(&foreign);
    });
    write_over(&forgery.snapshot.state, &with_it);
    forgery.snapshot.clone_in(&forgery.vmm);
}

/// Loads this state, and the vCPU of what is saved of the clone.
fn saved_again(forgery: &Forgery, state: &[u8]) -> Vec<u8> {
    write_over(&forgery.snapshot.state, state);
    let (_, mut console) = forgery.snapshot.clone_in(&forgery.vmm);
    read_more(&mut Vec::new(), &mut console);
    assert_eq!(forgery.vmm.call(&Request::Pause), Response::Ok);
    let again = sections(&bytes_of(&Snapshot::take(&forgery.vmm).state));
    again.into_iter().find(|section| section.name == "vcpu").unwrap().bytes
}

/// What leaf 1 of a saved vCPU's table has in ecx is here.
fn features(vcpu: &[u8]) -> Range<usize> {
    // Leaf, index, flags, eax, ebx, ecx.
    let at = find(vcpu, &[1_u32, 0, 0].map(u32::to_le_bytes).concat()) + 20;
    at..at + 4
}

/// A guest of a /dev/kvm that emulates may see the host's own features, so it is not asked.
#[test]
fn a_processor_with_a_feature_less_than_this_hosts_goes_on_without_it() {
    /// CMPXCHG16B, which hosts have.
    const FEATURE: u32 = 1 << 13;
    let forgery = Forgery::new();
    let told = |vcpu: &[u8]| u32::from_le_bytes(vcpu[features(vcpu)].try_into().unwrap());
    let fewer = of_processor(
        &forgery,
        |cpu| {
            let word = cpu.words.iter_mut().find(|word| (word.leaf, word.register) == (1, Register::Ecx));
            word.unwrap().bits &= !FEATURE;
        },
        |vcpu| {
            let had = told(vcpu);
            assert_eq!(had & FEATURE, FEATURE, "{had:#x}");
            let place = features(vcpu);
            vcpu[place].copy_from_slice(&(had & !FEATURE).to_le_bytes());
        },
    );
    assert_eq!(told(&saved_again(&forgery, &fewer)) & FEATURE, 0);
}

#[test]
fn a_tsc_rate_that_is_as_good_as_this_hosts_is_the_guests_and_saved_again() {
    let forgery = Forgery::new();
    // A tenth of a thousandth: KVM takes that for its own rate.
    let near = |khz: usize| khz + khz / 10_000;
    let mut wanted = 0;
    let mut all = sections(&forgery.state);
    for section in all.iter_mut().filter(|section| section.name == "vcpu") {
        let (place, khz) = tsc_khz(&section.bytes);
        wanted = near(khz);
        section.bytes.splice(place, number(wanted));
    }
    assert_ne!(wanted, 0, "this host does not say its TSC's rate");
    assert_eq!(tsc_khz(&saved_again(&forgery, &sealed(&forgery.state, &all))).1, wanted);
}

/// A number as [`number_at`] reads it.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
