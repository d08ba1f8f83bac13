//! What a jailed process is handed of a content, as another than the agent may have left it: a table of any bytes, and a good one
//! some of whose bytes are others; answers of any bytes to whatever is asked. Reading gives the chunk whose key is in the table, or
//! an error. And what is asked of the agent, of any bytes.
//!
//! Of an input, in this order: how many bytes are for the table, which chunk the agent's answer is of that they do not damage, the bytes
//! for the table, an answer.
#![no_main]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use chunk_store::{
    Answer, ChunkSize, Content, Filled, Kind, LocalKey, MAX_ASK_LEN, NodeSecret, Place, Reader, Salt, Sealed,
    Table, decode_ask, for_reading, seal,
};
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// Of the good table: stored, stored but nowhere, zeros, stored and short.
const CHUNKS: u32 = 4;
const ZEROS: u32 = 2;
const LEN: u64 = 3 * 16_384 + 100;
/// What a table has before its entries.
const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 64;
/// What an entry begins with.
const KEY_LEN: usize = 32;

/// What all inputs share.
struct Bench {
    table: Vec<u8>,
    slots: File,
    file: File,
    ours: OwnedFd,
    /// The next answer.
    answer: Arc<Mutex<Vec<u8>>>,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| bench().expect("what the host has to give"));

fuzz_target!(|input: &[u8]| {
    let _ = decode_ask(input);
    if let Some(Answer::Copy { tag, copy }) = Answer::decode(input) {
        assert_eq!(Answer::Copy { tag, copy }.encode(), input, "one answer has one form");
    }
    let Some((&[table_len, answered], rest)) = input.split_first_chunk() else { return };
    let (table, answer) = rest.split_at(rest.len().min(usize::from(table_len)));
    answer_with(&BENCH, answered, answer);
    // Any bytes are no table: there is a hash in it.
    write(&BENCH.file, &[table, &[0; 1024]].concat());
    assert!(reader(&BENCH).is_none(), "a hash was guessed");
    let mut changed = BENCH.table.clone();
    let entries = changed.iter_mut().skip(HEADER_LEN).skip(usize::from(answered) % 64);
    entries.zip(table).for_each(|(byte, change)| *byte ^= change);
    write(&BENCH.file, &changed);
    let mut reader = reader(&BENCH).expect("its header is as it was");
    if answered % 2 == 1 {
        reader.in_bulk();
    }
    for index in 0..=CHUNKS {
        let mut buffer = vec![0xee; reader.chunk_len(index)];
        match reader.read(index, &mut buffer) {
            Ok(Filled::Zeros) => assert!(is_zeros(&changed, index), "chunk {index} became zeros"),
            Ok(Filled::Chunk) => {
                let named = named(&BENCH.table, &changed, index).expect("a key was guessed");
                let mut expected = plaintext(named);
                expected.resize(buffer.len(), 0);
                assert_eq!(buffer, expected, "chunk {index}, by the key of {named}");
            }
            Err(_) => {}
        }
    }
});

fn bench() -> std::io::Result<Bench> {
    let (file, slots) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let known = (0..CHUNKS).map(|index| {
        let (key, place, copy) = copy(index)?;
        slots.write_all_at(&copy, place.at).expect("the host has room");
        Some((key, (index != 1).then_some(place)))
    });
    let content = Content { kind: Kind::Code, len: LEN, chunk_size: ChunkSize::MEMORY, salt: [0; 16] };
    let handed = File::from(Table::new(content, known).map_err(std::io::Error::other)?.handed()?);
    let mut table = vec![0; HEADER_LEN + ENTRY_LEN * CHUNKS as usize];
    handed.read_exact_at(&mut table, 0)?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let answer = Arc::new(Mutex::new(Vec::new()));
    let next = Arc::clone(&answer);
    std::thread::spawn(move || {
        let mut packet = [0; MAX_ASK_LEN];
        while recv(theirs.as_raw_fd(), &mut packet, MsgFlags::empty()).is_ok_and(|len| len > 0) {
            let answer = next.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let _ = send(theirs.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
        }
    });
    Ok(Bench { table, slots, file, ours, answer })
}

/// The chunk's own copy with these changes, or any bytes; never none, which would be the end of the socket.
fn answer_with(bench: &Bench, answered: u8, bytes: &[u8]) {
    let mut answer = match copy(u32::from(answered)) {
        Some((_, place, copy)) => Answer::Copy { tag: place.tag, copy: &copy }.encode(),
        None => vec![0; bytes.len().max(1)],
    };
    answer.iter_mut().zip(bytes).for_each(|(byte, change)| *byte ^= change);
    *bench.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
}

fn reader(bench: &Bench) -> Option<Reader> {
    let file = bench.file.try_clone().expect("a descriptor");
    let slots = for_reading(&bench.slots).expect("a descriptor").into();
    Reader::new(file, slots, bench.ours.try_clone().expect("a descriptor")).ok()
}

fn write(file: &File, bytes: &[u8]) {
    file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("the host has room");
}

/// Whether the table says that the chunk is zeros: of one whose keys nobody knows that can be said, too.
fn is_zeros(table: &[u8], index: u32) -> bool {
    entry(table, index).iter().all(|byte| *byte == 0)
}

/// The chunk of the good table whose key the changed one has for this one. Who holds a key can name its chunk in another's stead,
/// and a fuzzer that sees what is compared comes to hold them.
fn named(good: &[u8], changed: &[u8], index: u32) -> Option<u32> {
    let key = entry(changed, index).get(..KEY_LEN)?;
    (0..CHUNKS).filter(|index| *index != ZEROS).find(|other| entry(good, *other).get(..KEY_LEN) == Some(key))
}

fn entry(table: &[u8], index: u32) -> &[u8] {
    let at = HEADER_LEN + ENTRY_LEN * index as usize;
    table.get(at..at + ENTRY_LEN).unwrap_or_default()
}

fn plaintext(index: u32) -> Vec<u8> {
    let len = if index + 1 == CHUNKS { 100 } else { 16_384 };
    let byte = if index == ZEROS { 0 } else { index as u8 + 1 };
    vec![byte; len]
}

/// A chunk's key, place and copy; none of zeros, nor past the end.
fn copy(index: u32) -> Option<(LocalKey, Place, Vec<u8>)> {
    if index >= CHUNKS {
        return None;
    }
    let mut copy = plaintext(index);
    let Ok(Sealed::Chunk { entry, .. }) = seal(&copy, &Salt::public()) else { return None };
    let key = NodeSecret::new([4; 32]).key_of(&entry);
    let tag = key.seal_copy(&mut copy).ok()?;
    Some((key, Place { at: u64::from(index) << 14, len: copy.len() as u32, tag }, copy))
}
