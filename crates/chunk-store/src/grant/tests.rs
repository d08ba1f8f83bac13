//! Who reads a grant gets the content or an error, whatever table, slots and agent do.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::table::{ENTRY_LEN, HEADER_LEN, entry_at};
use super::*;
use crate::tests::damage::{changes, few_places, places};
use crate::{ChunkSize, Content, Kind, LocalKey};

const SIZE: ChunkSize = ChunkSize::MEMORY;
/// Of the content here: a chunk of zeros, and then stored ones, of which the last is short.
const CHUNKS: u32 = 4;
const LEN: u64 = 3 * 16_384 + 100;
const CONTENT: Content = Content { kind: Kind::Code, len: LEN, chunk_size: SIZE, salt: [0; 16] };

fn plaintext(index: u32) -> Vec<u8> {
    let mut plaintext = vec![0; SIZE.len_of(index, LEN)];
    if index != 0 {
        blake3::Hasher::new().update(&index.to_le_bytes()).finalize_xof().fill(&mut plaintext);
    }
    plaintext
}

fn key(index: u32) -> LocalKey {
    LocalKey::new(crate::secret::Secret::new([index as u8; 32]))
}

fn sealed(index: u32) -> ([u8; 16], Vec<u8>) {
    let mut copy = plaintext(index);
    (key(index).seal_copy(&mut copy).unwrap(), copy)
}

fn place(index: u32) -> Place {
    let (tag, copy) = sealed(index);
    Place { at: u64::from(index) * SIZE.bytes() as u64, len: copy.len() as u32, tag }
}

/// The chunk, as an agent that has it answers.
fn answer(index: u32) -> Vec<u8> {
    let (tag, copy) = sealed(index);
    Answer::Copy { tag, copy: &copy }.encode()
}

/// Slots in which everything is where [`place`] says.
fn slots() -> File {
    let slots = tempfile::tempfile().unwrap();
    (1..CHUNKS).for_each(|index| slots.write_all_at(&sealed(index).1, place(index).at).unwrap());
    slots
}

/// A table in which only these have places.
fn table(known: &[u32]) -> Table {
    let entry = |index| (index > 0).then(|| (key(index), known.contains(&index).then(|| place(index))));
    Table::new(CONTENT, (0..CHUNKS).map(entry)).unwrap()
}

/// A reader, and an agent that ends with it and says how often it was asked.
struct Granted {
    reader: Reader,
    agent: JoinHandle<u32>,
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// Answers each question with the packets that `answers` gives, until the other end is closed or there are none.
fn agent(socket: OwnedFd, answers: impl Fn(u32) -> Vec<Vec<u8>> + Send + 'static) -> JoinHandle<u32> {
    std::thread::spawn(move || {
        let asked = AtomicU32::new(0);
        let mut packet = [0; MAX_ASK_LEN + 1];
        while let Ok(len @ 1..) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            asked.fetch_add(1, Ordering::Relaxed);
            let answers = answers(decode_ask(&packet[..len]).expect("a question"));
            if answers.is_empty() {
                break;
            }
            for answer in answers {
                // Nobody may be there any more.
                let _ = send(socket.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL);
            }
        }
        asked.into_inner()
    })
}

impl Granted {
    fn new(table: &Table, slots: File, answers: impl Fn(u32) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let (ours, theirs) = pair();
        let reader = Reader::new(table.handed().unwrap().into(), slots, ours).unwrap();
        Self { reader, agent: agent(theirs, answers) }
    }

    fn read(&mut self, index: u32) -> Result<Vec<u8>, ReadError> {
        let mut buffer = vec![0xee; self.reader.chunk_len(index)];
        let filled = self.reader.read(index, &mut buffer)?;
        assert_eq!(filled == Filled::Zeros, buffer.iter().all(|byte| *byte == 0));
        Ok(buffer)
    }

    fn reads_all(&mut self) {
        for index in 0..CHUNKS {
            assert_eq!(self.read(index).unwrap(), plaintext(index), "chunk {index}");
        }
    }

