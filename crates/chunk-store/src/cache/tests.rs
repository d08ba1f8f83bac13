//! A chunk comes from its file or from its source, and is right whatever both of them do.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Barrier, mpsc};

use super::*;
use crate::{Salt, Sealed, seal};

const LEN: usize = 200;
/// Bytes of the copy of each chunk here.
const COPY_LEN: u64 = LEN as u64 + 16;

/// A chunk of each number, all of them alike in length.
fn chunk(number: u32) -> (Entry, Vec<u8>, Vec<u8>) {
    let mut plaintext = vec![0; LEN];
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
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), NodeSecret::new([9; 32]), capacity).unwrap();
        Self { root, cache }
    }

    fn restarted(self, capacity: u64) -> Self {
        let cache = Cache::open(self.root.path(), NodeSecret::new([9; 32]), capacity).unwrap();
        Self { root: self.root, cache }
    }

    /// Reads a chunk, which is right, and says whether its source was asked.
    fn asks(&self, number: u32) -> bool {
        let (entry, body, plaintext) = chunk(number);
        let source = Told::new(|_| Ok(body.clone()));
        assert_eq!(*self.cache.get(&entry, LEN, &source).unwrap(), plaintext);
        source.asked() > 0
    }

    fn file(&self, number: u32) -> PathBuf {
        self.cache.directory.path(&self.cache.secret.name_of(&chunk(number).0))
    }

    /// Bytes on the disk.
    fn bytes(&self) -> u64 {
        let folders = fs::read_dir(self.root.path()).unwrap().map(|folder| folder.unwrap().path());
        let files = folders.filter(|folder| folder.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }
}

#[test]
fn a_chunk_is_fetched_once_and_kept_over_a_restart() {
    let node = Node::new(10 * COPY_LEN);
    assert!(node.asks(1) && !node.asks(1));
    let node = node.restarted(10 * COPY_LEN);
    assert!(!node.asks(1));
    let expected = CacheStats { hits: 1, files: 1, bytes: COPY_LEN, ..CacheStats::default() };
    assert_eq!(node.cache.stats(), expected);
}

#[test]
fn the_disk_never_holds_more_than_it_may() {
    let node = Node::new(10 * COPY_LEN - 1);
    for number in 0..40 {
        assert!(node.asks(number));
        assert!(node.bytes() < 10 * COPY_LEN && node.bytes() == node.cache.stats().bytes);
    }
    assert_eq!((node.cache.stats().files, node.cache.stats().evicted), (9, 31));
    let last = fs::File::options().write(true).open(node.file(39)).unwrap();
    last.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1)).unwrap();
    let node = node.restarted(4 * COPY_LEN);
    assert_eq!(node.bytes(), 4 * COPY_LEN, "there is less room now");
    assert!(!node.asks(39), "what was written last has stayed");
    let node = node.restarted(COPY_LEN - 1);
    assert!(node.bytes() == 0 && node.asks(39) && node.asks(39), "what does not fit is not kept");
    assert_eq!(node.bytes(), 0);
}

#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let node = Node::new(20 * COPY_LEN);
    (0..10).for_each(|number| assert!(node.asks(number) && !node.asks(number)));
    (100..200).for_each(|number| assert!(node.asks(number)));
    (0..10).for_each(|number| assert!(!node.asks(number), "chunk {number}"));
}

#[test]
fn every_kind_of_damage_to_a_file_is_found_out_and_made_good() {
    let node = Node::new(100 * COPY_LEN);
    node.asks(1);
    let good = fs::read(node.file(1)).unwrap();
    let mut damages: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    damages.extend((0..good.len()).map(|at| {
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        changed
    }));
    damages.push([&good[..], b"x"].concat());
    damages.push(chunk(1).1);
    node.asks(2);
    damages.push(fs::read(node.file(2)).unwrap());
    let count = damages.len() as u64;
    for damage in damages {
        fs::write(node.file(1), damage).unwrap();
        assert!(node.asks(1) && !node.asks(1));
        assert_eq!(fs::read(node.file(1)).unwrap(), good);
    }
    let CacheStats { damaged, files, failed, .. } = node.cache.stats();
    assert_eq!((damaged, files, failed), (count, 2, 0));
}

#[test]
fn a_directory_that_disappears_is_made_again() {
    let node = Node::new(10 * COPY_LEN);
    node.asks(1);
    fs::remove_dir_all(node.root.path()).unwrap();
    assert!(node.asks(1) && !node.asks(1));
    assert_eq!(node.cache.stats().failed, 0);
}

#[test]
fn a_disk_that_takes_no_files_makes_it_slower_and_not_wrong() {
    let node = Node::new(10 * COPY_LEN);
    let folder = node.file(1).parent().unwrap().to_owned();
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "no folder").unwrap();
    assert!(node.asks(1) && node.asks(1));
    let CacheStats { failed, files, bytes, .. } = node.cache.stats();
    assert!(failed >= 2 && files == 0 && bytes == 0, "{failed} failures");
}

