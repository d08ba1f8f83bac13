//! State files that are damaged, forged or no snapshot's, and connections that do not fit: a refusal.

use std::os::fd::AsFd;

use kvm_ioctls::{Cap, Kvm};
use snapshot::{Fingerprint, Register, StateReader, StateWriter};
use vmm_api::{DriveAccess, DriveConfig, LoadConfig, MachineConfig, Request, Response, SerialConfig, Source};

use super::content::{Section, bytes_of, file_key, sealed, sections, write_over};
use super::{CONSOLE, COUNTER, Snapshot, load_config, prepared};
use crate::guest::Guest;
use crate::process::{Vmm, machine};

/// A good snapshot, a process that would load it, and what it says of a worse state file instead.
struct Forgery {
    snapshot: Snapshot,
    state: Vec<u8>,
    vmm: Vmm,
}

impl Forgery {
    fn new() -> Self {
        let (snapshot, _) = Snapshot::of_counter();
        let state = bytes_of(&snapshot.state);
        Self { snapshot, state, vmm: prepared() }
    }

    #[track_caller]
    fn refusal(&self, state: &[u8]) -> String {
        write_over(&self.snapshot.state, state);
        self.snapshot.refusal(&self.vmm, load_config()).message
    }

    /// The state with another byte somewhere.
    fn changed(&self, at: usize, byte: u8) -> Vec<u8> {
        let mut state = self.state.clone();
        assert_ne!(state[at], byte);
        state[at] = byte;
        state
    }

    /// The state with one section changed by somebody who has the key.
    fn with(&self, number: usize, change: impl Fn(&mut Section)) -> Vec<u8> {
        let mut sections = sections(&self.state);
        change(&mut sections[number]);
        sealed(&self.state, &sections)
    }

    /// None of what was refused has left anything behind.
    fn assert_still_loads(&self) {
        write_over(&self.snapshot.state, &self.state);
        self.snapshot.clone_in(&self.vmm);
    }
}

#[test]
fn files_that_are_no_snapshot_are_refused_and_say_why() {
    let forgery = Forgery::new();
    let whole = &forgery.state;
    assert_eq!(forgery.refusal(b"\x7fELF"), "the file does not begin as a snapshot does");
    assert!(forgery.refusal(&[]).starts_with("the file is cut off: it has 0 bytes"));
    assert!(forgery.refusal(&whole[..100]).starts_with("the file is cut off: it has 100 bytes"));
    let cut = forgery.refusal(&whole[..whole.len() - 1]);
    let (found, expected) = (whole.len() - 1, whole.len());
    assert_eq!(cut, format!("the file is cut off: it has {found} bytes and should have {expected}"));
    assert!(forgery.refusal(&[&whole[..], b"more"].concat()).starts_with("the file has "));
    let newer = "snapshot format version 9, this program reads version 1";
    assert_eq!(forgery.refusal(&forgery.changed(8, 9)), newer);
    let arm = forgery.refusal(&forgery.changed(12, 183));
    assert!(arm.starts_with("the snapshot is for machine type 183"), "{arm}");
    let last = whole.len() - 1;
    let tag = forgery.refusal(&forgery.changed(last, !whole[last]));
    assert!(tag.starts_with("the snapshot is not authentic"), "{tag}");
    // As long as the largest and a byte more: nobody reads it.
    forgery.snapshot.state.set_len((32 << 20) + 1).unwrap();
    let oversized = forgery.snapshot.refusal(&forgery.vmm, load_config()).message;
    assert_eq!(oversized, "a state file of 33554433 bytes, at most 33554432 are read");
    forgery.assert_still_loads();
}

#[test]
fn a_bit_flipped_in_any_section_is_damage() {
    let forgery = Forgery::new();
    let sections = sections(&forgery.state);
    assert!(sections.len() > 7, "{}", sections.len());
    for section in sections {
        let (name, middle) = (section.name, section.at + section.len() / 2);
        // Name, version, length, content.
        for at in [section.at, section.at + 28, section.at + 32, middle, section.at + section.len() - 1] {
            let refusal = forgery.refusal(&forgery.changed(at, forgery.state[at] ^ 0x10));
            assert!(refusal.starts_with("the file is damaged"), "{name}, byte {at}: {refusal}");
        }
    }
    forgery.assert_still_loads();
}

#[test]
fn a_section_that_is_not_ours_is_refused_by_name_whoever_made_it() {
    let forgery = Forgery::new();
    let whole = sections(&forgery.state);
    assert_eq!(sealed(&forgery.state, &whole), forgery.state);
    for (number, Section { name, instance, version, .. }) in whole.iter().enumerate() {
        let newer = forgery.refusal(&forgery.with(number, |section| section.version += 1));
        let expected =
            format!("section {name} has version {}, this program reads version {version}", version + 1);
        assert_eq!(newer, expected);
        let longer = forgery.refusal(&forgery.with(number, |section| section.bytes.push(0)));
        let shorter =
            forgery.refusal(&forgery.with(number, |section| section.bytes.truncate(section.bytes.len() - 1)));
        for refusal in [longer, shorter] {
            let said = if *name == "pages" {
                "the index of pages is not valid: length".to_owned()
            } else {
                format!("section {name} {instance} cannot be decoded")
            };
            assert!(refusal.starts_with(&said), "{refusal}");
        }
        let others: Vec<_> = whole.iter().filter(|section| section.at != whole[number].at).cloned().collect();
        let missing = forgery.refusal(&sealed(&forgery.state, &others));
        assert_eq!(missing, format!("section {name} {instance} is missing"));
    }
    forgery.assert_still_loads();
}

