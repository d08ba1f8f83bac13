//! Damage is found, told and made good, whatever else happens at the time.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::tests::damage::{changes, places};

/// Has these chunks, or bodies that are not theirs.
struct Has(Vec<u8>, bool);

impl Source for Has {
    fn fetch(&self, wanted: &ChunkName, _max_len: usize, _attempt: u32) -> Result<Vec<u8>, SourceError> {
        let Self(chunks, is_good) = self;
        let bodies = chunks.iter().map(|chunk| sealed(*chunk));
        let body = bodies.into_iter().find_map(|sealed| match sealed {
            Sealed::Chunk { entry, body } if entry.name == *wanted => Some(body),
            _ => None,
        });
        body.map(|body| if *is_good { body } else { body[1..].to_vec() }).ok_or(SourceError::Absent)
    }
}

struct Node {
    root: tempfile::TempDir,
    store: Store,
}

impl Node {
    /// With chunks 1 to 3 under `a`, and 4 that nobody needs.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        publish(&store, &label(1), &[4]);
        store.delete(&label(1)).unwrap();
        publish(&store, &label(0), &[1, 2, 3]);
        Self { root, store }
    }

    /// Where a chunk's body is that is whole: a segment, and from which byte on.
    fn spot(&self, chunk: u8) -> (File, u64) {
        let body = body(chunk);
        let files = std::fs::read_dir(self.root.path().join("chunks")).unwrap();
        let mut found = files.filter_map(|file| {
            let path = file.unwrap().path();
            let content = std::fs::read(&path).unwrap();
            let at = content.windows(body.len()).position(|bytes| bytes == body)?;
            Some((File::options().write(true).open(path).unwrap(), at as u64))
        });
        found.next().expect("it is there")
    }

    fn damage(&self, chunk: u8) {
        let (file, at) = self.spot(chunk);
        file.write_all_at(b"damage", at).unwrap();
    }

    fn lose(&self, chunk: u8) {
        self.store.disk.remove(&Place::Chunk(name(chunk))).unwrap();
    }

    fn check(&self, chunks: u64, damaged: &[u8], missing: &[u8]) {
        let sorted = |chunks: &[u8]| chunks.iter().map(|chunk| name(*chunk)).collect::<BTreeSet<_>>();
        let found = self.store.verify().unwrap();
        assert_eq!(found.chunks, chunks);
        assert_eq!(found.damaged, sorted(damaged).into_iter().collect::<Vec<_>>(), "damaged");
        assert_eq!(found.missing, sorted(missing).into_iter().collect::<Vec<_>>(), "missing");
    }
}

#[test]
fn what_there_is_is_counted() {
    let node = Node::new();
    let bytes = (1..=4).map(|chunk| body(chunk).len() as u64).sum();
    assert_eq!(node.store.stats().unwrap(), StoreStats { chunks: 4, bytes, roots: 1 });
    node.store.collect().unwrap();
    assert_eq!(node.store.stats().unwrap().chunks, 3);
}

#[test]
fn damage_of_every_kind_is_found() {
    let node = Node::new();
    node.check(4, &[], &[]);
    let good = body(1);
    let (file, from) = node.spot(1);
    for at in places(good.len()) {
        let mut changed = good.clone();
        changed[at] ^= changes(at, good[at])[0];
        file.write_all_at(&changed, from).unwrap();
        node.check(4, &[1], &[]);
    }
    file.write_all_at(&good, from).unwrap();
    let (file, from) = node.spot(3);
    file.set_len(from + 1).unwrap();
    node.check(4, &[3], &[]);
    file.write_all_at(&body(3), from).unwrap();
    node.damage(4);
    node.lose(2);
    node.check(3, &[4], &[2]);
    node.lose(4);
    node.check(2, &[], &[2]);
}

#[test]
fn a_root_that_is_damaged_is_told_of() {
    let node = Node::new();
    publish(&node.store, &label(2), &[5]);
    std::fs::write(node.root.path().join("roots/a"), "damage").unwrap();
    node.lose(2);
    node.lose(5);
    let found = node.store.verify().unwrap();
    assert_eq!((found.damaged_roots, found.missing), (vec![label(0)], vec![name(5)]));
}

