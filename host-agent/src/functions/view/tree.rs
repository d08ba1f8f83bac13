//! The functions in memory: what a record of the store adds to them, and what its deletion takes away.
//!
//! What belongs to no function, or to an earlier one of the same name, is not seen.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::Arc,
};

use cluster_store::Revision;

use super::{
    super::{
        attached::Attached,
        keys::Key,
        model::{Alias, FunctionId, LATEST, State},
        provisioned::{self, Claim},
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

    /// What it has of the account's concurrency, and what one of its versions has.
    pub(super) fn claim(&self, version: &str) -> Claim {
        let mut claim = Claim { reserved: self.latest.config.reserved_concurrency, ..Claim::default() };
        for (qualifier, requested) in self.provisioned() {
            claim.provisioned += requested;
            claim.of_version += self.shares(qualifier, requested).get(version).copied().unwrap_or(0);
        }
        claim
    }

    /// What is to be kept ready, by version.
    pub(super) fn provisions(&self) -> Vec<(Function, u32)> {
        let shares = self.provisioned().flat_map(|(qualifier, requested)| self.shares(qualifier, requested));
        shares.filter_map(|(version, count)| Some((self.version(&version)?.clone(), count))).collect()
    }

    /// What has something provisioned that is for a version.
    pub(super) fn provisioned_by(&self, version: &str) -> Vec<String> {
        let names = |qualifier: &str| match self.aliases.get(qualifier) {
            Some(named) => {
                let Alias { version: first, second, .. } = &*named.alias;
                first == version || second.as_ref().is_some_and(|(second, _)| second == version)
            }
            None => qualifier == version,
        };
        let by = self.provisioned().map(|(qualifier, _)| qualifier).filter(|qualifier| names(qualifier));
        by.map(String::from).collect()
    }

    /// What is provisioned, by version or alias.
    fn provisioned(&self) -> impl Iterator<Item = (&str, u32)> {
        let all = self.attached.iter();
        all.filter_map(|(qualifier, kept)| Some((qualifier.as_str(), kept.attached.provisioned?.requested)))
    }

    fn shares(&self, qualifier: &str, requested: u32) -> BTreeMap<String, u32> {
        match self.aliases.get(qualifier) {
            Some(named) => provisioned::shares(&named.alias, requested),
            None => BTreeMap::from([(qualifier.to_owned(), requested)]),
        }
    }
}

/// All functions, and who has which URL.
#[derive(Debug, Default)]
pub(super) struct Map {
    trees: BTreeMap<FunctionId, Tree>,
    /// By the URL's own name: the function, and what of it. Of what is attached in `trees`, no more and no less.
    urls: HashMap<String, (FunctionId, String)>,
}

impl Deref for Map {
    type Target = BTreeMap<FunctionId, Tree>;

    fn deref(&self) -> &Self::Target {
        &self.trees
    }
}

impl Map {
    /// Whose URL that is.
    pub(super) fn url(&self, id: &str) -> Option<&(FunctionId, String)> {
        self.urls.get(id)
    }

    /// What was attached is attached no more.
    fn forget_url(&mut self, kept: Option<&Kept>) {
        if let Some(url) = kept.and_then(|kept| kept.attached.url.as_ref()) {
            self.urls.remove(&url.id);
        }
    }
}

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
            if let Some(tree) = map.trees.get_mut(&id)
                && tree.latest.config.incarnation == named.alias.incarnation
            {
                tree.aliases.insert(named.alias.name.clone(), named);
            }
        }
        Record::Attached(id, kept) => {
            if let Some(tree) = map.trees.get_mut(&id)
                && tree.latest.config.incarnation == kept.attached.incarnation
            {
                let qualifier = kept.attached.qualifier.clone();
                let url = kept.attached.url.as_ref().map(|url| url.id.clone());
                let before = tree.attached.insert(qualifier.clone(), kept);
                map.forget_url(before.as_ref());
                map.urls.extend(url.map(|url| (url, (id, qualifier))));
            }
        }
        Record::Function(function) => {
            let number = function.config.version.parse().ok();
            match (map.trees.get_mut(&function.config.id), number) {
                (Some(tree), None) => tree.latest = function,
                (Some(tree), Some(number))
                    if tree.latest.config.incarnation == function.config.incarnation =>
                {
                    tree.versions.insert(number, function);
                }
                (_, Some(_)) => {}
                (None, None) => {
                    let id = function.config.id.clone();
                    map.trees.insert(
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
        Some(Key::Latest(id)) => {
            let tree = map.trees.remove(&id);
            for kept in tree.iter().flat_map(|tree| tree.attached.values()) {
                map.forget_url(Some(kept));
            }
        }
        Some(Key::Version(id, number)) => {
            if let Some(tree) = map.trees.get_mut(&id) {
                tree.versions.remove(&number);
            }
        }
        Some(Key::Alias(id, name)) => {
            if let Some(tree) = map.trees.get_mut(&id) {
                tree.aliases.remove(&name);
            }
        }
        Some(Key::Attached(id, qualifier)) => {
            if let Some(tree) = map.trees.get_mut(&id) {
                let before = tree.attached.remove(&qualifier);
                map.forget_url(before.as_ref());
            }
        }
        None => {}
    }
}

/// What a function has of the account's concurrency.
pub(super) fn claimed(map: &Map, id: &FunctionId) -> u32 {
    map.get(id).map_or(0, |tree| tree.claim(LATEST).total())
}
