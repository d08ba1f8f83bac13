//! Mark and sweep, one generation at a time.
//!
//! Why nothing that is needed goes: a chunk that a visible root needs was pinned by the publish of that root until the root
//! was on the disk. Either that publish was open at some time in this generation, then the pin is in it; or it ended before the
//! generation began, then the root was there when the roots were listed, and its names are marked. Roots are flushed between
//! the listing and the first deletion, so that no root which was seen to be gone comes back after a loss of power.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::disk::{Folder, Place};
use super::root::Root;
use super::{Store, StoreError, failed};
use crate::name::ChunkName;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that stay.
    pub kept: u64,
    /// Chunks that were deleted.
    pub deleted: u64,
}

impl Store {
    /// Deletes every chunk that no root needs, while contents are published and deleted. A second call waits for the
    /// first.
    ///
    /// # Errors
    /// A root is damaged, and nothing has been deleted; or the disk does not do it, and some garbage is left.
    pub fn collect(&self) -> Result<Collected, StoreError> {
        let failures = self.failed_flushes.load(Ordering::SeqCst);
        let mut generation = self.begin();
        generation.mark()?;
        for folder in 0..=u8::MAX {
            generation.sweep(folder)?;
        }
        if generation.collected.deleted > 0 {
            self.flush(failures)?;
        }
        Ok(generation.collected)
    }

    /// From here on every pin counts until the generation ends.
    pub(super) fn begin(&self) -> Generation<'_> {
        let only = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pins = self.pins();
        let pinned = pins.open.values().flatten().copied().collect();
        pins.generation = Some(pinned);
        Generation { store: self, needed: None, collected: Collected::default(), _only: only }
    }
}

/// One collection.
pub(super) struct Generation<'a> {
    store: &'a Store,
    /// What roots need, once they have been read.
    needed: Option<HashSet<ChunkName>>,
    collected: Collected,
    _only: MutexGuard<'a, ()>,
}

impl Generation<'_> {
    /// Reads all roots. One that is deleted meanwhile needs nothing.
    pub(super) fn mark(&mut self) -> Result<(), StoreError> {
        let mut needed = HashSet::new();
        let labels = self.store.roots()?;
        for label in labels {
            let Some(file) = self.store.root(&label)? else { continue };
            let root = Root::decode(&file).ok_or(StoreError::DamagedRoot(label))?;
            needed.extend(root.names);
        }
        self.store.disk.sync_roots().map_err(failed("flush its roots"))?;
        self.needed = Some(needed);
        Ok(())
    }

    /// Deletes what nobody needs of the chunks whose names begin with `first`; nothing before the roots have been read.
    pub(super) fn sweep(&mut self, first: u8) -> Result<(), StoreError> {
        let Some(needed) = &self.needed else { return Ok(()) };
        let places = self.store.disk.list(Folder::Chunks(first)).map_err(failed("list its chunks"))?;
        for place in places {
            let Place::Chunk(name) = &place else { continue };
            // Held while the file is deleted: who pins it next looks for it afterwards.
            let pins = self.store.pins();
            let pinned = pins.generation.as_ref().is_none_or(|pinned| pinned.contains(name));
            if pinned || needed.contains(name) {
                self.collected.kept += 1;
            } else {
                self.store.disk.remove(&place).map_err(failed("delete a chunk"))?;
                self.collected.deleted += 1;
            }
        }
        Ok(())
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.store.pins().generation = None;
    }
}