    /// How often the agent was asked.
    fn asked(self) -> u32 {
        let told = self.reader.asked();
        drop(self.reader);
        let asked = self.agent.join().unwrap();
        assert_eq!(told, u64::from(asked));
        asked
    }
}

#[test]
fn what_is_in_its_place_is_read_without_a_word() {
    let mut granted = Granted::new(&table(&[1, 2, 3]), slots(), |_| Vec::new());
    granted.reads_all();
    let reader = &granted.reader;
    assert_eq!((reader.kind(), reader.len(), reader.chunk_size()), (Kind::Code, LEN, SIZE));
    assert_eq!((reader.chunk_len(2), reader.chunk_len(3), reader.chunk_len(4)), (16_384, 100, 0));
    assert_eq!(granted.asked(), 0);
}

#[test]
fn what_is_nowhere_or_damaged_is_asked_for() {
    let damaged = slots();
    damaged.write_all_at(b"damage", place(1).at + 5).unwrap();
    for (table, slots, asked) in [
        (table(&[2]), slots(), 2),
        (table(&[1, 2, 3]), damaged, 1),
        (table(&[1, 2, 3]), tempfile::tempfile().unwrap(), 3),
    ] {
        let mut granted = Granted::new(&table, slots, |index| vec![answer(index)]);
        granted.reads_all();
        assert_eq!(granted.asked(), asked);
    }
}

/// The agent evicts a copy and has the slot written with another one's; a reader's table is behind.
#[test]
fn a_slot_that_is_anothers_by_now_is_not_read() {
    let slots = slots();
    let mut granted = Granted::new(&table(&[1, 2]), slots.try_clone().unwrap(), |index| vec![answer(index)]);
    assert_eq!(granted.read(1).unwrap(), plaintext(1));
    slots.write_all_at(&sealed(2).1, place(1).at).unwrap();
    assert_eq!(granted.read(1).unwrap(), plaintext(1));
    assert_eq!(granted.asked(), 1);
}

#[test]
fn what_somebody_else_asked_for_is_found_where_it_is_now() {
    let table = table(&[]);
    let mut granted = Granted::new(&table, slots(), |index| vec![answer(index)]);
    assert_eq!(granted.read(0).unwrap(), plaintext(0));
    for index in 1..CHUNKS {
        table.set_place(index, place(index)).unwrap();
        assert_eq!(granted.read(index).unwrap(), plaintext(index));
    }
    assert!(matches!(table.set_place(CHUNKS, place(1)), Err(TableError::NoChunk(CHUNKS))));
    assert_eq!(granted.asked(), 0);
}

#[test]
fn a_key_that_nobody_had_derived_comes_with_the_answer() {
    let unknown = || Arc::new(Table::unknown(CONTENT, (0..CHUNKS).map(|index| index > 0)).unwrap());
    let table = unknown();
    let agents = Arc::clone(&table);
    let mut granted = Granted::new(&table, slots(), move |index| {
        agents.set(index, key(index), Some(place(index))).unwrap();
        vec![answer(index)]
    });
    for _ in 0..2 {
        (0..CHUNKS).for_each(|index| assert_eq!(granted.read(index).unwrap(), plaintext(index)));
    }
    assert_eq!(
        granted.asked(),
        CHUNKS - 1,
        "zeros are nobody's, and the others are where the table says now"
    );
    let mut keyless = Granted::new(&unknown(), slots(), |index| vec![answer(index)]);
    assert!(
        matches!(keyless.read(1), Err(ReadError::Wrong { index: 1, .. })),
        "without its key it is nothing"
    );
    assert!(matches!(table.set(CHUNKS, key(1), None), Err(TableError::NoChunk(CHUNKS))));
    assert!(Table::unknown(CONTENT, (1..CHUNKS).map(|_| true)).is_err());
}

#[test]
fn a_table_that_changes_all_the_time_is_no_harm() {
    let table = table(&[1]);
    let mut granted = Granted::new(&table, slots(), |index| vec![answer(index)]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for turn in 0..3000 {
                let wrong = Place { at: place(2).at, len: turn, tag: [turn as u8; 16] };
                table.set_place(1, if turn % 2 == 0 { wrong } else { place(1) }).unwrap();
            }
        });
        while !writer.is_finished() {
            granted.reads_all();
        }
    });
    granted.reads_all();
}

