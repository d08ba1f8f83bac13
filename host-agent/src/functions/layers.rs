//! Layers: numbered versions of a zip each, which functions are given. Published, deleted, and shown by a policy to others; never
//! changed.
//!
//! ```text
//! layers/REGION/NAME            the highest number that was given, as JSON: no number is given twice
//! layers/REGION/NAME/v/NUMBER   a version, as JSON
//! ```
//!
//! A function's record says itself what its layers are made of (`model::LayerRef`): a version that is deleted is gone for functions to
//! come. All of them are in memory, and one change is made at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use cluster_store::{KeyRange, Op, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Functions, attached::Policy, model::CodeRef, now_ms};
use crate::{
    code::{CodeError, CodeStore, Package},
    invoke::CodeImage,
};

/// What all keys begin with.
const PREFIX: &str = "layers/";

/// Which layer: the account is the node's, a name is unique in its region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct LayerId {
    /// Region that the publishing request was signed for.
    pub(crate) region: String,
    /// `[a-zA-Z0-9-_]{1,140}`.
    pub(crate) name: String,
}

/// What a publisher says of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// Free text, at most 256 characters.
    pub(crate) description: String,
    /// Free text, at most 512 characters.
    pub(crate) license: Option<String>,
    /// Runtimes that it is for, as given. Nothing holds functions to them.
    pub(crate) runtimes: Vec<String>,
    /// Architectures that it is for, as given.
    pub(crate) architectures: Vec<String>,
}

/// A version of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerVersion {
    /// The layer.
    pub(crate) id: LayerId,
    /// From 1 on.
    pub(crate) number: u64,
    /// The zip.
    pub(crate) code: CodeRef,
    /// Milliseconds since the Unix epoch.
    pub(crate) created_ms: i64,
    /// What its publisher says of it.
    pub(crate) label: Label,
    /// Who else may use it.
    pub(crate) policy: Option<Policy>,
}

/// Why layers were not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerStoreError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be written, or read.
    #[error("the record of a layer")]
    Record(#[from] serde_json::Error),
    /// A key that is none of ours.
    #[error("a layer of nobody's: `{0}`")]
    Key(String),
}

/// A version, whose zip stays while this lives.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) version: Arc<LayerVersion>,
    pub(crate) zip: Arc<CodeImage>,
}

#[derive(Debug, Default)]
struct Layer {
    last: u64,
    versions: BTreeMap<u64, Held>,
}

/// The node's layers.
pub(crate) struct Layers {
    store: Arc<dyn Store>,
    map: RwLock<BTreeMap<LayerId, Layer>>,
    /// One change at a time, so that store and memory say the same.
    turn: Mutex<()>,
}

impl Layers {
    /// Reads all layers, and holds their zips.
    pub(super) async fn open(store: Arc<dyn Store>, code: Arc<CodeStore>) -> Result<Self, LayerStoreError> {
        let mut map: BTreeMap<LayerId, Layer> = BTreeMap::new();
        let (entries, _) = store.range(KeyRange::prefix(PREFIX.as_bytes()), usize::MAX).await?;
        for entry in entries {
            let foreign = || LayerStoreError::Key(String::from_utf8_lossy(&entry.key).into_owned());
            let (id, number) = parse(&entry.key).ok_or_else(foreign)?;
            let layer = map.entry(id).or_default();
            let Some(number) = number else {
                layer.last = serde_json::from_slice(&entry.value)?;
                continue;
            };
            let version: LayerVersion = serde_json::from_slice(&entry.value)?;
            let zip = code.image(&Package::alone(&version.code.sha256)).await;
            layer.versions.insert(number, Held { version: Arc::new(version), zip });
        }
        Ok(Self { store, map: RwLock::new(map), turn: Mutex::default() })
    }

    /// A version, if it exists.
    pub(crate) fn get(&self, id: &LayerId, number: u64) -> Option<Held> {
        self.read().get(id)?.versions.get(&number).cloned()
    }

    /// The versions of a layer, the newest first; none if there is no such layer.
    pub(crate) fn versions(&self, id: &LayerId) -> Vec<Arc<LayerVersion>> {
        let map = self.read();
        let newest_first = |layer: &Layer| layer.versions.values().rev().map(shown).collect();
        map.get(id).map(newest_first).unwrap_or_default()
    }

    /// At most `limit` of a region's layers whose names come after `after`, in name order: of each the newest version that is
    /// `wanted`. A layer without one is not there.
    pub(crate) fn list(
        &self,
        region: &str,
        after: Option<&str>,
        limit: usize,
        wanted: impl Fn(&LayerVersion) -> bool,
    ) -> Vec<Arc<LayerVersion>> {
        let start = LayerId { region: region.into(), name: after.unwrap_or_default().into() };
        self.read()
            .range(start..)
            .take_while(|(id, _)| id.region == region)
            .filter(|(id, _)| after.is_none_or(|after| id.name.as_str() > after))
            .filter_map(|(_, layer)| {
                layer.versions.values().rev().find(|held| wanted(&held.version)).map(shown)
            })
            .take(limit)
            .collect()
    }

