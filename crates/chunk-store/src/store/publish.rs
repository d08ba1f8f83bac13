//! A content on its way into a store: drafts of its chunks, until a root is committed that needs them.
//!
//! Flushing is what takes time, and a file system takes as long for thousands of files as for a few: so there are two flushes, one
//! before the chunks get their names and one before the root gets its own, whatever the content has.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Draft, Place};
use super::root::{Label, Root};
use super::{Store, StoreError, failed};
use crate::chunk::{Entry, Sealed};
use crate::flights::Flights;
use crate::manifest::Manifest;
use crate::name::ChunkName;

/// A content on its way into the store.
#[derive(Debug)]
pub struct Publish<'a> {
    store: &'a Store,
    id: u64,
    /// Flushes that had failed when this began.
    failures: u64,
    added: Mutex<Added>,
    /// Of chunks that are being written.
    flights: Flights<ChunkName, Result<(), Arc<io::Error>>>,
}

/// What there is of a content. A name is pinned before it is here.
#[derive(Debug, Default)]
struct Added {
    names: HashSet<ChunkName>,
    /// Those of them that were not there.
    drafts: BTreeSet<ChunkName>,
}

impl Store {
    /// Begins to publish a content. What is added stays until this is committed or dropped.
    pub fn publish(&self) -> Publish<'_> {
        let failures = self.failed_flushes.load(Ordering::SeqCst);
        let mut pins = self.pins();
        let id = pins.next_publish;
        pins.next_publish += 1;
        pins.open.insert(id, BTreeSet::new());
        Publish { store: self, id, failures, added: Mutex::default(), flights: Flights::new() }
    }
}

impl Publish<'_> {
    /// Stores a chunk, unless it is there, and gives what the manifest says of it. Nobody finds it before this is committed.
    ///
    /// # Errors
    /// The disk does not do it. It can be added again.
    pub fn add(&self, sealed: Sealed) -> Result<Option<Entry>, StoreError> {
        let Sealed::Chunk { entry, body } = sealed else { return Ok(None) };
        self.pin(entry.name);
        let added = self.flights.join(entry.name, || {
            if self.added().names.contains(&entry.name) {
                return Ok(());
            }
            let disk = &self.store.disk;
            let is_there = disk.holds(&Place::Chunk(entry.name))?;
            if !is_there {
                self.write(entry.name, &body)?;
            }
            self.added().names.insert(entry.name);
            Ok(())
        });
        added.map_err(|source| StoreError::Disk { what: "write a chunk", source })?;
        Ok(Some(entry))
    }

    /// Makes the content a root, in place of one that has this label. `sealed` is the manifest as it is kept.
    ///
    /// # Errors
    /// The manifest needs what was not added; or the disk does not do it, and whether the root is there has to be asked.
    pub fn commit(self, label: &Label, manifest: &Manifest, sealed: &[u8]) -> Result<(), StoreError> {
        let names: BTreeSet<ChunkName> = manifest.names().collect();
        if let Some(name) = names.iter().find(|name| !self.added().names.contains(*name)) {
            return Err(StoreError::NotAdded(*name));
        }
        self.name(&names)?;
        let disk = &self.store.disk;
        let draft = Draft { place: Place::Root(label.clone()), publish: self.id };
        let root = Root { names, manifest: sealed }.encode();
        // Names of chunks that somebody else wrote may not be on the disk yet either.
        let committed = disk
            .write(&draft, &root)
            .map_err(failed("write a root"))
            .and_then(|()| self.store.flush(self.failures))
            .and_then(|()| disk.finish(&draft).map_err(failed("name a root")));
        if committed.is_err() {
            // Nobody reads it; what cannot be deleted now is deleted when the store is opened.
            let _ = disk.discard(&draft);
        }
        committed?;
        disk.sync_roots().map_err(failed("flush its roots"))
        // Dropped, and unpinned, only now.
    }

    /// Puts a body in the place of one that is there, or is not; [`Self::name`] comes next.
    pub(super) fn replace(&self, name: ChunkName, body: &[u8]) -> Result<(), StoreError> {
        self.pin(name);
        self.write(name, body).map_err(failed("write a chunk"))
    }

    /// Gives the drafts of these chunks their names, which are not flushed yet. Other publishes may have named the same ones: each
    /// body is as good.
    pub(super) fn name(&self, names: &BTreeSet<ChunkName>) -> Result<(), StoreError> {
        let drafts: Vec<ChunkName> = self.added().drafts.intersection(names).copied().collect();
        if drafts.is_empty() {
            return Ok(());
        }
        self.store.flush(self.failures)?;
        for name in drafts {
            self.store.disk.finish(&self.draft(name)).map_err(failed("name a chunk"))?;
            self.added().drafts.remove(&name);
        }
        Ok(())
    }

    /// A draft, all of it or none.
    fn write(&self, name: ChunkName, body: &[u8]) -> io::Result<()> {
        let (disk, draft) = (&self.store.disk, self.draft(name));
        if let Err(error) = disk.write(&draft, body) {
            // Somebody else may name the chunk, and half a draft must not be put in its place.
            self.added().drafts.remove(&name);
            let _ = disk.discard(&draft);
            return Err(error);
        }
        self.added().drafts.insert(name);
        Ok(())
    }

    fn draft(&self, name: ChunkName) -> Draft {
        Draft { place: Place::Chunk(name), publish: self.id }
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anybody looks whether the chunk is there: from here on no collection deletes it.
    fn pin(&self, name: ChunkName) {
        let mut pins = self.store.pins();
        if let Some(names) = pins.open.get_mut(&self.id) {
            names.insert(name);
        }
        if let Some(generation) = &mut pins.generation {
            generation.insert(name);
        }
    }
}

impl Drop for Publish<'_> {
    fn drop(&mut self) {
        let drafts = std::mem::take(&mut self.added().drafts);
        for name in drafts {
            // As above.
            let _ = self.store.disk.discard(&self.draft(name));
        }
        self.store.disk.end(self.id);
        self.store.pins().open.remove(&self.id);
    }
}