#[test]
fn an_answer_that_is_not_the_chunk_is_an_error_and_fills_nothing() {
    let (tag, copy) = sealed(1);
    let good = answer(1);
    let mut wrong = vec![answer(2), vec![2], vec![1], vec![1; 17], vec![0, 0xff], copy.clone()];
    wrong.extend([good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat(), vec![1; MAX_ANSWER_LEN]]);
    wrong.extend(few_places(good.len()).skip(1).map(|at| {
        let mut changed = good.clone();
        changed[at] ^= changes(at, good[at])[0];
        changed
    }));
    wrong.push(Answer::Copy { tag: [!tag[0]; 16], copy: &copy }.encode());
    let content = plaintext(1);
    for wrong in wrong {
        let mut granted = Granted::new(&table(&[]), slots(), move |_| vec![wrong.clone()]);
        let mut buffer = plaintext(2);
        let refused = granted.reader.read(1, &mut buffer).unwrap_err();
        assert!(matches!(refused, ReadError::Wrong { index: 1, .. }), "{refused}");
        assert!(!buffer.windows(8).any(|bytes| content.starts_with(bytes)));
        assert_eq!(granted.read(0).unwrap(), plaintext(0), "and it goes on");
        assert_eq!(granted.asked(), 1);
    }
}

#[test]
fn what_cannot_be_had_is_told_in_the_agents_words() {
    let long = "ü".repeat(MAX_ANSWER_LEN);
    let mut granted = Granted::new(&table(&[]), slots(), move |index| {
        let reason = if index == 1 { "nobody has it" } else { &long };
        vec![Answer::Failed(reason).encode()]
    });
    let refused = granted.read(1).unwrap_err();
    assert!(
        matches!(&refused, ReadError::Failed { index: 1, reason } if reason == "nobody has it"),
        "{refused}"
    );
    let Err(ReadError::Failed { reason, .. }) = granted.read(2) else { panic!("not refused") };
    assert_eq!(reason, "ü".repeat(256), "cut between two characters");
}

#[test]
fn a_socket_that_is_closed_is_an_error() {
    let mut granted = Granted::new(&table(&[3]), slots(), |_| Vec::new());
    for index in [1, 2] {
        assert!(matches!(granted.read(index), Err(ReadError::Ask { .. })), "chunk {index}");
    }
    assert_eq!(granted.read(3).unwrap(), plaintext(3), "nobody has to be asked for that");
}

#[test]
fn an_answer_that_came_too_late_is_not_taken_for_another() {
    let (ours, theirs) = pair();
    let reader = Reader::new(table(&[]).handed().unwrap().into(), slots(), ours).unwrap();
    for late in [answer(1), Answer::Failed("busy").encode()] {
        send(theirs.as_raw_fd(), &late, MsgFlags::empty()).unwrap();
    }
    let agent = agent(theirs, |index| vec![answer(index)]);
    let mut granted = Granted { reader, agent };
    assert_eq!(granted.read(2).unwrap(), plaintext(2));
    assert_eq!(granted.asked(), 1);
}

#[test]
fn no_buffer_but_the_chunks_is_filled() {
    let mut granted = Granted::new(&table(&[1, 2, 3]), slots(), |_| Vec::new());
    for (index, found) in [(0, 0), (1, 16_383), (1, 16_385), (3, 16_384), (4, 100), (u32::MAX, 100)] {
        let refused = granted.reader.read(index, &mut vec![0; found]).unwrap_err();
        assert!(matches!(refused, ReadError::Len { .. }), "{index}: {refused}");
    }
}

/// Of a content in [`scattered`].
const MANY: u32 = 60;

