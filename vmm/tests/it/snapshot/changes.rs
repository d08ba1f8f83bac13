//! Incremental snapshots: changes alone make a whole one again, whoever has made them.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot::PAGE_LEN;
use vmm_api::{
    DriveAccess, DriveConfig, LoadConfig, MachineConfig, Refusal, Request, Response, SerialConfig,
    SnapshotConfig, SnapshotKind, Source,
};

use super::content::{Pages, assert_same_memory, bytes_of, write_over};
use super::{
    CONSOLE, COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more, snapshot_config,
};
use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::reading::{self, SECTOR};

const TRACKED: bool = true;

fn full() -> SnapshotConfig {
    SnapshotConfig { track_changes: TRACKED, ..snapshot_config() }
}

fn diff() -> SnapshotConfig {
    SnapshotConfig { kind: SnapshotKind::Diff, ..full() }
}

/// Pauses a counting guest that was booted, and reads all that it has printed: whatever comes later it prints later, so it
/// has run when something comes.
fn pause(vmm: &Vmm, printed: &mut Vec<u8>, console: &mut PipeReader) {
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let more = |console: &PipeReader| {
        let mut fds = [PollFd::new(console.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    };
    while more(console) {
        let mut piece = [0; 4096];
        let len = console.read(&mut piece).unwrap();
        assert_ne!(len, 0, "the console ended");
        printed.extend(&piece[..len]);
    }
}

#[test]
fn changes_alone_make_a_whole_snapshot_again_and_again() {
    // Eight MiB of ones that never change, and a counter.
    let guest = (0..8).fold(Guest::new(), |guest, mib| guest.store(0x40_0000 + (mib << 20), u32::MAX));
    let (vmm, mut console) = Vmm::run(machine(), &guest.count_for_ever(COUNTER), &[]);
    let mut printed = Vec::new();
    read_more(&mut printed, &mut console);
    pause(&vmm, &mut printed, &mut console);
    let mut last = Snapshot::take_as(&vmm, full(), tempfile::tempfile().unwrap());
    let all = last.report.memory_bytes;
    for _ in 0..3 {
        assert_eq!(vmm.call(&Request::Resume), Response::Ok);
        read_more(&mut printed, &mut console);
        pause(&vmm, &mut printed, &mut console);
        last = Snapshot::take_as(&vmm, diff(), last.copy_of_memory());
        assert!(last.report.memory_bytes < all / 4, "{:?} of {all}", last.report);
    }
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();
    let vmm = prepared();
    let (_, mut console) = last.clone_in(&vmm);
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
}

/// What else is written by one party alone, each in a chunk of its own: what KVM tells its guest of time, what a load writes.
mod place {
    pub(super) use crate::reading::{AVAILABLE, DATA, DESCRIPTORS, HEADER, STATUS, USED};

    pub(super) const CLOCK: u32 = 0x36_0000;
    pub(super) const STOLEN: u32 = 0x37_0000;
    /// In the low chunk of the same name in `vmm/src/layout.rs`.
    pub(super) const GENERATION: u32 = 0xf_0000;
    /// Never written again.
    pub(super) const OLD: u32 = 0x40_0000;
}

/// Counts, and between two numbers reads the first sector of its disk; enables kvm-clock and the account of stolen time.
fn reading_guest() -> Guest {
    use place::*;
    let guest = reading::set_up(Guest::new()).store(DATA, u32::MAX).store(OLD, u32::MAX);
    let guest = guest.write_msr(0x4b56_4d01, CLOCK | 1).write_msr(0x4b56_4d03, STOLEN | 1);
    guest.count_for_ever_with(COUNTER, &reading::request(Guest::new()))
}

fn disk_of(byte: u8) -> File {
    let file = tempfile::tempfile().unwrap();
    write_over(&file, &[byte; SECTOR]);
    file
}

/// Of a file that is this descriptor.
fn drive(fd: usize) -> DriveConfig {
    DriveConfig { id: "disk".into(), source: Source::Fd(fd), access: DriveAccess::ReadOnly }
}

/// A process with a clone of a reading guest's snapshot, and its console.
fn reading_clone(snapshot: &Snapshot, disk: &File, config: LoadConfig) -> (Vmm, PipeReader) {
    let vmm = prepared();
    let (reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { drives: vec![drive(CONSOLE)], serial: SerialConfig::Fd(CONSOLE + 1), ..config };
    let loaded = snapshot.load(&vmm, config, &[disk.as_fd(), console.as_fd()]);
    assert!(matches!(loaded, Response::Loaded(_)), "{loaded:?}");
    (vmm, reader)
}

/// All of memory after a load of `snapshot`, before its first instruction.
fn restored(snapshot: &Snapshot, disk: &File) -> Pages {
    let (vmm, _console) = reading_clone(snapshot, disk, LoadConfig { resume: false, ..load_config() });
    Snapshot::take(&vmm).pages()
}

#[test]
fn changes_of_a_clone_by_guest_devices_and_kvm_restore_to_what_a_full_snapshot_does() {
    let config = MachineConfig { drives: vec![drive(2)], ..machine() };
    let (vmm, mut console) = Vmm::run(config, &reading_guest(), &[disk_of(0x11).as_fd()]);
    let mut printed = vec![0; 10 * RECORD_LEN];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let original = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();

    let other_disk = disk_of(0x22);
    let config = LoadConfig { track_changes: TRACKED, ..load_config() };
    let (vmm, mut console) = reading_clone(&original, &other_disk, config);
    read_more(&mut printed, &mut console);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let changes = Snapshot::take_as(&vmm, diff(), original.copy_of_memory());
    // Of the same moment.
    let whole = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();

    let pages = changes.pages();
    assert_same_memory(&pages, &whole.pages());
    assert_eq!(pages[&page_of(place::DATA)][..SECTOR], [0x22; SECTOR], "what the device has read");
    assert_eq!(pages[&page_of(place::GENERATION)][..16], [7; 16], "what the load has written");
    assert_only_changes_were_written(&original, &changes);
    assert_same_memory(&restored(&changes, &other_disk), &restored(&whole, &other_disk));
    let (_vmm, mut console) = reading_clone(&changes, &other_disk, load_config());
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
}

fn page_of(address: u32) -> u32 {
    address / PAGE_LEN as u32
}

/// KVM tells of one page more where the host's processor translates addresses of guests itself; it is as it was. Which one it is has not
/// been found out.
const UNCHANGED: u32 = 1;

/// What was fetched from the snapshot and read is no change. Each party's page is one.
#[track_caller]
fn assert_only_changes_were_written(before: &Snapshot, after: &Snapshot) {
    use place::*;
    let chunk_of = |address: u32| address >> 14;
    let (before, chunks) = (before.chunks(), after.chunks());
    let differs = |address: u32| before.get(&chunk_of(address)) != chunks.get(&chunk_of(address));
    for address in [COUNTER, AVAILABLE, USED, DATA, CLOCK, GENERATION] {
        assert!(differs(address), "{address:#x} is as before");
    }
    for address in [DESCRIPTORS, HEADER, OLD] {
        assert!(!differs(address), "{address:#x} has changed");
    }
    // The status is zero again.
    let written = [COUNTER, AVAILABLE, USED, DATA, STATUS, CLOCK, STOLEN, GENERATION];
    let pages = |address: u32| chunks.get(&chunk_of(address)).map_or(0, |pages| pages.len() as u32);
    let most: u32 = written.into_iter().map(pages).sum();
    let written = after.report.memory_bytes / PAGE_LEN as u64;
    assert!(written <= (most + UNCHANGED).into(), "{written} pages were written, {most} can have changed");
}

fn refused(vmm: &Vmm, config: SnapshotConfig, memory: &File) -> Refusal {
    let state = tempfile::tempfile().unwrap();
    match vmm.client.call(&Request::Snapshot(config), &[state.as_fd(), memory.as_fd()]).unwrap() {
        Response::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn changes_that_nobody_tracked_are_refused() {
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().count_for_ever(COUNTER), &[]);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let untracked = Snapshot::take(&vmm);
    let field = |config, memory| refused(&vmm, config, memory).field.unwrap();
    assert_eq!(field(diff(), &untracked.memory), "kind");
    let tracked = Snapshot::take_as(&vmm, full(), tempfile::tempfile().unwrap());
    // A snapshot that does not ask for more ends it.
    let last = SnapshotConfig { track_changes: false, ..diff() };
    let last = Snapshot::take_as(&vmm, last, tracked.copy_of_memory());
    assert_eq!(field(diff(), &last.memory), "kind");
}

#[test]
fn a_refused_snapshot_loses_no_changes() {
    let (vmm, mut console) = Vmm::run(machine(), &Guest::new().count_for_ever(COUNTER), &[]);
    let mut printed = Vec::new();
    pause(&vmm, &mut printed, &mut console);
    let before = Snapshot::take_as(&vmm, full(), tempfile::tempfile().unwrap());
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut console);
    pause(&vmm, &mut printed, &mut console);
    let short = tempfile::tempfile().unwrap();
    assert_eq!(
        refused(&vmm, diff(), &short).message,
        "0 bytes, expected 134217728: a copy of the memory file before"
    );
    let changes = Snapshot::take_as(&vmm, diff(), before.copy_of_memory());
    assert_same_memory(&changes.pages(), &Snapshot::take(&vmm).pages());
}

#[test]
fn a_failed_snapshot_of_changes_is_no_base_of_another() {
    let (vmm, mut console) = Vmm::run(machine(), &Guest::new().count_for_ever(COUNTER), &[]);
    let mut printed = Vec::new();
    read_more(&mut printed, &mut console);
    pause(&vmm, &mut printed, &mut console);
    let before = Snapshot::take_as(&vmm, full(), tempfile::tempfile().unwrap());
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut console);
    pause(&vmm, &mut printed, &mut console);
    // A file that can be opened for writing and not be written.
    let sealed = File::from(memfd_create(c"sealed", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    write_over(&sealed, &bytes_of(&before.memory));
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    let refusal = refused(&vmm, diff(), &sealed);
    assert!(refusal.message.starts_with("take the snapshot: write the memory file"), "{refusal:?}");
    // The log of changes was read and is gone.
    assert_eq!(refused(&vmm, diff(), &before.copy_of_memory()).field.as_deref(), Some("kind"));
    // The machine itself has come to no harm.
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut console);
    pause(&vmm, &mut printed, &mut console);
    let again = Snapshot::take_as(&vmm, full(), tempfile::tempfile().unwrap());
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut console);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let changes = Snapshot::take_as(&vmm, diff(), again.copy_of_memory());
    assert_same_memory(&changes.pages(), &Snapshot::take(&vmm).pages());
    assert_counts(&printed);
}
