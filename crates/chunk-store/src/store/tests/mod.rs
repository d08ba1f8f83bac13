//! What is published stays whole, whatever else happens and wherever it ends: against a disk that can lose power at every
//! step, and with threads on a real one.

mod check;
mod fake_disk;
mod publish;
mod segments;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::*;
use crate::{ChunkSize, Content, Entry, Kind, MAX_BODY_LEN, Manifest, Salt, Sealed, open, seal};
use fake_disk::{End, FakeDisk};

/// Contents are made of these.
const CHUNKS: u8 = 10;
const LABELS: [&str; 3] = ["a", "b", "c"];

fn plaintext(number: u8) -> Vec<u8> {
    vec![number + 1; 20]
}

fn sealed(number: u8) -> Sealed {
    seal(&plaintext(number), &Salt::new([1; 16], [1; 32])).unwrap()
}

fn name(number: u8) -> ChunkName {
    ChunkName::of(&body(number))
}

fn body(number: u8) -> Vec<u8> {
    match sealed(number) {
        Sealed::Chunk { body, .. } => body,
        Sealed::Zero => panic!("zeros"),
    }
}

fn label(number: usize) -> Label {
    LABELS[number % LABELS.len()].parse().unwrap()
}

fn manifest(entries: Vec<Option<Entry>>) -> Manifest {
    let len = (entries.len() * ChunkSize::MEMORY.bytes()) as u64;
    let content = Content { kind: Kind::Memory, len, chunk_size: ChunkSize::MEMORY, salt: [1; 16] };
    Manifest::new(content, entries).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Add(usize, u8),
    Commit(usize, usize),
    Abandon(usize),
    Delete(usize),
    Collect,
    Mark,
    /// The chunks of one number, so that few steps reach many.
    Sweep(u8),
    EndCollection,
    /// After so many steps of the disk.
    Ends(u32, End),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Begin),
        12 => (any::<usize>(), 0..CHUNKS).prop_map(|(publish, chunk)| Step::Add(publish, chunk)),
        4 => (any::<usize>(), any::<usize>()).prop_map(|(publish, label)| Step::Commit(publish, label)),
        1 => any::<usize>().prop_map(Step::Abandon),
        2 => any::<usize>().prop_map(Step::Delete),
        3 => Just(Step::Collect),
        3 => Just(Step::Mark),
        12 => (0..CHUNKS).prop_map(Step::Sweep),
        1 => Just(Step::EndCollection),
        1 => (0..12_u32).prop_map(|after| Step::Ends(after, End::Power)),
        2 => (0..12_u32).prop_map(|after| Step::Ends(after, End::Process)),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What has been acknowledged: a root and what it needs, or that there is none. Not in it: what ended in an error.
type Acknowledged = HashMap<Label, Option<BTreeSet<ChunkName>>>;

/// Runs steps on a store of its own until they or the disk end; how many there were.
fn run(disk: &Arc<FakeDisk>, steps: &[Step], acknowledged: &mut Acknowledged) -> usize {
    let store = Store::on(Box::new(Arc::clone(disk)));
    let mut open: Vec<(Publish<'_>, BTreeMap<ChunkName, Entry>)> = Vec::new();
    let mut generation = None;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Begin => open.push((store.publish(), BTreeMap::new())),
            Step::Add(publish, chunk) if !open.is_empty() => {
                let at = publish % open.len();
                let (publish, entries) = &mut open[at];
                if let Ok(Some(entry)) = publish.add(sealed(*chunk)) {
                    entries.insert(entry.name, entry);
                }
            }
            Step::Commit(publish, to) if !open.is_empty() => {
                let (publish, entries) = open.swap_remove(publish % open.len());
                let names = entries.keys().copied().collect();
                acknowledged.remove(&label(*to));
                let manifest = manifest(entries.into_values().map(Some).collect());
                if publish.commit(&label(*to), &manifest, b"sealed").is_ok() {
                    acknowledged.insert(label(*to), Some(names));
                }
            }
            Step::Abandon(publish) if !open.is_empty() => drop(open.swap_remove(publish % open.len())),
            Step::Delete(which) => {
                acknowledged.remove(&label(*which));
                if store.delete(&label(*which)).is_ok() {
                    acknowledged.insert(label(*which), None);
                }
            }
            Step::Collect if generation.is_none() => generation = Some(store.begin()),
            Step::Mark => _ = generation.as_mut().map(collect::Generation::mark),
            Step::Sweep(chunk) => {
                _ = generation.as_mut().map(|generation| generation.sweep(name(*chunk).as_bytes()[0]));
            }
            Step::EndCollection => generation = None,
            Step::Ends(after, end) => {
                let mut disk = disk.look();
                disk.left = disk.left.or(Some((*after, *end)));
            }
            _ => {}
        }
        check(disk, acknowledged);
        if disk.look().ended.is_some() {
            return number + 1;
        }
    }
    steps.len()
}

