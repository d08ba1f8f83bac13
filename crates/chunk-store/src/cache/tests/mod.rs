//! A chunk comes from its slot or from its source, and is right whatever both of them do.

mod disk;
mod shelf;
mod sources;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::AtomicU32;

use super::*;
use crate::{Salt, Sealed, seal};

const SIZE: ChunkSize = ChunkSize::MEMORY;
const LEN: usize = SIZE.bytes();
/// Bytes of the slot of each chunk here.
const SLOT: u64 = LEN as u64;
/// What file systems count with a file's blocks that are not its content.
const FILE_SLACK: u64 = 64 << 10;

/// A chunk of each number, all of them alike in length.
fn chunk(number: u32) -> (Entry, Vec<u8>, Vec<u8>) {
    chunk_of(number, LEN)
}

fn chunk_of(number: u32, len: usize) -> (Entry, Vec<u8>, Vec<u8>) {
    let mut plaintext = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plaintext);
    match seal(&plaintext, &Salt::new([1; 16], [1; 32])).unwrap() {
        Sealed::Chunk { entry, body } => (entry, body, plaintext),
        Sealed::Zero => panic!("zeros"),
    }
}

/// Answers each attempt as it is told, and counts them.
struct Told<F>(F, AtomicU32);

impl<F: Fn(u32) -> Result<Vec<u8>, SourceError>> Told<F> {
    fn new(answer: F) -> Self {
        Self(answer, AtomicU32::new(0))
    }

    fn asked(&self) -> u32 {
        self.1.load(Ordering::Relaxed)
    }
}

impl<F: Fn(u32) -> Result<Vec<u8>, SourceError>> Source for Told<F> {
    fn fetch(&self, _name: &ChunkName, max_len: usize, attempt: u32) -> Result<Vec<u8>, SourceError> {
        assert_eq!(max_len, MAX_BODY_LEN);
        self.1.fetch_add(1, Ordering::Relaxed);
        (self.0)(attempt)
    }
}

struct Node {
    root: tempfile::TempDir,
    cache: Cache,
}

impl Node {
    fn new(capacity: u64) -> Self {
        Self::on(tempfile::tempdir().unwrap(), capacity)
    }

    fn on(root: tempfile::TempDir, capacity: u64) -> Self {
        let cache = Cache::open(root.path(), NodeSecret::new([9; 32]), capacity).unwrap();
        Self { root, cache }
    }

    fn restarted(self, capacity: u64) -> Self {
        let Self { root, cache } = self;
        drop(cache);
        Self::on(root, capacity)
    }

    /// Reads a chunk, which is right, and says whether its source was asked.
    fn asks(&self, number: u32) -> bool {
        self.asks_among(number, LEN, SIZE)
    }

    fn asks_among(&self, number: u32, len: usize, size: ChunkSize) -> bool {
        let (entry, body, plaintext) = chunk_of(number, len);
        let source = Told::new(|_| Ok(body.clone()));
        let found = self.cache.get(Wanted { entry: &entry, len, size }, &source).unwrap();
        assert_eq!(found.plaintext, plaintext);
        let mut opened = vec![0; len];
        self.cache.secret.key_of(&entry).open_copy(&found.copy, &found.tag, &mut opened).unwrap();
        assert_eq!(opened, plaintext, "the copy is of the same");
        source.asked() > 0
    }

    fn locate(&self, number: u32) -> Option<Place> {
        self.cache.locate(Wanted { entry: &chunk(number).0, len: LEN, size: SIZE })
    }

    /// The file of copies, as whoever damages it has it.
    fn slots(&self) -> File {
        self.writable("slots-14")
    }

    fn writable(&self, name: &str) -> File {
        File::options().read(true).write(true).open(self.root.path().join(name)).unwrap()
    }

    /// Whether a reader that was given this place of a chunk opens what is there.
    fn opens(&self, number: u32, place: Place) -> bool {
        let (entry, _, plaintext) = chunk(number);
        let (mut copy, mut opened) = (vec![0; place.len as usize], vec![0; LEN]);
        self.cache.slots(SIZE).unwrap().read_exact_at(&mut copy, place.at).unwrap();
        let is_open = self.cache.secret.key_of(&entry).open_copy(&copy, &place.tag, &mut opened).is_ok();
        assert!(!is_open || opened == plaintext);
        is_open
    }

    /// Bytes of copies on the disk. One file is looked at after the other, and what has gone from one meanwhile may be in the next: what
    /// counts is what two looks see.
    fn bytes(&self) -> u64 {
        let blocks = |size: u8| {
            fs::metadata(self.root.path().join(format!("slots-{size}"))).map_or(0, |file| file.blocks())
        };
        let look = || (14..=20).map(blocks).collect::<Vec<_>>();
        let mut seen = look();
        loop {
            let again = look();
            if again == seen {
                return seen.iter().sum::<u64>() * 512;
            }
            seen = again;
        }
    }
}

