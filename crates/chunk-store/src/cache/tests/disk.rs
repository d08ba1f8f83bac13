//! Files: never more bytes than there may be, and whatever is in them, nobody reads anything else than the chunk.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::tests::damage::{changes, few_places};

const RECORD: usize = 64;

/// The record of a slot, in the words of `docs/chunk-format.md`.
fn record(name: &[u8; 32], tag: [u8; 16], len: u32) -> [u8; RECORD] {
    let fields = [&name[..], &tag, &len.to_le_bytes()].concat();
    let check = *blake3::hash(&fields).as_bytes();
    let mut record = [0; RECORD];
    record[..52].copy_from_slice(&fields);
    record[52..56].copy_from_slice(&check[..4]);
    record
}

#[test]
fn the_disk_never_holds_more_than_it_may() {
    let node = Node::new(10 * SLOT - 1);
    for number in 0..40 {
        assert!(node.asks(number));
        assert!(node.bytes() < 10 * SLOT && node.cache.stats().bytes < 10 * SLOT);
    }
    assert_eq!((node.cache.stats().copies, node.cache.stats().evicted), (9, 31));
    assert_eq!(node.bytes(), 9 * SLOT);
    let node = node.restarted(4 * SLOT);
    assert_eq!((node.bytes(), node.cache.stats().copies), (4 * SLOT, 4), "there is less room now");
    let node = node.restarted(SLOT - 1);
    assert!(node.bytes() == 0 && node.asks(39) && node.asks(39), "what does not fit is not kept");
    assert_eq!((node.bytes(), node.cache.stats().failed), (0, 0));
}

#[test]
fn two_lengths_share_one_bound() {
    let large = ChunkSize::IMAGE.bytes() as u64;
    let node = Node::new(3 * large);
    for number in 0..30 {
        node.asks(number);
        assert!(node.asks_among(number, ChunkSize::IMAGE.bytes(), ChunkSize::IMAGE));
        assert!(node.bytes() <= 3 * large + FILE_SLACK, "{} bytes", node.bytes());
        assert!(node.cache.stats().bytes <= 3 * large);
    }
    (100..112).for_each(|number| assert!(node.asks(number)));
    assert!(node.bytes() <= 3 * large + FILE_SLACK && node.cache.stats().failed == 0);
    let before = node.cache.stats();
    let node = node.restarted(3 * large);
    assert_eq!((node.cache.stats().copies, node.cache.stats().bytes), (before.copies, before.bytes));
    assert!(!node.asks(111));
}

#[test]
fn every_kind_of_damage_to_a_copy_is_found_out_and_made_good() {
    let node = Node::new(100 * SLOT);
    node.asks(1);
    let at = node.locate(1).unwrap().at;
    let mut good = vec![0; LEN];
    node.slots().read_exact_at(&mut good, at).unwrap();
    let mut damages = 0;
    let mut damaged = |damage: &dyn Fn(&File)| {
        damage(&node.slots());
        assert!(node.asks(1) && !node.asks(1));
        assert_eq!(node.locate(1).map(|place| place.at), Some(at));
        damages += 1;
    };
    for byte in few_places(LEN) {
        let changes = changes(byte, good[byte]);
        let change = changes[byte % changes.len()];
        damaged(&|slots| slots.write_all_at(&[good[byte] ^ change], at + byte as u64).unwrap());
    }
    damaged(&|slots| slots.write_all_at(&vec![0; LEN], at).unwrap());
    damaged(&|slots| slots.write_all_at(&chunk(1).2, at).unwrap());
    damaged(&|slots| slots.set_len(at + SLOT - 1).unwrap());
    damaged(&|slots| slots.set_len(0).unwrap());
    node.asks(2);
    let mut other = vec![0; LEN];
    node.slots().read_exact_at(&mut other, node.locate(2).unwrap().at).unwrap();
    node.slots().write_all_at(&other, at).unwrap();
    assert!(node.asks(1) && !node.asks(2));
    let CacheStats { damaged, copies, failed, .. } = node.cache.stats();
    assert_eq!((damaged, copies, failed), (damages + 1, 2, 0));
}