fn check(disk: &FakeDisk, acknowledged: &Acknowledged) {
    let roots = disk.roots();
    for (label, names) in acknowledged {
        assert_eq!(roots.get(label), names.as_ref(), "root {label}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn nothing_that_a_root_needs_is_ever_lost(steps in steps(), kept in any::<u16>()) {
        let disk = Arc::new(FakeDisk::default());
        let mut acknowledged = Acknowledged::new();
        let mut done = 0;
        while done < steps.len() {
            done += run(&disk, &steps[done..], &mut acknowledged);
            let end = disk.look().ended.unwrap_or(End::Power);
            disk.restart(end, usize::from(kept) + done);
            check(&disk, &acknowledged);
        }
        // And in the end nothing else is left.
        let store = Store::on(Box::new(Arc::clone(&disk)));
        store.collect().unwrap();
        let needed: HashSet<ChunkName> = disk.roots().into_values().flatten().collect();
        let chunks = disk.look().files.keys().filter(|place| matches!(place, Place::Chunk(_))).count();
        prop_assert_eq!(chunks, needed.len());
    }
}

/// Publishes chunks under a label, and gives their manifest.
fn publish(store: &Store, label: &Label, chunks: &[u8]) -> Manifest {
    let publish = store.publish();
    let entries = chunks.iter().map(|chunk| publish.add(sealed(*chunk)).unwrap()).collect();
    let manifest = manifest(entries);
    publish.commit(label, &manifest, &manifest.encode()).unwrap();
    manifest
}

/// Segments and their indexes.
fn files(root: &Path) -> usize {
    std::fs::read_dir(root.join("chunks")).unwrap().count()
}

/// Bytes that they take on the disk.
fn taken(root: &Path) -> u64 {
    let files = std::fs::read_dir(root.join("chunks")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn what_was_published_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let made = publish(&Store::open(root.path()).unwrap(), &label(0), &[1, 2, 1]);
    let store = Store::open(root.path()).unwrap();
    assert_eq!(store.roots().unwrap(), [label(0)]);
    assert_eq!(Manifest::decode(&store.manifest(&label(0)).unwrap()), Ok(made.clone()));
    let entry = made.chunk(1).unwrap();
    let body = store.fetch(&entry.name, 1000, 0).unwrap();
    assert_eq!(open(entry, &body, 20), Ok(plaintext(2)));
    assert!(matches!(store.fetch(&name(3), 1000, 0), Err(SourceError::Absent)));
    assert!(matches!(store.manifest(&label(1)), Err(StoreError::NoRoot(_))));
}

#[test]
fn what_two_roots_need_is_stored_once_and_goes_with_the_second() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    publish(&store, &label(0), &[1, 2]);
    publish(&store, &label(1), &[2, 3]);
    assert_eq!(store.collect().unwrap(), Collected { kept: 3, deleted: 0 });
    store.delete(&label(0)).unwrap();
    assert_eq!(store.collect().unwrap(), Collected { kept: 2, deleted: 1 });
    publish(&store, &label(1), &[4]);
    assert_eq!(store.collect().unwrap(), Collected { kept: 1, deleted: 2 });
}

#[test]
fn a_manifest_is_not_published_before_its_chunks() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let other = publish(&store, &label(0), &[1]);
    let refused = store.publish().commit(&label(1), &other, b"sealed").unwrap_err();
    assert!(matches!(refused, StoreError::NotAdded(missing) if missing == name(1)), "{refused}");
    assert_eq!(store.roots().unwrap(), [label(0)]);
}