#[test]
fn a_chunk_is_fetched_once_and_kept_over_a_restart() {
    let node = Node::new(10 * SLOT);
    assert!(node.locate(1).is_none() && node.asks(1) && !node.asks(1));
    let place = node.locate(1).unwrap();
    let node = node.restarted(10 * SLOT);
    assert_eq!(node.locate(1), Some(place), "places survive");
    assert!(node.opens(1, place) && !node.asks(1));
    let expected =
        CacheStats { hits: 1, copies: 1, bytes: SLOT, capacity: 10 * SLOT, ..CacheStats::default() };
    assert_eq!(node.cache.stats(), expected);
}

#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let node = Node::new(20 * SLOT);
    (0..10).for_each(|number| assert!(node.asks(number) && !node.asks(number)));
    (100..200).for_each(|number| assert!(node.asks(number)));
    (0..10).for_each(|number| assert!(!node.asks(number), "chunk {number}"));
}

#[test]
fn a_place_of_what_has_gone_does_not_open() {
    let node = Node::new(SLOT);
    node.asks(1);
    let place = node.locate(1).unwrap();
    assert!(node.opens(1, place));
    (2..5).for_each(|number| _ = node.asks(number));
    assert_eq!(node.locate(1), None);
    assert!(!node.opens(1, place), "another's by now");
    assert!(node.asks(1) && node.opens(1, node.locate(1).unwrap()));
}

#[test]
fn what_is_handed_out_is_for_reading() {
    let node = Node::new(2 * SLOT);
    node.asks(1);
    let handed = node.cache.slots(SIZE).unwrap();
    assert!(handed.write_at(b"x", 0).is_err() && handed.set_len(0).is_err());
    assert!(!node.asks(1));
}

#[test]
fn what_is_known_is_kept_without_a_source() {
    let node = Node::new(10 * SLOT);
    let (entry, _, plaintext) = chunk(1);
    let wanted = Wanted { entry: &entry, len: LEN, size: SIZE };
    node.cache.keep_known(wanted, &plaintext[1..]);
    assert!(!node.cache.verify(wanted), "that was not it");
    node.cache.keep_known(wanted, &plaintext);
    node.cache.keep_known(wanted, &plaintext);
    assert!(node.cache.verify(wanted) && !node.asks(1));
    let (key, place) = node.cache.known(wanted);
    assert_eq!((key, place), (node.cache.secret.key_of(&entry), node.locate(1)));
    assert_eq!((node.cache.stats().copies, node.cache.stats().fetched), (1, 0));
    node.slots().write_all_at(b"damage", 100).unwrap();
    assert!(!node.cache.verify(wanted) && node.locate(1).is_none());
    assert_eq!(node.cache.stats().damaged, 1);
}

/// The last chunk of one content may be one of another that is cut otherwise.
#[test]
fn a_chunk_that_is_wanted_among_others_moves() {
    let node = Node::new(10 * ChunkSize::IMAGE.bytes() as u64);
    assert!(node.asks_among(1, 500, SIZE) && node.asks_among(1, 500, ChunkSize::IMAGE));
    assert!(!node.asks_among(1, 500, ChunkSize::IMAGE));
    let CacheStats { copies, bytes, damaged, .. } = node.cache.stats();
    assert_eq!((copies, bytes, damaged), (1, ChunkSize::IMAGE.bytes() as u64, 0));
}

#[test]
fn another_secret_finds_nothing() {
    let Node { root, cache } = Node::new(10 * SLOT);
    let node = Node { root, cache };
    node.asks(1);
    let cache = Cache::open(node.root.path(), NodeSecret::new([8; 32]), 10 * SLOT).unwrap();
    assert!(Node { cache, root: node.root }.asks(1));
}

#[test]
fn many_threads_and_little_room_agree_with_the_disk() {
    let large = ChunkSize::IMAGE.bytes() as u64;
    let node = Node::new(2 * large + SLOT);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let node = &node;
                scope.spawn(move || {
                    for step in 0..150 {
                        let number = (step * (thread + 3)) % 17;
                        let size = if number % 4 == 0 { ChunkSize::IMAGE } else { SIZE };
                        node.asks_among(number, size.bytes(), size);
                    }
                })
            })
            .collect();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let bytes = node.bytes();
            assert!(bytes <= 2 * large + SLOT + FILE_SLACK, "{bytes} bytes");
        }
    });
    let CacheStats { bytes, failed, refused, damaged, .. } = node.cache.stats();
    assert_eq!((failed, refused, damaged), (0, 0, 0));
    assert!(bytes <= 2 * large + SLOT && node.bytes() <= bytes + FILE_SLACK);
}
