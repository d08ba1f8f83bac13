//! Sources: asked as often as they may be, by one of all who wait, and never believed.

use std::sync::{Barrier, mpsc};

use super::*;

fn get(node: &Node, entry: &Entry, len: usize, source: &dyn Source) -> Result<Vec<u8>, CacheError> {
    node.cache.get(Wanted { entry, len, size: SIZE }, source).map(|found| found.plaintext.clone())
}

#[test]
fn a_source_is_asked_three_times_and_not_believed() {
    let node = Node::new(10 * SLOT);
    let (entry, body, plaintext) = chunk(1);
    let failing = Told::new(|_| Err(SourceError::Failed("no answer".into())));
    assert!(matches!(get(&node, &entry, LEN, &failing), Err(CacheError::Source { .. })));
    assert_eq!(failing.asked(), ATTEMPTS);
    let absent = Told::new(|_| Err(SourceError::Absent));
    assert!(matches!(get(&node, &entry, LEN, &absent), Err(CacheError::Source { .. })));
    assert_eq!(absent.asked(), 1);
    let swapped = Told::new(|_| Ok(chunk(2).1));
    let refused = get(&node, &entry, LEN, &swapped).unwrap_err();
    assert!(matches!(refused, CacheError::Chunk { source: ChunkError::Name { .. }, .. }), "{refused}");
    let recovering = Told::new(|attempt| match attempt {
        0 => Err(SourceError::Failed("no answer".into())),
        1 => Ok(body[..100].to_vec()),
        _ => Ok(body.clone()),
    });
    assert_eq!(get(&node, &entry, LEN, &recovering).unwrap(), plaintext);
    let CacheStats { fetched, refused, copies, .. } = node.cache.stats();
    assert_eq!((fetched, refused, copies), (1, 4, 1));
}

#[test]
fn a_length_that_is_not_the_chunks_gets_nothing_and_drops_nothing() {
    let node = Node::new(10 * SLOT);
    let (entry, body, _) = chunk(1);
    node.asks(1);
    for len in [0, LEN - 1, LEN + 1, ChunkSize::LONGEST.bytes() + 1, usize::MAX] {
        let source = Told::new(|_| Ok(body.clone()));
        let refused = get(&node, &entry, len, &source);
        assert!(matches!(refused, Err(CacheError::Chunk { .. })), "{len} bytes");
    }
    assert!(!node.asks(1));
}

#[test]
fn who_comes_at_the_same_time_fetches_once() {
    let node = Node::new(10 * SLOT);
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
                assert_eq!(get(&node, &entry, LEN, &source).unwrap(), plaintext);
            });
        }
    });
    assert_eq!((source.asked(), node.cache.stats().fetched), (1, 1));
}

/// Each of two contents that are cut differently gets a place in its own file.
#[test]
fn who_wants_it_in_another_file_fetches_itself() {
    let node = Node::new(10 * ChunkSize::IMAGE.bytes() as u64);
    let (entry, body, _) = chunk_of(1, 500);
    let (comes, other) = mpsc::channel();
    let other = Mutex::new(other);
    let first = Told::new(|_| {
        other
            .lock()
            .unwrap()
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("the other one comes, too");
        Ok(body.clone())
    });
    let second = Told::new(|_| {
        comes.send(()).unwrap();
        Ok(body.clone())
    });
    let wanted = |size| Wanted { entry: &entry, len: 500, size };
    std::thread::scope(|scope| {
        scope.spawn(|| node.cache.get(wanted(SIZE), &first).unwrap());
        scope.spawn(|| node.cache.get(wanted(ChunkSize::IMAGE), &second).unwrap());
    });
    assert_eq!((first.asked(), second.asked(), node.cache.stats().copies), (1, 1, 1));
}

#[test]
fn who_waits_for_one_that_panics_fetches_itself() {
    let node = Node::new(10 * SLOT);
    let (entry, body, plaintext) = chunk(1);
    let (waits, second) = mpsc::channel::<()>();
    let second = Mutex::new(second);
    let panicking = Told::new(|_| {
        second.lock().unwrap().recv().unwrap();
        panic!("on purpose")
    });
    let good = Told::new(|_| Ok(body.clone()));
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| get(&node, &entry, LEN, &panicking).is_ok());
        let waiting = scope.spawn(|| {
            waits.send(()).unwrap();
            get(&node, &entry, LEN, &good).unwrap()
        });
        assert_eq!(waiting.join().unwrap(), plaintext);
        // Either it panicked, or it came second and found the file.
        let _ = lost.join();
    });
    assert!(!node.asks(1));
}
