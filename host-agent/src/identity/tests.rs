//! Access keys over a real store: what is kept, and what a restart finds.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use cluster_store::{KeyRange, RedbStore, Store};
use serde_json::json;

use super::*;
use crate::chunks::tests::chunks_in;

/// No key at all, for who needs some keys to ask.
pub(crate) fn none() -> Arc<AccessKeys> {
    static NONE: OnceLock<Arc<AccessKeys>> = OnceLock::new();
    let made = || {
        let dir = tempfile::tempdir().unwrap();
        // A thread of its own: whoever asks may be in a runtime already.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            Arc::new(runtime.block_on(open(dir.path())).0)
        })
    };
    Arc::clone(NONE.get_or_init(|| made().join().unwrap()))
}

async fn open(dir: &Path) -> (AccessKeys, Arc<dyn Store>) {
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(dir.join("store.redb")).await.unwrap());
    (AccessKeys::open(Arc::clone(&store), chunks_in(dir).roots()).await.unwrap(), store)
}

fn document(effect: &str) -> Document {
    let statement = json!({ "Effect": effect, "Action": "*", "Resource": "*" });
    serde_json::from_value(json!({ "Version": "2012-10-17", "Statement": [statement] })).unwrap()
}

#[tokio::test]
async fn a_key_is_kept_as_it_was_made_and_its_secret_is_not_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, store) = open(dir.path()).await;
    let ann = keys.create(Some("ann".into()), document("Allow")).await.unwrap();
    let other = keys.create(None, document("Deny")).await.unwrap();
    assert_eq!((ann.id.len(), &ann.id[..4], ann.secret.expose().len()), (20, "AKIA", 40));
    assert_eq!(ann.user_arn("000000000000"), "arn:aws:iam::000000000000:user/ann");
    assert_eq!(other.name, other.id);
    assert_ne!(ann.secret.expose(), other.secret.expose());
    assert!(!format!("{ann:?}").contains(ann.secret.expose().as_str()));
    for entry in store.range(KeyRange::prefix(b""), usize::MAX).await.unwrap().0 {
        assert!(!String::from_utf8_lossy(&entry.value).contains(ann.secret.expose().as_str()));
    }
    keys.set_policy(&ann.id, document("Deny")).await.unwrap();
    keys.set_state(&ann.id, KeyState::Inactive).await.unwrap();
    assert!(keys.usable(&ann.id).is_none() && keys.has(&ann.id));
    keys.delete(&other.id).await.unwrap();
    assert!(matches!(keys.delete(&other.id).await, Err(AccessKeyError::Absent(id)) if id == other.id));
    drop((keys, store));

    // A new root key has come meanwhile, and then the old one goes.
    let path = dir.path().join("chunks/keys/root");
    let mut roots = std::fs::read(&path).unwrap();
    let old = roots.len();
    roots.extend(2u32.to_le_bytes());
    roots.extend([7; 32]);
    std::fs::write(&path, &roots).unwrap();
    for _ in 0..2 {
        let (keys, _) = open(dir.path()).await;
        let [kept] = &keys.list()[..] else { panic!("one key is left") };
        assert_eq!(kept.secret.expose(), ann.secret.expose());
        assert_eq!((kept.state, &kept.document, &*kept.name), (KeyState::Inactive, &document("Deny"), "ann"));
        drop(keys);
        std::fs::write(&path, &roots[old..]).unwrap();
    }
}

#[tokio::test]
async fn a_record_under_another_keys_id_is_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, store) = open(dir.path()).await;
    let weak = keys.create(None, document("Deny")).await.unwrap();
    let (entries, _) = store.range(KeyRange::prefix(b"access-keys/"), 1).await.unwrap();
    let moved = cluster_store::Op::Put {
        key: format!("access-keys/{}", "AKIA".repeat(5)).into_bytes(),
        value: entries[0].value.clone(),
        lease: None,
    };
    store.txn(cluster_store::Txn { compares: Vec::new(), ops: vec![moved] }).await.unwrap();
    drop((keys, store));
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(dir.path().join("store.redb")).await.unwrap());
    let refused = AccessKeys::open(store, chunks_in(dir.path()).roots()).await.err().unwrap();
    assert!(matches!(refused, AccessKeyError::Secret { id, .. } if id != weak.id));
}

#[test]
fn names_may_stand_in_an_arn() {
    for good in ["a", "ann@example.net", "a+b=c,d.e_f-9", &"x".repeat(64)] {
        check_name(good).unwrap();
    }
    for wrong in ["", "a b", "a/b", "a:b", "*", "ä", &"x".repeat(65)] {
        check_name(wrong).unwrap_err();
    }
}