#[test]
fn a_record_that_was_torn_is_no_record() {
    let node = Node::new(10 * SLOT);
    (0..3).for_each(|number| _ = node.asks(number));
    let index = node.writable("index-14");
    let at = node.locate(1).unwrap().at / SLOT * RECORD as u64;
    let mut good = [0; RECORD];
    index.read_exact_at(&mut good, at).unwrap();
    let mut node = node;
    for byte in 0..60 {
        for change in changes(byte, good[byte]) {
            let mut torn = good;
            torn[byte] ^= change;
            node.writable("index-14").write_all_at(&torn, at).unwrap();
            node = node.restarted(10 * SLOT);
            assert!(node.cache.stats().copies == 2 && node.bytes() == 2 * SLOT, "byte {byte} ^ {change:#x}");
            assert!(node.asks(1) && !node.asks(0) && !node.asks(2));
        }
    }
    for len in (0..3 * RECORD as u64).step_by(7) {
        node.writable("index-14").set_len(len).unwrap();
        node = node.restarted(10 * SLOT);
        assert_eq!(node.cache.stats().copies, (len + 4) / RECORD as u64, "the last 4 bytes are zeros");
        (0..3).for_each(|number| _ = node.asks(number));
        assert!((0..3).all(|number| !node.asks(number)));
    }
}

#[test]
fn a_record_that_was_forged_gets_nobody_anything() {
    let node = Node::new(10 * SLOT);
    (0..3).for_each(|number| _ = node.asks(number));
    let [one, two] = [1, 2].map(|number| node.locate(number).unwrap());
    let name = |number| *node.cache.secret.name_of(&chunk(number).0).as_bytes();
    let (own, other, unknown) = (name(1), name(2), name(50));
    let forged = [
        record(&own, two.tag, LEN as u32),
        record(&own, one.tag, LEN as u32 - 1),
        record(&own, one.tag, 0),
        record(&own, one.tag, LEN as u32 + 1),
        record(&own, one.tag, u32::MAX),
        record(&other, one.tag, LEN as u32),
        record(&unknown, one.tag, LEN as u32),
    ];
    let mut node = node;
    for record in forged {
        let slot = node.locate(1).unwrap().at / SLOT;
        node.writable("index-14").write_all_at(&record, slot * RECORD as u64).unwrap();
        node = node.restarted(10 * SLOT);
        (0..3).for_each(|number| _ = node.asks(number));
        assert!((0..3).all(|number| !node.asks(number)));
        node.asks(50);
        assert!(!node.asks(50));
        assert_eq!(node.cache.stats().failed, 0);
    }
}

#[test]
fn files_that_are_longer_than_there_is_room_for_are_cut() {
    let node = Node::new(4 * SLOT);
    (0..4).for_each(|number| _ = node.asks(number));
    node.slots().set_len(1 << 40).unwrap();
    node.writable("index-14").set_len(1 << 38).unwrap();
    let node = node.restarted(4 * SLOT);
    assert_eq!(node.slots().metadata().unwrap().len(), 4 * SLOT);
    assert!((0..4).all(|number| !node.asks(number)));
}

#[test]
fn a_directory_that_disappears_takes_nothing_with_it() {
    let node = Node::new(10 * SLOT);
    node.asks(1);
    fs::remove_dir_all(node.root.path()).unwrap();
    assert!(!node.asks(1) && node.asks(2) && !node.asks(2));
    assert!(node.asks_among(3, 70_000, ChunkSize::from_log2(17).unwrap()), "in a file that is new");
    assert_eq!(node.cache.stats().failed, 0);
    let node = node.restarted(10 * SLOT);
    assert!(node.asks(1) && !node.asks(1));
}

#[test]
fn a_disk_that_takes_no_files_makes_it_slower_and_not_wrong() {
    let node = Node::new(10 * SLOT);
    fs::create_dir(node.root.path().join("slots-14")).unwrap();
    assert!(node.asks(1) && node.asks(1));
    let CacheStats { failed, copies, bytes, .. } = node.cache.stats();
    assert_eq!((failed, copies, bytes), (2, 0, 0));
    fs::remove_dir(node.root.path().join("slots-14")).unwrap();
    assert!(node.asks(1) && !node.asks(1), "it goes on when it can");
}

/// `/dev/full` has no room, and gives none back.
#[test]
fn a_disk_that_is_full_makes_it_slower_and_not_wrong() {
    for (full, other) in [("slots-14", "index-14"), ("index-14", "slots-14")] {
        let root = tempfile::tempdir().unwrap();
        symlink("/dev/full", root.path().join(full)).unwrap();
        File::create(root.path().join(other)).unwrap();
        let node = Node::on(root, 3 * SLOT);
        assert!((0..20).all(|number| node.asks(number % 5)), "{full}");
        let CacheStats { failed, copies, bytes, evicted, .. } = node.cache.stats();
        assert_eq!((copies, bytes, evicted), (0, 0, 0), "{full}");
        assert!(failed >= 20, "{failed} failures");
        assert!(node.slots().metadata().unwrap().len() <= SLOT, "no slot was lost");
        if full == "index-14" {
            assert_eq!(node.bytes(), 0, "what was half written has gone");
        }
    }
}