#[test]
fn what_a_source_has_is_replaced_and_the_rest_is_deleted() {
    let node = Node::new();
    node.damage(1);
    node.damage(2);
    node.damage(4);
    node.lose(3);
    let repaired = node.store.repair(&Has(vec![1, 3], true)).unwrap();
    assert_eq!(repaired, Repaired { replaced: 2, deleted: 2, left: 0, missing: 0 });
    node.check(2, &[], &[2]);
    let body = node.store.fetch(&name(1), MAX_BODY_LEN, 0).unwrap();
    assert_eq!(ChunkName::of(&body), name(1));
    let repaired = node.store.repair(&Has(vec![2], false)).unwrap();
    assert_eq!(repaired, Repaired { missing: 1, ..Repaired::default() }, "a source is not believed");
    publish(&node.store, &label(0), &[1, 2, 3]);
    node.check(3, &[], &[]);
}

#[test]
fn what_an_open_publish_may_count_on_is_left() {
    let node = Node::new();
    node.damage(1);
    let publish = node.store.publish();
    publish.add(sealed(1)).unwrap();
    let repaired = node.store.repair(&Has(vec![], true)).unwrap();
    assert_eq!(repaired, Repaired { left: 1, ..Repaired::default() });
    node.check(4, &[1], &[]);
    let repaired = node.store.repair(&Has(vec![1], true)).unwrap();
    assert_eq!(repaired, Repaired { replaced: 1, ..Repaired::default() }, "replacing it harms nobody");
    drop(publish);
    node.check(4, &[], &[]);
}

/// A store of chunks 1 to 3 under `a` on a disk in memory, of which 1 is damaged and 2 is missing.
fn damaged() -> (Arc<FakeDisk>, Arc<Store>) {
    let disk = Arc::new(FakeDisk::default());
    let store = Arc::new(Store::on(Box::new(Arc::clone(&disk))));
    publish(&store, &label(0), &[1, 2, 3]);
    disk.look().files.insert(Place::Chunk(name(1)), b"damage".to_vec());
    disk.look().files.remove(&Place::Chunk(name(2)));
    (disk, store)
}

#[test]
fn a_repair_that_ends_anywhere_can_be_done_again() {
    let source = Has(vec![1, 2], true);
    for (step, end) in (0..).flat_map(|step| [(step, End::Process), (step, End::Power)]) {
        let (disk, store) = damaged();
        disk.look().left = Some((step, end));
        let outcome = store.repair(&source);
        drop(store);
        if disk.look().ended.is_none() {
            assert_eq!(outcome.unwrap().replaced, 2);
            assert!(step > 256, "a repair looks at every folder");
            break;
        }
        assert!(outcome.is_err());
        disk.restart(end, step as usize);
        let store = Store::on(Box::new(Arc::clone(&disk)));
        store.repair(&source).unwrap();
        assert_eq!(store.verify().unwrap(), Health { chunks: 3, ..Health::default() });
        disk.roots();
    }
}

#[test]
fn contents_are_published_and_collected_between_any_two_steps_of_a_repair() {
    for step in 0.. {
        let (disk, store) = damaged();
        let others = Arc::clone(&store);
        let interrupt = move || {
            publish(&others, &label(1), &[1, 2, 5]);
            others.collect().unwrap();
            others.delete(&label(0)).unwrap();
            others.collect().unwrap();
            publish(&others, &label(2), &[3, 6]);
        };
        disk.look().interrupt = Some((step, Box::new(interrupt)));
        store.repair(&Has(vec![1, 2, 3], true)).unwrap();
        if disk.look().interrupt.take().is_some() {
            break;
        }
        // What was published after the first look at it may have counted on the damaged one.
        store.repair(&Has(vec![1, 2, 3], true)).unwrap();
        assert_eq!(disk.roots().len(), 2, "step {step}");
        let health = store.verify().unwrap();
        assert!(health.damaged.is_empty() && health.missing.is_empty(), "step {step}: {health:?}");
    }
}

#[test]
fn a_store_that_is_used_is_healthy_at_any_time() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for step in 0..20 {
                publish(&store, &label(usize::from(step)), &[step % CHUNKS, (step + 3) % CHUNKS]);
                store.delete(&label(usize::from(step) + 1)).unwrap();
                store.collect().unwrap();
            }
        });
        while !publisher.is_finished() {
            let Health { damaged, missing, damaged_roots, .. } = store.verify().unwrap();
            assert!(damaged.is_empty() && missing.is_empty() && damaged_roots.is_empty());
            assert_eq!(store.repair(&Has(Vec::new(), true)).unwrap(), Repaired::default());
        }
    });
}
