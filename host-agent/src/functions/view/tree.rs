//! The functions in memory: what a record of the store adds to them, and what its deletion takes away.
//!
//! What belongs to no function, or to an earlier one of the same name, is not seen.

use std::{collections::BTreeMap, sync::Arc};

use cluster_store::Revision;

use super::{
    super::{
        attached::Attached,
        keys::Key,
        model::{FunctionId, LATEST, State},
    },
    Function, Named,
};
use crate::functions::model::FunctionConfig;

/// What is attached to a version or an alias, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What it says.
    pub(crate) attached: Arc<Attached>,
    /// The store's revision of the record.
    pub(crate) revision: Revision,
}

/// A function with all that is below it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) latest: Function,
    pub(super) versions: BTreeMap<u64, Function>,
    pub(super) aliases: BTreeMap<String, Named>,
    /// By version or alias.
    pub(super) attached: BTreeMap<String, Kept>,
}

impl Tree {
    /// `$LATEST` or the version of that number.
    pub(super) fn version(&self, version: &str) -> Option<&Function> {
        if version == LATEST { Some(&self.latest) } else { self.versions.get(&version.parse().ok()?) }
    }

    pub(super) fn serves(&self, version: &str) -> bool {
        self.version(version).is_some_and(|function| function.config.state == State::Active)
    }
}

pub(super) type Map = BTreeMap<FunctionId, Tree>;

/// A record as the store has it.
pub(super) enum Record {
    Function(Function),
    Alias(FunctionId, Named),
    Attached(FunctionId, Kept),
}

/// Where a function or version is kept; `None` for a version that is no number.
pub(crate) fn key_of(config: &FunctionConfig) -> Option<Key> {
    let id = config.id.clone();
    Some(if config.version == LATEST {
        Key::Latest(id)
    } else {
        Key::Version(id, config.version.parse().ok()?)
    })
}

/// Adds a record.
pub(super) fn put(map: &mut Map, record: Record) {
    match record {
        Record::Alias(id, named) => {
            if let Some(tree) = map.get_mut(&id)
                && tree.latest.config.incarnation == named.alias.incarnation
            {
                tree.aliases.insert(named.alias.name.clone(), named);
            }
        }
        Record::Attached(id, kept) => {
            if let Some(tree) = map.get_mut(&id)
                && tree.latest.config.incarnation == kept.attached.incarnation
            {
                tree.attached.insert(kept.attached.qualifier.clone(), kept);
            }
        }
        Record::Function(function) => {
            let number = function.config.version.parse().ok();
            match (map.get_mut(&function.config.id), number) {
                (Some(tree), None) => tree.latest = function,
                (Some(tree), Some(number))
                    if tree.latest.config.incarnation == function.config.incarnation =>
                {
                    tree.versions.insert(number, function);
                }
                (_, Some(_)) => {}
                (None, None) => {
                    let id = function.config.id.clone();
                    map.insert(
                        id,
                        Tree {
                            latest: function,
                            versions: BTreeMap::new(),
                            aliases: BTreeMap::new(),
                            attached: BTreeMap::new(),
                        },
                    );
                }
            }
        }
    }
}

/// Takes away what a key names.
pub(super) fn remove(map: &mut Map, key: &[u8]) {
    match Key::parse(key) {
        Some(Key::Latest(id)) => drop(map.remove(&id)),
        Some(Key::Version(id, number)) => {
            if let Some(tree) = map.get_mut(&id) {
                tree.versions.remove(&number);
            }
        }
        Some(Key::Alias(id, name)) => {
            if let Some(tree) = map.get_mut(&id) {
                tree.aliases.remove(&name);
            }
        }
        Some(Key::Attached(id, qualifier)) => {
            if let Some(tree) = map.get_mut(&id) {
                tree.attached.remove(&qualifier);
            }
        }
        None => {}
    }
}

/// What a function has reserved of the account's concurrency.
pub(super) fn reserved(map: &Map, id: &FunctionId) -> u32 {
    map.get(id).and_then(|tree| tree.latest.config.reserved_concurrency).unwrap_or(0)
}