/// `/dev/null` takes everything and gives no room back: its slots count until then, and come to be written again.
#[test]
fn room_that_a_disk_does_not_give_back_is_not_given_to_others() {
    let root = tempfile::tempdir().unwrap();
    symlink("/dev/null", root.path().join("slots-14")).unwrap();
    let large = ChunkSize::IMAGE;
    let node = Node::on(root, 2 * large.bytes() as u64);
    (0..8).for_each(|number| assert!(node.asks(number)));
    assert_eq!(node.cache.stats().copies, 8);
    assert!(node.asks_among(100, large.bytes(), large));
    assert!(node.asks_among(100, large.bytes(), large), "there was no room for it");
    assert_eq!(node.bytes(), 0);
    let failed = node.cache.stats().failed;
    assert!(failed > 0);
    (0..8).for_each(|number| assert!(node.asks(number), "it comes and goes"));
    assert!(node.cache.stats().bytes <= 2 * large.bytes() as u64);
}

/// It was not known to be stuck while the copies were taken up: so many of them go that the bound is kept, and no more.
#[test]
fn room_that_is_stuck_from_the_beginning_is_made_up_for() {
    let large = ChunkSize::IMAGE.bytes() as u64;
    let node = Node::new(4 * large);
    (0..12).for_each(|number| _ = node.asks(number));
    symlink("/dev/null", node.root.path().join("slots-16")).unwrap();
    fs::write(node.root.path().join("index-16"), [0; 2 * RECORD]).unwrap();
    let node = node.restarted(4 * large);
    assert_eq!(node.cache.stats().copies, 12);
    assert!(node.asks(12));
    assert_eq!((node.cache.stats().copies, node.cache.stats().evicted), (8, 5));
    assert_eq!(node.bytes() + 2 * large, 4 * large);
}

#[test]
fn what_is_somebody_elses_stays() {
    let node = Node::new(10 * SLOT);
    node.asks(1);
    let foreign = ["README", "slots-13", "slots-21", "index-99"].map(|name| node.root.path().join(name));
    for path in &foreign {
        fs::write(path, "text").unwrap();
    }
    let node = node.restarted(10 * SLOT);
    assert!(foreign.iter().all(|path| fs::read(path).unwrap() == b"text"));
    assert_eq!((node.cache.stats().copies, node.asks(1)), (1, false));
}

const BLOCK: usize = 4096;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// After a loss of power each block of each file is as it was at one time or at another.
    #[test]
    fn whatever_reaches_the_disk_nobody_reads_anything_else(
        before in proptest::collection::vec(0..9_u32, 1..8),
        after in proptest::collection::vec(0..9_u32, 1..8),
        torn in any::<u64>(),
    ) {
        let node = Node::new(4 * SLOT);
        before.iter().for_each(|number| _ = node.asks(*number));
        let files = ["slots-14", "index-14"].map(|name| node.root.path().join(name));
        let old = files.clone().map(|path| fs::read(path).unwrap());
        after.iter().for_each(|number| _ = node.asks(*number));
        for (path, mut old) in files.iter().zip(old) {
            let new = fs::read(path).unwrap();
            old.resize(new.len(), 0);
            // Records may be torn within a block as well.
            let unit = if path.ends_with("index-14") { 32 } else { BLOCK };
            let mixed = old.chunks(unit).zip(new.chunks(unit)).enumerate();
            let mixed = mixed.flat_map(|(at, (old, new))| if torn >> (at % 64) & 1 == 1 { new } else { old });
            fs::write(path, mixed.copied().collect::<Vec<_>>()).unwrap();
        }
        let node = node.restarted(4 * SLOT);
        prop_assert!(node.bytes() <= 4 * SLOT + FILE_SLACK);
        (0..9).for_each(|number| _ = node.asks(number));
        prop_assert!(node.bytes() <= 4 * SLOT + FILE_SLACK);
        prop_assert_eq!(node.cache.stats().failed, 0);
    }
}