/// A table whose chunks lie here and there in a file on a disk, some of them zeros and the last one short.
fn scattered() -> (Table, File) {
    let content = Content { len: u64::from(MANY - 1) * SIZE.bytes() as u64 + 100, ..CONTENT };
    let slots = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let known = (0..MANY).map(|index| {
        let which = if index == MANY - 1 { 3 } else { index % 3 };
        (which > 0).then(|| {
            let (tag, copy) = sealed(which);
            // Runs of seven, the last one first, each from its end.
            let slot = (MANY / 7 - index / 7) * 7 + 6 - index % 7;
            let place = Place { at: u64::from(slot) * SIZE.bytes() as u64, len: copy.len() as u32, tag };
            slots.write_all_at(&copy, place.at).unwrap();
            (key(which), Some(place))
        })
    });
    (Table::new(content, known).unwrap(), slots)
}

fn reads_many(granted: &mut Granted) {
    for index in 0..MANY {
        let expected = if index == MANY - 1 { 3 } else { index % 3 };
        assert_eq!(granted.read(index).unwrap(), plaintext(expected), "chunk {index}");
    }
}

#[test]
fn what_is_read_in_bulk_is_the_same_and_past_the_page_cache_if_it_is_not_there() {
    let (table, slots) = scattered();
    let read = |slots| {
        let mut granted = Granted::new(&table, slots, |_| Vec::new());
        granted.reader.in_bulk();
        let is_past_cache = granted.reader.is_past_cache();
        reads_many(&mut granted);
        assert_eq!(granted.asked(), 0);
        is_past_cache
    };
    assert!(!read(crate::for_reading(&slots).unwrap().into()), "it was written just now");
    slots.sync_all().unwrap();
    posix_fadvise(&slots, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let theirs = File::from(crate::for_reading(&slots).unwrap());
    assert!(read(theirs.try_clone().unwrap()));
    let is_direct = |file: &File| fcntl(file, FcntlArg::F_GETFL).unwrap() & OFlag::O_DIRECT.bits() != 0;
    assert!(is_direct(&theirs) && !is_direct(&slots), "nobody else's");
}

#[test]
fn what_is_damaged_among_what_is_read_in_bulk_is_asked_for_alone() {
    let (table, slots) = scattered();
    let at = File::from(table.handed().unwrap());
    let mut entry = [0; ENTRY_LEN];
    at.read_exact_at(&mut entry, entry_at(4)).unwrap();
    let place = super::table::decode(&entry).unwrap().unwrap().place.unwrap();
    slots.write_all_at(b"damage", place.at).unwrap();
    let mut granted = Granted::new(&table, slots, |index| vec![answer(index % 3)]);
    granted.reader.in_bulk();
    reads_many(&mut granted);
    assert_eq!(granted.asked(), 1);
}

#[test]
fn a_content_without_chunks_has_a_table() {
    let table = Table::new(Content { len: 0, ..CONTENT }, std::iter::empty()).unwrap();
    let mut granted = Granted::new(&table, slots(), |_| Vec::new());
    assert_eq!(granted.reader.len(), 0);
    assert!(matches!(granted.reader.read(0, &mut []), Err(ReadError::Len { .. })));
}

#[test]
fn a_table_of_many_chunks_says_the_same_of_each() {
    let content = Content { len: 9000 * SIZE.bytes() as u64, ..CONTENT };
    let known =
        |index: u32| Some((key(index % 3 + 1), index.is_multiple_of(2).then(|| place(index % 3 + 1))));
    let table = Table::new(content, (0..9000).map(known)).unwrap();
    let mut granted = Granted::new(&table, slots(), |index| vec![answer(index % 3 + 1)]);
    for index in (0..9000).step_by(611).filter(|index| index % 3 != 2) {
        assert_eq!(granted.read(index).unwrap(), plaintext(index % 3 + 1), "chunk {index}");
    }
    for chunks in [8999, 9001] {
        assert!(matches!(Table::new(content, (0..chunks).map(known)), Err(TableError::Invalid(_))));
    }
    assert!(Table::new(Content { len: u64::MAX, ..content }, std::iter::empty()).is_err());
}

#[test]
fn what_is_handed_out_cannot_be_written() {
    let table = table(&[1]);
    let handed = File::from(table.handed().unwrap());
    assert!(handed.write_at(b"x", 0).is_err() && handed.set_len(0).is_err());
}

/// The agent is not to be believed either, but for what the content is of.
#[test]
fn every_byte_of_a_table_is_right_or_found_out() {
    let good = {
        let mut good = vec![0; HEADER_LEN + CHUNKS as usize * ENTRY_LEN];
        File::from(table(&[1, 2, 3]).handed().unwrap()).read_exact_at(&mut good, 0).unwrap();
        good
    };
    let slots = slots();
    let (ours, theirs) = pair();
    let answers: Vec<_> = (0..CHUNKS).map(answer).collect();
    let agent = agent(theirs, move |index| vec![answers[index as usize].clone()]);
    let contents: Vec<_> = (0..CHUNKS).map(plaintext).collect();
    let file = tempfile::tempfile().unwrap();
    for at in places(good.len()) {
        for change in changes(at, good[at]) {
            file.write_all_at(&good, 0).unwrap();
            file.write_all_at(&[good[at] ^ change], at as u64).unwrap();
            let [table, slots] = [&file, &slots].map(|file| file.try_clone().unwrap());
            let Ok(mut reader) = Reader::new(table, slots, ours.try_clone().unwrap()) else { continue };
            assert!(at >= HEADER_LEN, "byte {at} ^ {change:#x} of the header was not found out");
            for index in 0..CHUNKS {
                let mut buffer = vec![0xee; reader.chunk_len(index)];
                let read = reader.read(index, &mut buffer);
                let is_changed = (entry_at(index)..entry_at(index + 1)).contains(&(at as u64));
                assert!(read.is_ok() || is_changed, "chunk {index}, byte {at} ^ {change:#x}: {read:?}");
                assert!(
                    read.is_err() || buffer == contents[index as usize],
                    "chunk {index}, byte {at} ^ {change:#x}"
                );
            }
        }
    }
    drop(ours);
    assert!(agent.join().unwrap() > 0);
}

#[test]
fn a_table_that_is_cut_off_or_anothers_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let whole = table(&[1, 2, 3]);
    let mut good = vec![0; HEADER_LEN + CHUNKS as usize * ENTRY_LEN];
    File::from(whole.handed().unwrap()).read_exact_at(&mut good, 0).unwrap();
    for len in (0..good.len()).step_by(9) {
        file.set_len(0).unwrap();
        file.write_all_at(&good[..len], 0).unwrap();
        let refused = Reader::new(file.try_clone().unwrap(), slots(), pair().0);
        assert!(refused.is_err(), "cut to {len} bytes");
    }
    let longest = Content { chunk_size: ChunkSize::LONGEST, len: 5, ..CONTENT };
    let table = Table::new(longest, std::iter::once(None)).unwrap();
    let refused = Reader::new(table.handed().unwrap().into(), slots(), pair().0).unwrap_err();
    assert!(matches!(refused, ReadError::Table(TableError::Invalid(_))), "{refused}");
}

#[test]
fn a_content_of_ones_own_comes_back_without_an_agent() {
    let content: Vec<u8> = (0..CHUNKS).flat_map(plaintext).collect();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content, 0).unwrap();
    for size in [SIZE, ChunkSize::IMAGE] {
        let sealed = LocalContent::seal(&file, Kind::Memory, size, tempfile::tempfile().unwrap()).unwrap();
        let slots = sealed.slots.try_clone().unwrap();
        let mut reader = Reader::new(sealed.table.handed().unwrap().into(), slots, pair().0).unwrap();
        let mut found = Vec::new();
        for index in 0..size.count(LEN).unwrap() {
            let mut buffer = vec![0; reader.chunk_len(index)];
            reader.read(index, &mut buffer).unwrap();
            found.extend_from_slice(&buffer);
        }
        assert_eq!((found, reader.asked()), (content.clone(), 0));
        sealed.slots.write_all_at(b"damage", 0).unwrap();
        let first_stored = u32::from(size == SIZE);
        let mut buffer = vec![0; reader.chunk_len(first_stored)];
        assert!(matches!(reader.read(first_stored, &mut buffer), Err(ReadError::Ask { .. })));
    }
}
