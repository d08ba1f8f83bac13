//! Tests of the store through its trait: against a model, after a reopening, with damaged files, watched, leased.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use crate::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn put(key: &[u8], value: &[u8]) -> Op {
    Op::Put { key: key.to_vec(), value: value.to_vec(), lease: None }
}

fn write(ops: Vec<Op>) -> Txn {
    Txn { compares: Vec::new(), ops }
}

/// What the store should be: the obvious thing in memory.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, Entry>,
    revision: Revision,
}

impl Model {
    fn txn(&mut self, txn: &Txn) -> TxnOutcome {
        let holds = txn.compares.iter().all(|compare| match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Exists(key) => self.entries.contains_key(key),
            Compare::Modified(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.modified == *revision)
            }
        });
        if !holds {
            return TxnOutcome::Refused(self.revision);
        }
        let revision = self.revision + 1;
        let mut wrote = false;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => {
                    let created = self.entries.get(key).map_or(revision, |entry| entry.created);
                    let (key, value) = (key.clone(), value.clone());
                    self.entries
                        .insert(key.clone(), Entry { key, value, created, modified: revision, lease: None });
                    wrote = true;
                }
                Op::Delete(key) => wrote |= self.entries.remove(key).is_some(),
            }
        }
        if wrote {
            self.revision = revision;
        }
        TxnOutcome::Committed(self.revision)
    }
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![b'a', b'b', 0xff, 0]), 0..4)
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any_key(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(key, value)| Op::Put { key, value, lease: None }),
        1 => any_key().prop_map(Op::Delete),
    ]
}

fn any_compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        any_key().prop_map(Compare::Absent),
        any_key().prop_map(Compare::Exists),
        (any_key(), 0..30u64).prop_map(|(key, revision)| Compare::Modified(key, revision)),
    ]
}

fn any_txn() -> impl Strategy<Value = Txn> {
    (prop::collection::vec(any_compare(), 0..2), prop::collection::vec(any_op(), 0..4))
        .prop_map(|(compares, ops)| Txn { compares, ops })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every transaction has the model's outcome, the ranges agree, a watcher that applies its events ends where the
    /// store ends, and all of it survives a reopening.
    #[test]
    fn the_store_is_a_sorted_map(txns in prop::collection::vec(any_txn(), 1..20), prefix in any_key()) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let store = RedbStore::open(&path).await.unwrap();
            let mut watch = store.watch(KeyRange::prefix(&prefix)).await.unwrap();
            let mut model = Model::default();
            for txn in &txns {
                assert_eq!(store.txn(txn.clone()).await.unwrap(), model.txn(txn));
            }
            let expected: Vec<_> =
                model.entries.values().filter(|entry| entry.key.starts_with(&prefix)).cloned().collect();
            let (found, revision) = store.range(KeyRange::prefix(&prefix), usize::MAX).await.unwrap();
            assert_eq!((&found, revision), (&expected, model.revision));
            assert_eq!(store.get(prefix.clone()).await.unwrap().as_ref(), model.entries.get(&prefix));

            drop(store);
            let mut seen: BTreeMap<_, _> = BTreeMap::new();
            let mut last = watch.revision;
            loop {
                match watch.next().await {
                    Ok(events) => {
                        for event in events {
                            assert!(event.revision() >= last);
                            last = event.revision();
                            match event {
                                Event::Put(entry) => seen.insert(entry.key.clone(), entry),
                                Event::Delete { key, .. } => seen.remove(&key),
                            };
                        }
                    }
                    Err(error) => {
                        assert_eq!(error, WatchError::Closed);
                        break;
                    }
                }
            }
            assert_eq!(seen.into_values().collect::<Vec<_>>(), expected);

            let again = RedbStore::open(&path).await.unwrap();
            assert_eq!(again.range(KeyRange::prefix(&prefix), usize::MAX).await.unwrap(), (expected, model.revision));
        });
    }

    /// A prefix's range holds exactly the keys with the prefix.
    #[test]
    fn a_prefix_range_is_the_prefix(prefix in any_key(), key in any_key()) {
        prop_assert_eq!(KeyRange::prefix(&prefix).contains(&key), key.starts_with(&prefix));
    }
}

#[test]
fn a_watch_begins_with_a_snapshot_and_misses_nothing() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store")).await.unwrap();
        store.txn(write(vec![put(b"a/1", b"x"), put(b"b/1", b"y")])).await.unwrap();
        let mut watch = store.watch(KeyRange::prefix(b"a/")).await.unwrap();
        assert_eq!(watch.snapshot.len(), 1);
        store.txn(write(vec![put(b"b/2", b"z")])).await.unwrap();
        store.txn(write(vec![Op::Delete(b"a/1".to_vec())])).await.unwrap();
        let events = watch.next().await.unwrap();
        assert_eq!(events, [Event::Delete { key: b"a/1".to_vec(), revision: 3 }]);
    });
}

#[test]
fn a_watcher_that_falls_behind_is_told() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store")).await.unwrap();
        let (sender, changes) = tokio::sync::broadcast::channel(1);
        let mut watch = store.watch(KeyRange::prefix(b"")).await.unwrap();
        watch.changes = changes;
        for revision in 1..=2 {
            sender.send([Event::Delete { key: Vec::new(), revision }].into()).unwrap();
        }
        assert_eq!(watch.next().await, Err(WatchError::Lagged));
    });
}

