//! Memory that is handed over and cannot be a snapshot's, or must not be read that way: a refusal.

use std::os::fd::OwnedFd;

use chunk_store::{ChunkSize, Kind};
use vmm_api::{LoadConfig, Response, SerialConfig};

use super::{Snapshot, load_config, prepared};
use crate::process::Vmm;
use crate::store::Content;

/// The field and the message of a refusal of such memory.
fn refused(snapshot: &Snapshot, vmm: &Vmm, memory: [OwnedFd; 3]) -> (String, String) {
    let config = LoadConfig { serial: SerialConfig::Null, ..load_config() };
    match snapshot.load_from(memory, vmm, config, &[]) {
        Response::Refused(refusal) => (refusal.field.unwrap(), refusal.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_memory_of_another_length_cut_or_kind_is_refused() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let refused = |len, kind, size| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let (field, message) = refused(&snapshot, &vmm, Content::seal(&file, kind, size).handed());
        assert_eq!(field, "memory");
        message
    };
    let expected = "expected 134217728 in chunks of 16384";
    for len in [1, 64 << 20, (128 << 20) + 1] {
        let message = refused(len, Kind::Memory, ChunkSize::MEMORY);
        assert_eq!(message, format!("{len} bytes in chunks of 16384, {expected}"));
    }
    let message = refused(128 << 20, Kind::Memory, ChunkSize::IMAGE);
    assert_eq!(message, format!("134217728 bytes in chunks of 65536, {expected}"));
    let message = refused(128 << 20, Kind::Image, ChunkSize::MEMORY);
    assert_eq!(message, "a content of kind Image is of no use here");
    snapshot.clone_in(&vmm);
}

#[test]
fn descriptors_that_could_be_written_or_are_something_else_are_refused() {
    let (snapshot, _) = Snapshot::of_counter();
    let vmm = prepared();
    let refused = |memory| refused(&snapshot, &vmm, memory);
    let content = snapshot.content();
    let whole = || content.handed();
    let with = |at: usize, fd: OwnedFd| {
        let mut memory = whole();
        memory[at] = fd;
        memory
    };
    let [writable_table, writable_slots] = content.writable();
    let alone = "the descriptor is not open for reading alone";
    assert_eq!(refused(with(0, writable_table)), ("memory.table".into(), alone.into()));
    assert_eq!(refused(with(1, writable_slots)), ("memory.slots".into(), alone.into()));
    let (pipe, _other) = std::io::pipe().unwrap();
    assert_eq!(refused(with(1, pipe.into())).0, "memory.slots");
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(refused(with(2, stream.into())).0, "memory.asks");
    let [_, slots, _] = whole();
    assert_eq!(refused(with(2, slots)).0, "memory.asks");
    let [_, slots, _] = whole();
    let (field, message) = refused(with(0, slots));
    assert_eq!((field.as_str(), message.as_str()), ("memory.table", "this is no table: another format"));
    snapshot.clone_in(&vmm);
}