#[test]
fn what_was_never_finished_goes_and_what_is_somebody_elses_stays() {
    let node = Node::new(10 * COPY_LEN);
    node.asks(1);
    let folder = node.file(1).parent().unwrap().to_owned();
    let (unfinished, foreign) = (node.file(1).with_extension("part"), folder.join("README"));
    let misplaced = node.root.path().join("zz");
    for path in [&unfinished, &foreign, &misplaced] {
        fs::write(path, "text").unwrap();
    }
    let node = node.restarted(10 * COPY_LEN);
    assert!(!unfinished.exists() && foreign.exists() && misplaced.exists());
    assert_eq!((node.cache.stats().files, node.asks(1)), (1, false));
}

#[test]
fn another_secret_finds_nothing() {
    let node = Node::new(10 * COPY_LEN);
    node.asks(1);
    let cache = Cache::open(node.root.path(), NodeSecret::new([8; 32]), 10 * COPY_LEN).unwrap();
    assert!(Node { cache, root: node.root }.asks(1));
}

#[test]
fn a_source_is_asked_three_times_and_not_believed() {
    let node = Node::new(10 * COPY_LEN);
    let (entry, body, plaintext) = chunk(1);
    let failing = Told::new(|_| Err(SourceError::Failed("no answer".into())));
    assert!(matches!(node.cache.get(&entry, LEN, &failing), Err(CacheError::Source { .. })));
    assert_eq!(failing.asked(), ATTEMPTS);
    let absent = Told::new(|_| Err(SourceError::Absent));
    assert!(matches!(node.cache.get(&entry, LEN, &absent), Err(CacheError::Source { .. })));
    assert_eq!(absent.asked(), 1);
    let swapped = Told::new(|_| Ok(chunk(2).1));
    let refused = node.cache.get(&entry, LEN, &swapped).unwrap_err();
    assert!(matches!(refused, CacheError::Chunk { source: ChunkError::Name { .. }, .. }), "{refused}");
    let recovering = Told::new(|attempt| match attempt {
        0 => Err(SourceError::Failed("no answer".into())),
        1 => Ok(body[..100].to_vec()),
        _ => Ok(body.clone()),
    });
    assert_eq!(*node.cache.get(&entry, LEN, &recovering).unwrap(), plaintext);
    let CacheStats { fetched, refused, files, .. } = node.cache.stats();
    assert_eq!((fetched, refused, files), (1, 4, 1));
    for len in [0, LEN - 1, ChunkSize::LONGEST.bytes() + 1, usize::MAX] {
        let source = Told::new(|_| Ok(body.clone()));
        assert!(node.cache.get(&entry, len, &source).is_err(), "{len} bytes");
    }
}

#[test]
fn who_comes_at_the_same_time_fetches_once() {
    let node = Node::new(10 * COPY_LEN);
    let (entry, body, plaintext) = chunk(1);
    let all_there = Barrier::new(8);
    let (first, others) = mpsc::channel();
    let others = Mutex::new(others);
    let source = Told::new(|_| {
        // Answers when the seven others have come, as far as their call.
        (0..7).for_each(|_| others.lock().unwrap().recv().unwrap());
        Ok(body.clone())
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                all_there.wait();
                first.send(()).unwrap();
                assert_eq!(*node.cache.get(&entry, LEN, &source).unwrap(), plaintext);
            });
        }
    });
    assert_eq!((source.asked(), node.cache.stats().fetched), (1, 1));
}

#[test]
fn who_waits_for_one_that_panics_fetches_itself() {
    let node = Node::new(10 * COPY_LEN);
    let (entry, body, plaintext) = chunk(1);
    let (waits, second) = mpsc::channel::<()>();
    let second = Mutex::new(second);
    let panicking = Told::new(|_| {
        second.lock().unwrap().recv().unwrap();
        panic!("on purpose")
    });
    let good = Told::new(|_| Ok(body.clone()));
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| node.cache.get(&entry, LEN, &panicking).is_ok());
        let waiting = scope.spawn(|| {
            waits.send(()).unwrap();
            node.cache.get(&entry, LEN, &good).unwrap()
        });
        assert_eq!(*waiting.join().unwrap(), plaintext);
        // Either it panicked, or it came second and found the file.
        let _ = lost.join();
    });
    assert!(!node.asks(1));
}

#[test]
fn many_threads_and_little_room_agree_with_the_disk() {
    let node = Node::new(5 * COPY_LEN);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let node = &node;
            scope.spawn(move || (0..200).for_each(|step| _ = node.asks((step * (thread + 3)) % 17)));
        }
    });
    let CacheStats { bytes, failed, refused, damaged, .. } = node.cache.stats();
    assert_eq!((bytes, failed, refused, damaged), (node.bytes(), 0, 0, 0));
    assert!(bytes <= 5 * COPY_LEN);
}
