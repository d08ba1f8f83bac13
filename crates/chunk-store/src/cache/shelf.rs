//! What is where: the policy's names, the slots that they have, and the slots that nobody has. One lock is around all of it; what
//! it does to files under that lock is short.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::policy::Policy;
use super::slots::{Held, Slots};
use crate::name::ChunkName;
use crate::size::ChunkSize;

/// The slots of a cache.
#[derive(Debug)]
pub(super) struct Shelf {
    root: PathBuf,
    policy: Policy,
    /// Copies that are in their slots. The policy also has names whose copies are being written.
    held: HashMap<ChunkName, Held>,
    classes: BTreeMap<ChunkSize, Class>,
}

/// The slots of one length.
#[derive(Debug)]
struct Class {
    slots: Arc<Slots>,
    /// Nobody's, and without room on the disk.
    free: Vec<u32>,
    /// The first that nobody ever had.
    next: u32,
}

/// What became of the wish for a slot.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// None when it is larger than all the room there is, or the name has one.
    pub(super) slot: Option<u32>,
    /// Copies that had to go.
    pub(super) evicted: u64,
}

impl Shelf {
    /// The shelf in `root`, with what was left there, of which no more than `capacity` bytes stay.
    pub(super) fn open(root: &Path, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let (policy, held, classes) = (Policy::new(capacity), HashMap::new(), BTreeMap::new());
        let mut shelf = Self { root: root.to_owned(), policy, held, classes };
        for log2 in 0..=u8::MAX {
            let size = ChunkSize::from_log2(log2);
            if let Some(size) = size.filter(|size| root.join(format!("slots-{}", size.log2())).exists()) {
                shelf.class(size)?;
            }
        }
        Ok(shelf)
    }

    /// The slots of one length, made when they are first asked for.
    pub(super) fn slots(&mut self, size: ChunkSize) -> io::Result<Arc<Slots>> {
        Ok(Arc::clone(&self.class(size)?.slots))
    }

    /// What is held under a name that is about to be read.
    pub(super) fn touch(&mut self, name: &ChunkName) -> Option<Held> {
        self.policy.touch(name);
        self.held.get(name).copied()
    }

    /// Whether the name still has that slot.
    pub(super) fn holds(&self, name: &ChunkName, held: &Held) -> bool {
        self.held.get(name) == Some(held)
    }

    /// A slot for a copy that is going to be written: [`Self::admit`] or [`Self::give_back`] comes next.
    pub(super) fn make_room(&mut self, name: ChunkName, size: ChunkSize) -> io::Result<Made> {
        self.class(size)?;
        if self.policy.holds(&name) {
            return Ok(Made::default());
        }
        let (mut evicted, mut own) = (0, Vec::new());
        for gone in self.policy.insert(name, size.bytes() as u64) {
            if gone == name {
                return Ok(Made { slot: None, evicted });
            }
            evicted += 1;
            if let Some(held) = self.held.remove(&gone) {
                let slots = self.slots(held.size)?;
                slots.clear(held.slot)?;
                // The one that is written next gives no room back.
                if held.size == size && own.is_empty() {
                    own.push(held.slot);
                } else {
                    slots.punch(held.slot)?;
                    self.class(held.size)?.free.push(held.slot);
                }
            }
        }
        let class = self.class(size)?;
        let slot = own.pop().or_else(|| class.free.pop()).unwrap_or_else(|| {
            class.next += 1;
            class.next - 1
        });
        Ok(Made { slot: Some(slot), evicted })
    }

    /// The copy is in its slot; if the name had to go meanwhile, it goes, too.
    pub(super) fn admit(&mut self, name: ChunkName, held: Held) -> io::Result<()> {
        if self.policy.holds(&name) {
            self.held.insert(name, held);
            return Ok(());
        }
        self.release(&held)
    }

    /// The copy was not written.
    pub(super) fn give_back(&mut self, name: &ChunkName, held: &Held) -> io::Result<()> {
        self.policy.remove(name);
        self.release(held)
    }

    /// Drops a copy, if the name still has that one.
    pub(super) fn drop_held(&mut self, name: &ChunkName, held: &Held) -> io::Result<()> {
        if !self.holds(name, held) {
            return Ok(());
        }
        self.held.remove(name);
        self.policy.remove(name);
        self.release(held)
    }

    /// How many copies there are, the bytes of their slots, and how many those may be.
    pub(super) fn volume(&self) -> (u64, u64, u64) {
        (self.policy.len() as u64, self.policy.bytes(), self.policy.capacity())
    }

    /// The slot is nobody's, whatever the disk says.
    fn release(&mut self, held: &Held) -> io::Result<()> {
        let slots = self.slots(held.size)?;
        self.class(held.size)?.free.push(held.slot);
        slots.clear(held.slot)?;
        slots.punch(held.slot)
    }

    fn class(&mut self, size: ChunkSize) -> io::Result<&mut Class> {
        if !self.classes.contains_key(&size) {
            let (slots, found) = Slots::open(&self.root, size)?;
            let slots = Arc::new(slots);
            let class = Class { slots: Arc::clone(&slots), free: found.free, next: found.used };
            self.classes.insert(size, class);
            for (name, held) in found.held {
                self.readmit(name, held)?;
            }
        }
        self.classes.get_mut(&size).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes up what was left by a process before this one.
    fn readmit(&mut self, name: ChunkName, held: Held) -> io::Result<()> {
        if self.policy.holds(&name) {
            return self.release(&held);
        }
        for gone in self.policy.insert(name, held.size.bytes() as u64) {
            match self.held.remove(&gone) {
                Some(held) => self.release(&held)?,
                None if gone == name => return self.release(&held),
                None => {}
            }
        }
        self.held.insert(name, held);
        Ok(())
    }
}