    /// Bytes of all zips of a region's versions.
    pub(crate) fn size(&self, region: &str) -> u64 {
        let map = self.read();
        let versions =
            map.iter().filter(|(id, _)| id.region == region).flat_map(|(_, layer)| layer.versions.values());
        versions.map(|held| held.version.code.size).sum()
    }

    /// Publishes the next version of a layer: durable when this returns.
    async fn publish(
        &self,
        id: LayerId,
        label: Label,
        (code, zip): (CodeRef, Arc<CodeImage>),
    ) -> Result<Arc<LayerVersion>, LayerStoreError> {
        let _turn = self.turn.lock().await;
        let number = self.read().get(&id).map_or(0, |layer| layer.last) + 1;
        let version = LayerVersion { id, number, code, created_ms: now_ms(), label, policy: None };
        let last = Op::Put { key: key(&version.id, None), value: serde_json::to_vec(&number)?, lease: None };
        self.write(vec![last, put(&version)?]).await?;
        let version = Arc::new(version);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let layer = map.entry(version.id.clone()).or_default();
        layer.last = number;
        layer.versions.insert(number, Held { version: Arc::clone(&version), zip });
        Ok(version)
    }

    /// Deletes a version; one that does not exist is as good as deleted.
    async fn delete(&self, id: &LayerId, number: u64) -> Result<(), LayerStoreError> {
        let _turn = self.turn.lock().await;
        if self.get(id, number).is_none() {
            return Ok(());
        }
        self.write(vec![Op::Delete(key(id, Some(number)))]).await?;
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.get_mut(id).and_then(|layer| layer.versions.remove(&number));
        Ok(())
    }

    /// Changes the policy of a version: durable when this returns. `None` if the version does not exist.
    ///
    /// # Errors
    /// What `change` refuses, and the store's.
    pub(crate) async fn change_policy<E: From<LayerStoreError>>(
        &self,
        id: &LayerId,
        number: u64,
        change: impl FnOnce(&mut Option<Policy>) -> Result<(), E> + Send,
    ) -> Result<Option<Arc<LayerVersion>>, E> {
        let _turn = self.turn.lock().await;
        let Some(Held { version, zip }) = self.get(id, number) else { return Ok(None) };
        let mut version = LayerVersion::clone(&version);
        change(&mut version.policy)?;
        self.write(vec![put(&version)?]).await?;
        let version = Arc::new(version);
        let held = Held { version: Arc::clone(&version), zip };
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.entry(id.clone()).or_default().versions.insert(number, held);
        Ok(Some(version))
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), LayerStoreError> {
        self.store.txn(Txn { compares: Vec::new(), ops }).await?;
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<LayerId, Layer>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// Checks and stores a zip, and publishes it as the next version of a layer.
    ///
    /// # Errors
    /// What is wrong with the zip, and the node's.
    pub(crate) async fn publish_layer(
        &self,
        id: LayerId,
        label: Label,
        zip: Bytes,
    ) -> Result<Arc<LayerVersion>, PublishLayerError> {
        let stored = self.code.ingest_layer(zip).await?;
        Ok(self.layers.publish(id, label, stored).await?)
    }

    /// Deletes a version of a layer, and its zip unless a function has it.
    pub(crate) async fn delete_layer(
        self: &Arc<Self>,
        id: &LayerId,
        number: u64,
    ) -> Result<(), LayerStoreError> {
        self.layers.delete(id, number).await?;
        self.sweep_later();
        Ok(())
    }
}

/// Why a version of a layer was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishLayerError {
    /// Its zip was not stored.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// Its record was not.
    #[error(transparent)]
    Store(#[from] LayerStoreError),
}

fn shown(held: &Held) -> Arc<LayerVersion> {
    Arc::clone(&held.version)
}

fn put(version: &LayerVersion) -> Result<Op, LayerStoreError> {
    let key = key(&version.id, Some(version.number));
    Ok(Op::Put { key, value: serde_json::to_vec(version)?, lease: None })
}

/// Where a version is kept, or the number of the last one.
fn key(LayerId { region, name }: &LayerId, number: Option<u64>) -> Vec<u8> {
    let version = number.map(|number| format!("/v/{number}")).unwrap_or_default();
    format!("{PREFIX}{region}/{name}{version}").into_bytes()
}

/// What is kept at a key. Regions and names hold no `/`.
fn parse(key: &[u8]) -> Option<(LayerId, Option<u64>)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split('/');
    let id = LayerId { region: parts.next()?.into(), name: parts.next()?.into() };
    let number = match (parts.next(), parts.next()) {
        (None, None) => None,
        (Some("v"), Some(number)) => Some(number.parse().ok()?),
        _ => return None,
    };
    parts.next().is_none().then_some((id, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_it_was_made_of() {
        let id = LayerId { region: "us-east-1".into(), name: "v".into() };
        for number in [None, Some(1), Some(12)] {
            assert_eq!(parse(&key(&id, number)), Some((id.clone(), number)));
        }
        for foreign in
            ["layers/us-east-1", "layers/r/l/v", "layers/r/l/v/x", "layers/r/l/v/1/2", "functions/r/l"]
        {
            assert_eq!(parse(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
