//! Whether a store is what its roots need it to be, and what is done where it is not. Chunks are read one at a time, all of them:
//! this takes as long as the disk does. Contents are published and garbage is collected meanwhile.
//!
//! A chunk that is damaged is of no use to anybody, so it is replaced or deleted also while a root needs it: whoever publishes it
//! next writes it again, where one that is there is not looked at. But not while a publish is open that may have found it there.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::Ordering;

use super::disk::{Folder, Place};
use super::root::{Label, Root};
use super::{Store, StoreError, failed};
use crate::cache::{Source, SourceError};
use crate::chunk::MAX_BODY_LEN;
use crate::name::ChunkName;

/// How often a source is asked for a chunk that is to be replaced.
const ATTEMPTS: u32 = 3;

/// Chunks that get their names after one flush: so many that flushes do not count, and few enough that little is done twice when
/// something ends it.
const BATCH: usize = 1024;

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Chunks, garbage included.
    pub chunks: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Roots.
    pub roots: u64,
}

/// What a check found. It has at most a name for each chunk that is there or needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Chunks that were read, the damaged ones included.
    pub chunks: u64,
    /// Chunks that are not what their name says, ascending.
    pub damaged: Vec<ChunkName>,
    /// Chunks that a root needs and that are not there, ascending.
    pub missing: Vec<ChunkName>,
    /// Roots that cannot be read: what they need is not known.
    pub damaged_roots: Vec<Label>,
}

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Chunks that are there again, as they should be.
    pub replaced: u64,
    /// Damaged chunks that were deleted: there was no good one.
    pub deleted: u64,
    /// Damaged chunks that a publish which is open may count on: for the next repair.
    pub left: u64,
    /// Chunks that roots need, that were not there and of which there was no good one.
    pub missing: u64,
}

impl Store {
    /// Counts what there is, from the folders.
    ///
    /// # Errors
    /// The disk does not tell.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = StoreStats { roots: self.roots()?.len() as u64, ..StoreStats::default() };
        for first in 0..=u8::MAX {
            for place in self.disk.list(Folder::Chunks(first)).map_err(failed("list its chunks"))? {
                match self.disk.len(&place) {
                    Ok(len) => (stats.chunks, stats.bytes) = (stats.chunks + 1, stats.bytes + len),
                    // Collected meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed("look at a chunk")(error)),
                }
            }
        }
        Ok(stats)
    }

    /// Reads every chunk and looks for every one that a root needs.
    ///
    /// # Errors
    /// The disk does not list what it has. What it cannot read is damaged.
    pub fn verify(&self) -> Result<Health, StoreError> {
        let (mut needed, damaged_roots) = self.needed()?;
        let mut health = Health { damaged_roots, ..Health::default() };
        for first in 0..=u8::MAX {
            for name in self.chunks(first)? {
                let found = self.check(&name);
                if found != Found::Nothing {
                    health.chunks += 1;
                    needed.remove(&name);
                }
                if found == Found::Damaged {
                    health.damaged.push(name);
                }
            }
        }
        health.damaged.sort_unstable();
        health.missing = self.missing(needed)?;
        Ok(health)
    }

    /// Replaces every damaged chunk, and every one that a root needs and that is missing, from `source`; deletes the damaged ones of
    /// which it has no good one.
    ///
    /// # Errors
    /// The disk does not do it, and some may have been repaired.
    pub fn repair(&self, source: &dyn Source) -> Result<Repaired, StoreError> {
        let Health { damaged, missing, .. } = self.verify()?;
        let mut repaired = Repaired::default();
        for batch in damaged.chunks(BATCH) {
            let deleted = self.fill(batch, source, &mut repaired)?;
            for name in deleted {
                self.delete_damaged(name, &mut repaired)?;
            }
        }
        for batch in missing.chunks(BATCH) {
            repaired.missing += self.fill(batch, source, &mut repaired)?.len() as u64;
        }
        if repaired.replaced + repaired.deleted > 0 {
            self.flush(self.failed_flushes.load(Ordering::SeqCst))?;
        }
        Ok(repaired)
    }

    /// Writes what `source` has of these, all of it anew. What it has not.
    fn fill(
        &self,
        names: &[ChunkName],
        source: &dyn Source,
        repaired: &mut Repaired,
    ) -> Result<Vec<ChunkName>, StoreError> {
        let (mut written, mut absent) = (BTreeSet::new(), Vec::new());
        let publish = self.publish();
        for name in names {
            let Some(body) = good(source, name) else {
                absent.push(*name);
                continue;
            };
            publish.replace(*name, &body)?;
            written.insert(*name);
        }
        publish.name(&written)?;
        repaired.replaced += written.len() as u64;
        Ok(absent)
    }

    /// Unless it is another one by now, or somebody counts on it.
    fn delete_damaged(&self, name: ChunkName, repaired: &mut Repaired) -> Result<(), StoreError> {
        // Held while the chunk is read again and deleted: who pins it next looks for it afterwards.
        let pins = self.pins();
        if self.check(&name) != Found::Damaged {
            return Ok(());
        }
        if pins.open.values().any(|names| names.contains(&name)) {
            repaired.left += 1;
            return Ok(());
        }
        self.disk.remove(&Place::Chunk(name)).map_err(failed("delete a chunk"))?;
        repaired.deleted += 1;
        Ok(())
    }

    fn chunks(&self, first: u8) -> Result<Vec<ChunkName>, StoreError> {
        let places = self.disk.list(Folder::Chunks(first)).map_err(failed("list its chunks"))?;
        let name = |place| match place {
            Place::Chunk(name) => Some(name),
            Place::Root(_) => None,
        };
        Ok(places.into_iter().filter_map(name).collect())
    }

    /// All that roots need, and the roots that do not say what.
    fn needed(&self) -> Result<(HashSet<ChunkName>, Vec<Label>), StoreError> {
        let (mut needed, mut damaged) = (HashSet::new(), Vec::new());
        for label in self.roots()? {
            let Some(file) = self.root(&label)? else { continue };
            match Root::decode(&file) {
                Some(root) => needed.extend(root.names),
                None => damaged.push(label),
            }
        }
        Ok((needed, damaged))
    }

    /// Of those that were needed and not seen, the ones that are needed still and still not there, ascending.
    fn missing(&self, unseen: HashSet<ChunkName>) -> Result<Vec<ChunkName>, StoreError> {
        let mut missing = Vec::new();
        for name in unseen {
            if !self.disk.holds(&Place::Chunk(name)).map_err(failed("look for a chunk"))? {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            // Their roots may have been deleted since, and they collected.
            let (needed, _) = self.needed()?;
            missing.retain(|name| needed.contains(name));
            missing.sort_unstable();
        }
        Ok(missing)
    }

    fn check(&self, name: &ChunkName) -> Found {
        match self.disk.read(&Place::Chunk(*name), MAX_BODY_LEN) {
            Ok(body) if ChunkName::of(&body) == *name => Found::Whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            _ => Found::Damaged,
        }
    }
}

/// What is under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole,
    Damaged,
    Nothing,
}

/// The body of a chunk, from a source that is not believed.
fn good(source: &dyn Source, name: &ChunkName) -> Option<Vec<u8>> {
    for attempt in 0..ATTEMPTS {
        match source.fetch(name, MAX_BODY_LEN, attempt) {
            Ok(body) if ChunkName::of(&body) == *name => return Some(body),
            Err(SourceError::Absent) => return None,
            _ => {}
        }
    }
    None
}