#[test]
fn sections_in_another_order_are_refused_whoever_made_them() {
    let forgery = Forgery::new();
    let whole = sections(&forgery.state);
    let [.., one, other] = whole.as_slice() else { panic!("two sections at least") };
    let (first, second) = (one.at..other.at, other.at..other.at + other.len());
    let swapped = [
        &forgery.state[..first.start],
        &forgery.state[second.clone()],
        &forgery.state[first],
        &forgery.state[second.end..],
    ];
    let mut swapped = swapped.concat();
    assert!(forgery.refusal(&swapped).starts_with("the file is damaged"));
    snapshot::seal(&mut swapped, &file_key());
    let expected = format!("section {} {} is out of order", one.name, one.instance);
    assert_eq!(forgery.refusal(&swapped), expected);
    forgery.assert_still_loads();
}

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

/// Where the number at `at` ends (postcard: seven bits a byte, the highest says that more follow), and which it is.
fn number_at(bytes: &[u8], at: usize) -> (usize, usize) {
    let more = bytes[at..].iter().take_while(|byte| **byte >= 0x80).count();
    let value =
        bytes[at..=at + more].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (at + more + 1, value)
}

#[test]
fn a_tsc_rate_that_this_host_cannot_scale_to_is_refused_with_both_rates() {
    let forgery = Forgery::new();
    // A processor that scales does so within bounds; KVM alone does not slow a counter down.
    let scales = Kvm::new().unwrap().check_extension(Cap::TscControl);
    let (khz, encoded): (u32, &[u8]) =
        if scales { (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]) } else { (1, &[1]) };
    let refusal = forgery.refusal(&of_vcpu(&forgery, |vcpu| {
        // It follows the CPUID table.
        let (table, len) = number_at(vcpu, 0);
        let (end, _) = number_at(vcpu, table + len);
        vcpu.splice(table + len..end, encoded.iter().copied());
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

#[test]
fn interrupt_controllers_are_three() {
    let forgery = Forgery::new();
    let of = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut all = sections(&forgery.state);
        all.iter_mut().filter(|section| section.name == "platform").for_each(|s| change(&mut s.bytes));
        forgery.refusal(&sealed(&forgery.state, &all))
    };
    // A number of structures, each with its length before it.
    let (first, count) = (1, 3);
    let first_of = |bytes: &[u8]| {
        let (at, len) = number_at(bytes, first);
        bytes[first..at + len].to_vec()
    };
    let fewer = of(&|bytes| {
        assert_eq!(bytes[0], count);
        let len = first_of(bytes).len();
        bytes.drain(first..first + len);
        bytes[0] = count - 1;
    });
    let more = of(&|bytes| {
        bytes.splice(first..first, first_of(bytes));
        bytes[0] = count + 1;
    });
    for refusal in [fewer, more] {
        assert!(refusal.starts_with("section platform 0 cannot be decoded"), "{refusal}");
    }
    forgery.assert_still_loads();
}

#[test]
fn drives_and_sockets_must_be_those_that_were_saved() {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1024).unwrap();
    let drive = |id: &str, access| DriveConfig { id: id.into(), source: Source::Fd(CONSOLE), access };
    let booted = DriveConfig { source: Source::Fd(2), ..drive("disk", DriveAccess::ReadOnly) };
    let config = MachineConfig { drives: vec![booted], ..machine() };
    let (vmm, _console) = Vmm::run(config, &Guest::new().count_for_ever(COUNTER), &[disk.as_fd()]);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let snapshot = Snapshot::take(&vmm);
    let other = prepared();
    let refused = |drives: Vec<DriveConfig>, vsock| {
        let config = LoadConfig { drives, vsock, serial: SerialConfig::Null, ..load_config() };
        match snapshot.load(&other, config, &[disk.as_fd()]) {
            Response::Refused(refusal) => (refusal.field.unwrap(), refusal.message),
            response => panic!("not refused: {response:?}"),
        }
    };
    assert_eq!(refused(vec![], None), ("drives".into(), "drive disk of the snapshot is not given".into()));
    assert_eq!(refused(vec![drive("disc", DriveAccess::ReadOnly)], None).0, "drives[0].id");
    assert_eq!(refused(vec![drive("disk", DriveAccess::ReadWrite)], None).0, "drives[0].access");
    let good = LoadConfig {
        drives: vec![drive("disk", DriveAccess::ReadOnly)],
        serial: SerialConfig::Null,
        ..load_config()
    };
    assert!(matches!(snapshot.load(&other, good, &[disk.as_fd()]), Response::Loaded(_)));
}
