//! Snapshots: a machine goes on where it was, in another process, as often as one likes.

mod asking;
mod changes;
mod content;
mod drives;
mod grants;
mod hostile;
mod network;
mod prefetch;
mod privacy;
mod processor;
mod sockets;

use std::cell::OnceCell;
use std::fs::File;
use std::io::{PipeReader, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chunk_store::{ChunkSize, Kind};
use vmm_api::{
    Identity, Key, LoadConfig, LoadReport, MachineConfig, Refusal, Request, Response, SerialConfig, Shape,
    SnapshotConfig, SnapshotKind, SnapshotReport, Source,
};

use crate::confinement::{LOG_LEN, MEMORY_LEN, longest_file};
use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::store::{Content, grant};

const COUNTER: u32 = 0x20_0000;
/// A number and a newline.
const RECORD_LEN: usize = 5;

/// The first descriptor of a load behind state and memory: the console of a counting guest.
const CONSOLE: usize = 4;

/// The two files of a snapshot, and the content that is made of its memory once it is loaded.
struct Snapshot {
    state: File,
    memory: File,
    content: OnceCell<Content>,
    report: SnapshotReport,
}

fn key() -> Key {
    Key::new([0x42; 32])
}

fn identity() -> Identity {
    Identity([("kernel".to_owned(), "abc".to_owned())].into())
}

fn snapshot_config() -> SnapshotConfig {
    SnapshotConfig {
        state: Source::Fd(0),
        memory: Source::Fd(1),
        key: key(),
        kind: SnapshotKind::Full,
        identity: identity(),
        track_changes: false,
    }
}

/// What a counting guest is loaded with.
fn load_config() -> LoadConfig {
    LoadConfig {
        state: Source::Fd(0),
        memory: grant(1),
        key: key(),
        drives: Vec::new(),
        vsock: None,
        net: None,
        serial: SerialConfig::Fd(CONSOLE),
        generation: [7; 16],
        identity: None,
        prefetch: None,
        learn: false,
        track_changes: false,
        resume: true,
        allow_snapshots: true,
    }
}

impl Snapshot {
    fn take(vmm: &Vmm) -> Self {
        Self::take_as(vmm, snapshot_config(), tempfile::tempfile().unwrap())
    }

    fn take_as(vmm: &Vmm, config: SnapshotConfig, memory: File) -> Self {
        let state = tempfile::tempfile().unwrap();
        let fds = [state.as_fd(), memory.as_fd()];
        match vmm.client.call(&Request::Snapshot(config), &fds).unwrap() {
            Response::Snapshotted(report) => Self { state, memory, content: OnceCell::new(), report },
            other => panic!("no snapshot: {other:?}"),
        }
    }

    /// What a [`SnapshotKind::Diff`] is written over.
    fn copy_of_memory(&self) -> File {
        let (mut from, mut to) = (self.memory.try_clone().unwrap(), tempfile::tempfile().unwrap());
        from.seek(SeekFrom::Start(0)).unwrap();
        std::io::copy(&mut from, &mut to).unwrap();
        to
    }

    /// Of a guest that counts, and the bytes that it printed before.
    fn of_counter() -> (Self, Vec<u8>) {
        let (vmm, mut console) = Vmm::run(machine(), &Guest::new().count_for_ever(COUNTER), &[]);
        let mut printed = vec![0; 50 * RECORD_LEN];
        console.read_exact(&mut printed).unwrap();
        assert_eq!(vmm.call(&Request::Pause), Response::Ok);
        let snapshot = Self::take(&vmm);
        assert_eq!(vmm.call(&Request::Stop), Response::Ok);
        console.read_to_end(&mut printed).unwrap();
        (snapshot, printed)
    }

    /// Its memory as it is kept.
    fn content(&self) -> &Content {
        self.content.get_or_init(|| Content::seal(&self.memory, Kind::Memory, ChunkSize::MEMORY))
    }

    /// Loads it where nobody can be asked for chunks.
    fn load(&self, vmm: &Vmm, config: LoadConfig, more: &[BorrowedFd<'_>]) -> Response {
        self.load_from(self.content().handed(), vmm, config, more)
    }

    fn load_from(
        &self,
        memory: [OwnedFd; 3],
        vmm: &Vmm,
        config: LoadConfig,
        more: &[BorrowedFd<'_>],
    ) -> Response {
        let memory: Vec<_> = memory.iter().map(AsFd::as_fd).collect();
        let fds = [&[self.state.as_fd()], memory.as_slice(), more].concat();
        vmm.client.call(&Request::Load(config), &fds).unwrap()
    }

    /// A clone, with its console.
    fn clone_in(&self, vmm: &Vmm) -> (LoadReport, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        let console: OwnedFd = writer.into();
        match self.load(vmm, load_config(), &[console.as_fd()]) {
            Response::Loaded(report) => (report, reader),
            other => panic!("not loaded: {other:?}"),
        }
    }

    fn refusal(&self, vmm: &Vmm, config: LoadConfig) -> Refusal {
        self.refusal_with(vmm, config, &[])
    }

    fn refusal_with(&self, vmm: &Vmm, config: LoadConfig, more: &[BorrowedFd<'_>]) -> Refusal {
        match self.load(vmm, LoadConfig { serial: SerialConfig::Null, ..config }, more) {
            Response::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn shape() -> Request {
    Request::Prepare(Shape { vcpu_count: 1, mem_size_mib: 128 })
}

fn prepared() -> Vmm {
    let vmm = Vmm::spawn();
    assert_eq!(vmm.call(&shape()), Response::Ok);
    vmm
}

/// Fails unless `printed` is the numbers from 1 on, each once.
fn assert_counts(printed: &[u8]) {
    for (expected, record) in (1u32..).zip(printed.chunks_exact(RECORD_LEN)) {
        assert_eq!(record[..4], expected.to_le_bytes(), "after {expected} numbers");
        assert_eq!(record[4], b'\n');
    }
}

fn read_more(printed: &mut Vec<u8>, console: &mut PipeReader) {
    let mut more = vec![0; 50 * RECORD_LEN];
    console.read_exact(&mut more).unwrap();
    printed.extend(more);
}

#[test]
fn a_counting_guest_goes_on_in_a_blank_process() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    assert!(snapshot.report.memory_bytes < 1 << 20, "zeros were written: {:?}", snapshot.report);
    assert_eq!(snapshot.memory.metadata().unwrap().len(), 128 << 20);
    let vmm = Vmm::spawn();
    let (report, mut console) = snapshot.clone_in(&vmm);
    assert_eq!(report.identity, identity());
    assert_eq!(longest_file(&vmm), MEMORY_LEN);
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    assert!(vmm.wait().0.success());
}

#[test]
fn a_machine_of_which_nobody_wanted_snapshots_gives_none_and_writes_no_file_as_long_as_its_memory() {
    let unsaved = MachineConfig { allow_snapshots: false, ..machine() };
    let (booted, _console) = Vmm::run(unsaved, &Guest::new().spin(), &[]);
    let (snapshot, _) = Snapshot::of_counter();
    let loaded = prepared();
    let config = LoadConfig { allow_snapshots: false, serial: SerialConfig::Null, ..load_config() };
    assert!(matches!(snapshot.load(&loaded, config, &[]), Response::Loaded(_)));
    for vmm in [booted, loaded] {
        assert_eq!(longest_file(&vmm), LOG_LEN);
        assert_eq!(vmm.call(&Request::Pause), Response::Ok);
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let fds = files.each_ref().map(AsFd::as_fd);
        let answer = vmm.client.call(&Request::Snapshot(snapshot_config()), &fds).unwrap();
        let Response::Refused(refusal) = answer else { panic!("{answer:?}") };
        assert_eq!(refusal.message, "the machine was made without allow_snapshots");
        assert!(files.iter().all(|file| file.metadata().unwrap().len() == 0));
    }
}

#[test]
fn many_clones_go_on_in_prepared_processes_each_by_itself() {
    let (snapshot, printed) = Snapshot::of_counter();
    let vmms: Vec<_> = (0..4).map(|_| prepared()).collect();
    let mut clones: Vec<_> = vmms.iter().map(|vmm| snapshot.clone_in(vmm).1).collect();
    for console in &mut clones {
        let mut printed = printed.clone();
        read_more(&mut printed, console);
        assert_counts(&printed);
    }
}

#[test]
fn a_clone_can_be_paused_saved_and_cloned_again() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let first = prepared();
    let (_, mut console) = snapshot.clone_in(&first);
    read_more(&mut printed, &mut console);
    assert_eq!(first.call(&Request::Pause), Response::Ok);
    let second = Snapshot::take(&first);
    assert_eq!(first.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();
    let vmm = prepared();
    let (_, mut console) = second.clone_in(&vmm);
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
}

#[test]
fn a_machine_loaded_to_be_paused_runs_when_it_is_told() {
    let (snapshot, mut printed) = Snapshot::of_counter();
    let vmm = prepared();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let console: OwnedFd = writer.into();
    let config = LoadConfig { resume: false, ..load_config() };
    assert!(matches!(snapshot.load(&vmm, config, &[console.as_fd()]), Response::Loaded(_)));
    assert_eq!(vmm.metrics().exits.pio, 0);
    assert_eq!(vmm.call(&Request::Resume), Response::Ok);
    read_more(&mut printed, &mut reader);
    assert_counts(&printed);
}

#[test]
fn a_refused_load_says_why_and_a_better_one_is_taken() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let wrong_key = LoadConfig { key: Key::new([0; 32]), ..load_config() };
    let refusal = snapshot.refusal(&vmm, wrong_key);
    assert_eq!(refusal.field.as_deref(), Some("state"));
    assert_eq!(refusal.message, "the snapshot was made with another key");
    let stale = LoadConfig { identity: Some(Identity::default()), ..load_config() };
    assert_eq!(snapshot.refusal(&vmm, stale).field.as_deref(), Some("identity"));
    let path = LoadConfig { state: Source::Path("/etc/passwd".into()), ..load_config() };
    assert!(snapshot.refusal(&vmm, path).message.contains("a descriptor is wanted"));
    let of_chunks = LoadConfig { state: Source::Chunks(grant(1)), ..load_config() };
    assert_eq!(snapshot.refusal(&vmm, of_chunks).message, "a file is wanted, not chunks");
    let Snapshot { state, memory, report, .. } = snapshot;
    let swapped = Snapshot {
        state: memory.try_clone().unwrap(),
        memory: memory.try_clone().unwrap(),
        content: OnceCell::new(),
        report,
    };
    let refusal = swapped.refusal(&vmm, load_config());
    assert!(refusal.message.starts_with("a state file of 134217728 bytes"), "{}", refusal.message);
    let snapshot = Snapshot { state, memory, ..swapped };
    let other = Vmm::spawn();
    assert_eq!(other.call(&Request::Prepare(Shape { vcpu_count: 2, mem_size_mib: 128 })), Response::Ok);
    assert!(snapshot.refusal(&other, load_config()).message.contains("prepared for another"));
    snapshot.clone_in(&vmm);
}

#[test]
fn sixteen_vcpus_are_saved_and_restored() {
    let config = MachineConfig { vcpu_count: 16, ..machine() };
    let (vmm, mut console) = Vmm::run(config, &Guest::new().count_for_ever(COUNTER), &[]);
    let mut printed = vec![0; 10 * RECORD_LEN];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let snapshot = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();
    let vmm = Vmm::spawn();
    let (_, mut console) = snapshot.clone_in(&vmm);
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
}

#[test]
fn requests_out_of_order_are_refused() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let refused = |request: &Request| match vmm.call(request) {
        Response::Refused(refusal) => refusal.message,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(&Request::Start), "start: the machine is prepared and not loaded yet");
    assert_eq!(refused(&shape()), "prepare: the machine is prepared and not loaded yet");
    assert_eq!(
        refused(&Request::Snapshot(snapshot_config())),
        "snapshot: the machine is prepared and not loaded yet"
    );
    snapshot.clone_in(&vmm);
    assert_eq!(refused(&Request::Snapshot(snapshot_config())), "snapshot: the machine is running");
    assert_eq!(refused(&Request::Load(load_config())), "load: the machine is running");
}
