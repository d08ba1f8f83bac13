//! Drafts: nobody's but their publish's, whole or gone, and named when they have been flushed.

use super::*;

/// Half a draft is there, and then somebody else's chunk.
#[test]
fn a_draft_that_was_not_finished_is_not_put_in_the_place_of_a_chunk() {
    let disk = Arc::new(FakeDisk::default());
    let store = Store::on(Box::new(Arc::clone(&disk)));
    let publishing = store.publish();
    disk.look().torn = true;
    publishing.add(sealed(1)).unwrap_err();
    publish(&store, &label(0), &[1]);
    let entry = publishing.add(sealed(1)).unwrap();
    publishing.commit(&label(1), &manifest(vec![entry]), b"sealed").unwrap();
    assert_eq!(disk.roots().len(), 2);
}

/// A disk tells of a failure once: also those are told who did not ask at that moment.
#[test]
fn a_flush_that_fails_is_everybodys_who_has_written_before() {
    let disk = Arc::new(FakeDisk::default());
    let store = Store::on(Box::new(Arc::clone(&disk)));
    let add = |publish: &Publish<'_>, chunk| manifest(vec![publish.add(sealed(chunk)).unwrap()]);
    let (one, other) = (store.publish(), store.publish());
    let (first, second) = (add(&one, 1), add(&other, 2));
    disk.look().fails = true;
    assert!(matches!(one.commit(&label(0), &first, b"sealed"), Err(StoreError::Disk { .. })));
    assert!(matches!(other.commit(&label(1), &second, b"sealed"), Err(StoreError::Disk { .. })));
    assert!(disk.look().files.is_empty() && disk.look().drafts.is_empty());
    publish(&store, &label(2), &[1, 2]);
    assert_eq!(disk.roots().len(), 1);
}

#[test]
fn two_publishes_of_the_same_chunks_do_not_need_each_other() {
    for (first_ends, second_ends) in [(true, true), (true, false), (false, true)] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let (first, second) = (store.publish(), store.publish());
        let mut made = Vec::new();
        for chunk in [1, 2, 1] {
            let entries = [&first, &second].map(|publish| publish.add(sealed(chunk)).unwrap());
            assert_eq!(entries[0], entries[1]);
            made.extend(entries);
        }
        let manifest = manifest(made);
        for (number, (publish, ends)) in [(first, first_ends), (second, second_ends)].into_iter().enumerate()
        {
            if ends {
                publish.commit(&label(number), &manifest, b"sealed").unwrap();
            }
        }
        assert_eq!(store.roots().unwrap().len(), usize::from(first_ends) + usize::from(second_ends));
        assert_eq!(store.verify().unwrap(), Health { chunks: 2, ..Health::default() });
        // One publish's segment and its index; the other's, too, where both have written.
        assert!(files(root.path()) <= 4, "an index for each flush is left");
    }
}

#[test]
fn what_is_added_and_not_needed_is_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let publish = store.publish();
    publish.add(sealed(1)).unwrap();
    let needed = manifest(vec![publish.add(sealed(2)).unwrap()]);
    assert_eq!((taken(root.path()), store.stats().unwrap().chunks), (2 * 4096, 0), "drafts");
    publish.commit(&label(0), &needed, b"sealed").unwrap();
    assert_eq!(store.stats().unwrap().chunks, 1);
    // What was not needed is given back by whoever flushes next.
    super::publish(&store, &label(1), &[2]);
    assert_eq!((files(root.path()), taken(root.path())), (2, 2 * 4096), "a chunk and an index");
}

#[test]
fn drafts_that_were_left_are_deleted_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let publish = store.publish();
    publish.add(sealed(1)).unwrap();
    std::mem::forget(publish);
    std::fs::write(root.path().join("roots/a.7.part"), "half").unwrap();
    drop(store);
    Store::open(root.path()).unwrap();
    assert_eq!((files(root.path()), root.path().join("roots/a.7.part").exists()), (0, false));
}

#[test]
fn threads_add_to_one_publish() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let publish = store.publish();
    let entries: Vec<_> = std::thread::scope(|scope| {
        let add = || (0..CHUNKS).map(|chunk| publish.add(sealed(chunk)).unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    publish.commit(&label(0), &manifest(entries), b"sealed").unwrap();
    assert_eq!(store.verify().unwrap(), Health { chunks: CHUNKS.into(), ..Health::default() });
}