#[test]
fn while_a_root_is_damaged_nothing_is_collected() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    publish(&store, &label(0), &[1]);
    publish(&store, &label(1), &[2]);
    store.delete(&label(1)).unwrap();
    let file = root.path().join("roots/a");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    assert!(matches!(store.collect(), Err(StoreError::DamagedRoot(_))));
    assert!(matches!(store.manifest(&label(0)), Err(StoreError::DamagedRoot(_))));
    std::fs::write(&file, good).unwrap();
    assert_eq!(store.collect().unwrap(), Collected { kept: 1, deleted: 1 });
}

#[test]
fn a_disk_that_fails_publishes_nothing_and_goes_on_later() {
    let disk = Arc::new(FakeDisk::default());
    let store = Store::on(Box::new(Arc::clone(&disk)));
    let publishing = store.publish();
    disk.look().left = Some((1, End::Process));
    assert!(matches!(publishing.add(sealed(1)), Err(StoreError::Disk { .. })));
    disk.restart(End::Process, 0);
    let Sealed::Chunk { entry, .. } = sealed(1) else { panic!("zeros") };
    let refused = store.publish();
    disk.look().left = Some((0, End::Process));
    refused.add(sealed(1)).unwrap_err();
    disk.restart(End::Process, 0);
    let refused = refused.commit(&label(0), &manifest(vec![Some(entry)]), b"sealed").unwrap_err();
    assert!(matches!(refused, StoreError::NotAdded(_)), "pinned is not added: {refused}");
    let entry = publishing.add(sealed(1)).unwrap();
    publishing.commit(&label(0), &manifest(vec![entry]), b"sealed").unwrap();
    assert_eq!(disk.roots().len(), 1);
}

#[test]
fn garbage_is_collected_between_any_two_steps_of_a_publish() {
    for step in 0.. {
        let disk = Arc::new(FakeDisk::default());
        let store = Arc::new(Store::on(Box::new(Arc::clone(&disk))));
        // Garbage that the next one needs, and some that it does not.
        publish(&store, &label(0), &[1, 5]);
        store.delete(&label(0)).unwrap();
        let collecting = Arc::clone(&store);
        let interrupt = Box::new(move || _ = collecting.collect().unwrap());
        disk.look().interrupt = Some((step, interrupt));
        publish(&store, &label(1), &[1, 2]);
        let roots = disk.roots();
        assert_eq!(roots.get(&label(1)), Some(&[name(1), name(2)].into()), "step {step}");
        if disk.look().interrupt.take().is_some() {
            assert!(step > 8, "a publish has more steps than {step}");
            break;
        }
    }
}

/// A process ends between deleting a root and flushing that; the next one collects; then the power fails.
#[test]
fn a_root_that_was_seen_to_be_gone_does_not_come_back() {
    for kept in 0..4 {
        let disk = Arc::new(FakeDisk::default());
        let store = Store::on(Box::new(Arc::clone(&disk)));
        publish(&store, &label(0), &[1]);
        disk.look().left = Some((1, End::Process));
        assert!(store.delete(&label(0)).is_err());
        disk.restart(End::Process, 0);
        let store = Store::on(Box::new(Arc::clone(&disk)));
        assert_eq!(store.collect().unwrap(), Collected { kept: 0, deleted: 1 });
        disk.restart(End::Power, kept);
        assert_eq!(disk.roots().len(), 0);
    }
}

#[test]
fn threads_publish_and_delete_while_garbage_is_collected() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..3_u8)
            .map(|thread| {
                let (store, label) = (&store, label(usize::from(thread)));
                scope.spawn(move || {
                    for step in 0..30 {
                        let chunks = [step % CHUNKS, (step + thread) % CHUNKS];
                        let made = publish(store, &label, &chunks);
                        for (entry, chunk) in made.chunks().iter().flatten().zip(chunks) {
                            let body = store.fetch(&entry.name, 1000, 0).expect("it is published");
                            assert_eq!(open(entry, &body, 20), Ok(plaintext(chunk)));
                        }
                        if step % 3 == 0 {
                            store.delete(&label).unwrap();
                        }
                    }
                })
            })
            .collect();
        while !publishers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            store.collect().unwrap();
        }
    });
    let needed = store.roots().unwrap().len();
    assert!(store.collect().unwrap().kept <= 2 * needed as u64);
}
