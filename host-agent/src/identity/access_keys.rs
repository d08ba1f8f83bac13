//! The access keys that an operator made, in the store and in memory.
//!
//! ```text
//! access-keys/ID     name, policy, state, and the wrapped seed of its secret, as JSON
//! ```
//!
//! A secret is derived from a seed that is wrapped by the node's root key, so that the store alone is no secret. It is told
//! once, when the key is made.

use std::{
    collections::BTreeMap,
    str,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chunk_store::{KeyError, TenantKey};
use cluster_store::{KeyRange, Op, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Document, Policy, Secret, policy::PolicyError};
use crate::{
    chunks::{Age, Roots},
    functions::now_ms,
};

/// What all keys of the store begin with.
const PREFIX: &str = "access-keys/";

/// What a secret is derived under. The text is part of the format.
const FOR_SECRETS: &str = "tinderbox access key 1: secret access key";

/// What makes a secret of 40 characters: its length divides by three, so base64 has no padding.
const SECRET_LEN: usize = 30;

/// How ids begin, as AWS's do of keys that stay.
const ID_PREFIX: &str = "AKIA";

/// Letters and digits of ids: 32, so that a random byte's last five bits are one of them.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// How many of them follow the prefix: 80 bits, which no two keys have in common.
const ID_RANDOM_LEN: usize = 16;

/// Longest name: IAM's of users.
const MAX_NAME_LEN: usize = 64;

/// Most keys. All of them with the longest policies take 20 MiB of memory.
const MAX_KEYS: usize = 1000;

/// Why a key is not had, made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessKeyError {
    /// There is none of that id.
    #[error("there is no access key {0}")]
    Absent(String),
    /// There are too many.
    #[error("there are {MAX_KEYS} access keys, which is the most")]
    TooMany,
    /// Its policy is none.
    #[error("the policy is not valid")]
    Policy(#[from] PolicyError),
    /// The store.
    #[error("keep access keys")]
    Store(#[from] StoreError),
    /// A record that this version cannot read, or write.
    #[error("the record of the access key {id}")]
    Record {
        /// Of which.
        id: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A secret cannot be wrapped or unwrapped.
    #[error("the secret of the access key {id}")]
    Secret {
        /// Of which.
        id: String,
        /// Why not.
        source: KeyError,
    },
    /// The kernel gave no random bytes.
    #[error("there is no randomness for a key: {0}")]
    Random(getrandom::Error),
}

/// No name of a user's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name: it has up to {MAX_NAME_LEN} letters, digits and +=,.@_-")]
pub(crate) struct NameError(String);

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyState {
    /// It may.
    Active,
    /// It is refused, as if there were none.
    Inactive,
}

/// A key.
#[derive(Clone, Debug)]
pub(crate) struct AccessKey {
    /// Public half.
    pub(crate) id: String,
    /// What policies and refusals call who has it.
    pub(crate) name: String,
    /// Secret half.
    pub(crate) secret: Secret<String>,
    /// As it was set.
    pub(crate) document: Document,
    /// What it says.
    pub(crate) policy: Policy,
    /// Whether it may be used.
    pub(crate) state: KeyState,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: i64,
}

impl AccessKey {
    /// Who has it, as IAM names users.
    pub(crate) fn user_arn(&self, account_id: &str) -> String {
        format!("arn:aws:iam::{account_id}:user/{}", self.name)
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    policy: Document,
    state: KeyState,
    created_ms: i64,
    /// In base64.
    wrapped_seed: String,
}

/// All of them.
pub(crate) struct AccessKeys {
    store: Arc<dyn Store>,
    roots: Arc<Roots>,
    keys: RwLock<BTreeMap<String, Arc<AccessKey>>>,
    /// One change at a time, so that store and memory say the same.
    turn: Mutex<()>,
}

impl AccessKeys {
    /// Reads them; what an older root key has wrapped is wrapped by the newest when this returns.
    pub(crate) async fn open(store: Arc<dyn Store>, roots: Arc<Roots>) -> Result<Self, AccessKeyError> {
        let (entries, _) = store.range(KeyRange::prefix(PREFIX.as_bytes()), usize::MAX).await?;
        let keys = Self { store, roots, keys: RwLock::default(), turn: Mutex::default() };
        for entry in entries {
            let name = String::from_utf8_lossy(&entry.key).into_owned();
            let id = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
            let (key, age) = keys.read(id, &entry.value)?;
            if age == Age::Old {
                keys.write(&key, &keys.seed(&key.id, &entry.value)?.0).await?;
            }
            keys.put(key);
        }
        Ok(keys)
    }

    /// A key that may be used.
    pub(crate) fn usable(&self, id: &str) -> Option<Arc<AccessKey>> {
        self.get(id).filter(|key| key.state == KeyState::Active)
    }

    /// Whether there is one of that id, whether or not it may be used.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.get(id).is_some()
    }

    /// All keys, by their ids.
    pub(crate) fn list(&self) -> Vec<Arc<AccessKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A new key, durable when this returns. Without a name it is called by its id.
    pub(crate) async fn create(
        &self,
        name: Option<String>,
        document: Document,
    ) -> Result<Arc<AccessKey>, AccessKeyError> {
        let policy = Policy::try_from(&document)?;
        let _turn = self.turn.lock().await;
        if self.list().len() >= MAX_KEYS {
            return Err(AccessKeyError::TooMany);
        }
        let id = new_id().map_err(AccessKeyError::Random)?;
        let failed = |source| AccessKeyError::Secret { id: id.clone(), source };
        let seed = TenantKey::generate().map_err(failed)?;
        let key = AccessKey {
            name: name.unwrap_or_else(|| id.clone()),
            secret: secret(&seed),
            document,
            policy,
            state: KeyState::Active,
            created_ms: now_ms(),
            id,
        };
        self.write(&key, &seed).await?;
        Ok(self.put(key))
    }

    /// Sets what a key may do.
    pub(crate) async fn set_policy(
        &self,
        id: &str,
        document: Document,
    ) -> Result<Arc<AccessKey>, AccessKeyError> {
        let policy = Policy::try_from(&document)?;
        self.change(id, |key| AccessKey { document, policy, ..key }).await
    }

    /// Sets whether a key may be used.
    pub(crate) async fn set_state(
        &self,
        id: &str,
        state: KeyState,
    ) -> Result<Arc<AccessKey>, AccessKeyError> {
        self.change(id, |key| AccessKey { state, ..key }).await
    }

    /// Deletes a key: its secret cannot be had again.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), AccessKeyError> {
        let _turn = self.turn.lock().await;
        let key = self.get(id).ok_or_else(|| AccessKeyError::Absent(id.into()))?;
        self.store.txn(Txn { compares: Vec::new(), ops: vec![Op::Delete(place(&key.id))] }).await?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    /// Durable when this returns, and what is decided from then on.
    async fn change(
        &self,
        id: &str,
        change: impl FnOnce(AccessKey) -> AccessKey,
    ) -> Result<Arc<AccessKey>, AccessKeyError> {
        let _turn = self.turn.lock().await;
        let absent = || AccessKeyError::Absent(id.into());
        let key = self.get(id).ok_or_else(absent)?;
        let (entries, _) = self.store.range(KeyRange::prefix(&place(id)), 1).await?;
        let entry = entries.first().ok_or_else(absent)?;
        let (seed, _) = self.seed(id, &entry.value)?;
        let changed = change(AccessKey::clone(&key));
        self.write(&changed, &seed).await?;
        Ok(self.put(changed))
    }

    fn get(&self, id: &str) -> Option<Arc<AccessKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn put(&self, key: AccessKey) -> Arc<AccessKey> {
        let key = Arc::new(key);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), Arc::clone(&key));
        key
    }

    async fn write(&self, key: &AccessKey, seed: &TenantKey) -> Result<(), AccessKeyError> {
        let wrapped = self.roots.wrap(seed, &place_name(&key.id));
        let wrapped = wrapped.map_err(|source| AccessKeyError::Secret { id: key.id.clone(), source })?;
        let record = Record {
            name: key.name.clone(),
            policy: key.document.clone(),
            state: key.state,
            created_ms: key.created_ms,
            wrapped_seed: BASE64_STANDARD.encode(wrapped),
        };
        let value = serde_json::to_vec(&record).map_err(unreadable(&key.id))?;
        let put = Op::Put { key: place(&key.id), value, lease: None };
        self.store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await?;
        Ok(())
    }

    fn read(&self, id: String, value: &[u8]) -> Result<(AccessKey, Age), AccessKeyError> {
        let record: Record = serde_json::from_slice(value).map_err(unreadable(&id))?;
        let policy = Policy::try_from(&record.policy).map_err(unreadable(&id))?;
        let (seed, age) = self.seed(&id, value)?;
        let Record { name, policy: document, state, created_ms, wrapped_seed: _ } = record;
        Ok((AccessKey { id, name, secret: secret(&seed), document, policy, state, created_ms }, age))
    }

    /// What a record's secret is derived from.
    fn seed(&self, id: &str, value: &[u8]) -> Result<(TenantKey, Age), AccessKeyError> {
        let record: Record = serde_json::from_slice(value).map_err(unreadable(id))?;
        let wrapped = BASE64_STANDARD.decode(record.wrapped_seed).map_err(unreadable(id))?;
        let unwrapped = self.roots.unwrap(&wrapped, &place_name(id));
        unwrapped.map_err(|source| AccessKeyError::Secret { id: id.into(), source })
    }
}

/// A name that may stand in an ARN.
pub(crate) fn check_name(name: &str) -> Result<(), NameError> {
    let is_good = (1..=MAX_NAME_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte));
    if is_good { Ok(()) } else { Err(NameError(name.into())) }
}

fn secret(seed: &TenantKey) -> Secret<String> {
    BASE64_STANDARD.encode(&seed.derive(FOR_SECRETS)[..SECRET_LEN]).into()
}

fn new_id() -> Result<String, getrandom::Error> {
    let mut random = [0; ID_RANDOM_LEN];
    getrandom::fill(&mut random)?;
    let letters = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    Ok(ID_PREFIX.chars().chain(letters).collect())
}

/// What a wrapped seed is called: no other key's is taken for it, and no tenant's.
fn place_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn place(id: &str) -> Vec<u8> {
    place_name(id).into_bytes()
}

fn unreadable<E: std::error::Error + Send + Sync + 'static>(id: &str) -> impl Fn(E) -> AccessKeyError {
    let id = id.to_owned();
    move |source| AccessKeyError::Record { id: id.clone(), source: Box::new(source) }
}
