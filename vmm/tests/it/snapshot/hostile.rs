//! State files that are damaged, forged or no snapshot's, and connections that do not fit: a refusal.

use std::os::fd::AsFd;

use vmm_api::{DriveAccess, DriveConfig, LoadConfig, MachineConfig, Request, Response, SerialConfig, Source};

use super::content::{Section, bytes_of, file_key, number_at, sealed, sections, write_over};
use super::{CONSOLE, COUNTER, Snapshot, load_config, prepared};
use crate::guest::Guest;
use crate::process::{Vmm, machine};

/// A good snapshot, a process that would load it, and what it says of a worse state file instead.
pub(super) struct Forgery {
    pub(super) snapshot: Snapshot,
    pub(super) state: Vec<u8>,
    pub(super) vmm: Vmm,
}

impl Forgery {
    pub(super) fn new() -> Self {
        Self::of(Snapshot::of_counter().0)
    }

    pub(super) fn of(snapshot: Snapshot) -> Self {
        let state = bytes_of(&snapshot.state);
        Self { snapshot, state, vmm: prepared() }
    }

    #[track_caller]
    pub(super) fn refusal(&self, state: &[u8]) -> String {
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
    pub(super) fn assert_still_loads(&self) {
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