#[test]
fn limits_are_kept() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store")).await.unwrap();
        for txn in [
            write(vec![put(&[b'k'; MAX_KEY_LEN + 1], b"")]),
            write(vec![put(b"k", &vec![0; MAX_VALUE_LEN + 1])]),
            write(vec![put(b"k", b""); MAX_TXN_OPS + 1]),
            write(vec![Op::Delete(vec![b'k'; MAX_KEY_LEN + 1])]),
        ] {
            assert!(matches!(store.txn(txn).await, Err(StoreError::TooLarge { .. })));
        }
        let most = store.txn(write(vec![put(&[b'k'; MAX_KEY_LEN], &vec![7; MAX_VALUE_LEN])])).await.unwrap();
        assert_eq!(most, TxnOutcome::Committed(1));
        let (found, _) = store.range(KeyRange::prefix(b""), 0).await.unwrap();
        assert!(found.is_empty());
    });
}

#[test]
fn a_range_that_runs_backwards_is_empty() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store")).await.unwrap();
        store.txn(write(vec![put(b"b", b"")])).await.unwrap();
        let range = KeyRange { start: Bound::Included(b"c".to_vec()), end: Bound::Excluded(b"a".to_vec()) };
        assert_eq!(store.range(range, 9).await.unwrap(), (Vec::new(), 1));
    });
}

#[test]
fn a_lease_takes_its_keys_along() {
    runtime().block_on(async {
        tokio::time::pause();
        let dir = tempfile::tempdir().unwrap();
        let store = RedbStore::open(dir.path().join("store")).await.unwrap();
        let ttl = Duration::from_secs(10);
        let (short, revoked) = (store.grant(ttl).await.unwrap(), store.grant(ttl).await.unwrap());
        let under = |key: &[u8], lease| Op::Put { key: key.to_vec(), value: Vec::new(), lease: Some(lease) };
        store.txn(write(vec![under(b"s", short), under(b"r", revoked), put(b"free", b"")])).await.unwrap();
        let mut watch = store.watch(KeyRange::prefix(b"")).await.unwrap();

        store.revoke(revoked).await.unwrap();
        assert_eq!(watch.next().await.unwrap()[0].key(), b"r");
        assert!(matches!(store.revoke(revoked).await, Err(StoreError::NoLease(_))));
        assert!(matches!(store.keep_alive(revoked).await, Err(StoreError::NoLease(_))));

        store.keep_alive(short).await.unwrap();
        assert_eq!(watch.next().await.unwrap()[0].key(), b"s");
        let late = store.txn(write(vec![under(b"s", short)])).await;
        assert!(matches!(late, Err(StoreError::NoLease(_))));
        assert!(store.get(b"free".to_vec()).await.unwrap().is_some());
    });
}

#[test]
fn a_lease_does_not_outlive_its_process() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = RedbStore::open(&path).await.unwrap();
        let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
        let op = Op::Put { key: b"k".to_vec(), value: Vec::new(), lease: Some(lease) };
        store.txn(write(vec![op])).await.unwrap();
        drop(store);
        let store = RedbStore::open(&path).await.unwrap();
        assert_eq!(store.get(b"k".to_vec()).await.unwrap(), None);
    });
}

/// Opens a file with these bytes and reads all of it.
fn open_bytes(bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, bytes).unwrap();
        let store = RedbStore::open(&path).await?;
        Ok(store.range(KeyRange::prefix(b""), usize::MAX).await?.0)
    })
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    for bytes in [&b"this is no database"[..], &[0; 4096], &[0xff; 8192], &b"redb\x1a\x0a\xa9\x0d\x0a"[..]] {
        let error = open_bytes(bytes).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Io { .. }), "{error}");
        assert!(error.to_string().contains("store"));
    }
}

#[test]
fn a_damaged_record_is_found() {
    let entry =
        Entry { key: b"k".to_vec(), value: b"value".to_vec(), created: 1, modified: 2, lease: Some(3) };
    let good = record::encode(&entry);
    assert_eq!(record::decode(b"k", &good), Ok(entry));
    assert!(record::decode(b"other", &good).is_err());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(record::decode(b"k", &bad).is_err(), "byte {at}");
        assert!(record::decode(b"k", &good[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_second_opener_is_refused() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let _first = RedbStore::open(&path).await.unwrap();
        assert!(matches!(RedbStore::open(&path).await, Err(StoreError::Io { .. })));
    });
}

#[test]
fn damage_is_an_error_or_harmless_but_never_wrong_data() {
    let (bytes, entries) = runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = RedbStore::open(&path).await.unwrap();
        for number in 0..50u8 {
            store.txn(write(vec![put(&[b'k', number], &[number; 300])])).await.unwrap();
        }
        let (entries, _) = store.range(KeyRange::prefix(b""), usize::MAX).await.unwrap();
        drop(store);
        (std::fs::read(path).unwrap(), entries)
    });
    // A step that is prime to the page size visits headers, branches, leaves and free space alike.
    for at in (0..bytes.len().min(256 * 1024)).step_by(2039) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        match open_bytes(&bad) {
            Ok(found) => {
                for entry in &found {
                    assert!(entries.contains(entry), "byte {at} changed an entry");
                }
            }
            Err(error) => assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Io { .. })),
        }
    }
}
