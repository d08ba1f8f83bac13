//! What is where: the policy's names, the slots that they have, and the slots that nobody has. One lock is around all of it, and
//! nothing here touches a disk while others could wait for it: what has to happen to a slot is handed out, done without the lock,
//! and reported back.
//!
//! ```text
//! free ─► writing ─► held ─► leaving ─► free          counted in bytes: writing, held, leaving, stuck
//!            └──────────────────┘  └──► stuck ─► writing, or leaving once more
//! ```
//!
//! A slot takes room on the disk from `writing` until it has been emptied, and all that do are never more than the capacity
//! together: also at the moment at which one has to go and another one comes, and when the disk refuses to take room back.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::policy::Policy;
use super::slots::{Held, Slots};
use crate::cipher::TAG_LEN;
use crate::name::ChunkName;
use crate::size::ChunkSize;

/// The slots of a cache.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The names that are in `held`, and no others.
    policy: Policy,
    held: HashMap<ChunkName, Held>,
    classes: BTreeMap<ChunkSize, Class>,
    /// Bytes of the slots that are writing, leaving or stuck.
    busy: u64,
    next_turn: u64,
}

/// The slots of one length.
#[derive(Debug)]
struct Class {
    slots: Arc<Slots>,
    /// Nobody's, and without room on the disk.
    free: Vec<u32>,
    /// Nobody's, and the disk has not taken their room back.
    stuck: Vec<u32>,
    /// The first that nobody ever had.
    next: u32,
}

/// A slot that is for its writer alone, once what is `gone` has been emptied and [`Shelf::settle`] agrees.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) slots: Arc<Slots>,
    pub(super) slot: u32,
    pub(super) turn: u64,
    /// Copies that had to go.
    pub(super) evicted: u64,
    pub(super) gone: Vec<Gone>,
    /// Bytes of the slot that are counted with what is gone, until that is.
    due: u64,
    /// Bytes of the slot that are counted already.
    claimed: u64,
}

/// A slot that is leaving: to be emptied and then given to [`Shelf::emptied`].
#[derive(Debug)]
#[must_use]
pub(super) struct Gone {
    pub(super) slots: Arc<Slots>,
    pub(super) slot: u32,
}

/// What a disk said when a slot was emptied.
#[derive(Debug)]
#[must_use]
pub(super) struct Emptied {
    gone: Gone,
    /// Whether the room has been given back.
    is_empty: bool,
    /// What it did not do.
    pub(super) failures: u64,
}

impl Gone {
    /// Forgets what is in the slot and gives its room back.
    pub(super) fn empty(self) -> Emptied {
        // A record that stays is of a copy that does not open.
        let is_cleared = self.slots.clear(self.slot).is_ok();
        let is_empty = self.slots.punch(self.slot..self.slot + 1).is_ok();
        Emptied { gone: self, is_empty, failures: u64::from(!is_cleared) + u64::from(!is_empty) }
    }

    /// As if a disk had done it, or not.
    #[cfg(test)]
    pub(super) fn reported(self, is_empty: bool) -> Emptied {
        Emptied { gone: self, is_empty, failures: 0 }
    }
}

impl Room {
    /// What is held when the slot has been written.
    pub(super) fn held(&self, (len, copy_len): (u32, u32), tag: [u8; TAG_LEN]) -> Held {
        Held { size: self.slots.size(), slot: self.slot, len, copy_len, tag, turn: self.turn }
    }
}

impl Shelf {
    /// An empty one.
    pub(super) fn new(capacity: u64) -> Self {
        let (held, classes) = (HashMap::new(), BTreeMap::new());
        Self { policy: Policy::new(capacity), held, classes, busy: 0, next_turn: 0 }
    }

    /// Takes up slots and what a process before this one left in them, as far as there is room. The disk is read and written: all
    /// there are at first, when nobody waits, and others when they are new.
    pub(super) fn adopt(&mut self, slots: Slots) -> io::Result<()> {
        let (size, len) = (slots.size(), slots.size().bytes() as u64);
        let mut free: Vec<Range<u32>> = Vec::new();
        let next = slots.survey(|slot, found| {
            let fits = self.policy.bytes() + self.busy + len <= self.policy.capacity();
            match found.filter(|(name, _)| fits && !self.held.contains_key(name)) {
                Some((name, held)) => {
                    let turn = self.turn();
                    self.policy.insert(name, len);
                    self.held.insert(name, Held { turn, ..held });
                }
                None => match free.last_mut().filter(|range| range.end == slot) {
                    Some(range) => range.end += 1,
                    None => free.push(slot..slot + 1),
                },
            }
        })?;
        let mut class = Class { slots: Arc::new(slots), free: Vec::new(), stuck: Vec::new(), next };
        for range in free {
            // Records of what does not stay: whoever has the slot next writes over them, and until then nothing opens.
            if class.slots.punch(range.clone()).is_ok() {
                class.free.extend(range);
            } else {
                self.busy += len * range.len() as u64;
                class.stuck.extend(range);
            }
        }
        self.classes.insert(size, class);
        Ok(())
    }

    /// The slots of one length, once they have been adopted.
    pub(super) fn slots(&self, size: ChunkSize) -> Option<Arc<Slots>> {
        self.classes.get(&size).map(|class| Arc::clone(&class.slots))
    }

    /// What is held under a name that is about to be read.
    pub(super) fn touch(&mut self, name: &ChunkName) -> Option<Held> {
        self.policy.touch(name);
        self.held.get(name).copied()
    }

    /// Whether the name still has that copy.
    pub(super) fn holds(&self, name: &ChunkName, held: &Held) -> bool {
        self.held.get(name) == Some(held)
    }

    /// A slot for a copy that is going to be written; none when there is no room, whatever goes.
    pub(super) fn make_room(&mut self, size: ChunkSize) -> Option<Room> {
        let (len, capacity, turn) = (size.bytes() as u64, self.policy.capacity(), self.turn());
        let slots = self.slots(size)?;
        if let Some(slot) = self.classes.get_mut(&size)?.stuck.pop() {
            return Some(Room { slots, slot, turn, evicted: 0, gone: Vec::new(), due: 0, claimed: len });
        }
        if len > capacity.saturating_sub(self.busy) {
            return None;
        }
        let (mut gone, mut own, mut evicted, mut leaving) = (Vec::new(), None, 0, 0);
        // What is left when all of them have been emptied.
        while self.policy.bytes() + self.busy - leaving + len > capacity {
            let Some(held) = self.policy.evict().and_then(|name| self.held.remove(&name)) else { break };
            evicted += 1;
            leaving += held.size.bytes() as u64;
            let left = self.leave(&held);
            // The one that is written next gives no room back.
            if held.size == size && own.is_none() {
                own = Some(held.slot);
            } else {
                gone.extend(left);
            }
        }
        let rest = len.saturating_sub(leaving);
        self.busy += rest;
        let (due, claimed) = if own.is_some() { (0, len) } else { (len - rest, rest) };
        let slot = match own {
            Some(slot) => slot,
            None => self.classes.get_mut(&size)?.take_free(),
        };
        Some(Room { slots, slot, turn, evicted, gone, due, claimed })
    }

    /// Once what had to go has been emptied: whether the slot may be written. Then [`Self::admit`] or [`Self::abandon`] comes
    /// next.
    pub(super) fn settle(&mut self, room: &Room, emptied: Vec<Emptied>) -> bool {
        let all = emptied.iter().all(|emptied| emptied.is_empty);
        emptied.into_iter().for_each(|emptied| self.emptied(emptied));
        if all || room.due == 0 {
            self.busy += room.due;
            return true;
        }
        // What it was to take is still taken.
        self.busy -= room.claimed;
        if let Some(class) = self.classes.get_mut(&room.slots.size()) {
            class.free.push(room.slot);
        }
        false
    }

    /// The copy is in its slot. One that the name had before goes.
    pub(super) fn admit(&mut self, name: ChunkName, held: Held) -> Option<Gone> {
        let replaced = self.held.remove(&name);
        self.policy.remove(&name);
        let left = replaced.and_then(|replaced| self.leave(&replaced));
        let len = held.size.bytes() as u64;
        self.busy -= len;
        self.policy.insert(name, len);
        self.held.insert(name, held);
        left
    }

    /// The copy was not written, or not all of it.
    pub(super) fn abandon(room: Room) -> Gone {
        Gone { slots: room.slots, slot: room.slot }
    }

    /// Drops a copy, if the name still has that one.
    pub(super) fn drop_held(&mut self, name: &ChunkName, held: &Held) -> Option<Gone> {
        if !self.holds(name, held) {
            return None;
        }
        self.held.remove(name);
        self.policy.remove(name);
        self.leave(held)
    }

    /// One whose room the disk did not take back, to be tried again.
    pub(super) fn stuck(&mut self) -> Option<Gone> {
        self.classes.values_mut().find_map(|class| {
            let slot = class.stuck.pop()?;
            Some(Gone { slots: Arc::clone(&class.slots), slot })
        })
    }

    /// The slot is nobody's.
    pub(super) fn emptied(&mut self, emptied: Emptied) {
        let Emptied { gone: Gone { slots, slot }, is_empty, failures: _ } = emptied;
        let Some(class) = self.classes.get_mut(&slots.size()) else { return };
        if is_empty {
            class.free.push(slot);
            self.busy -= slots.size().bytes() as u64;
        } else {
            class.stuck.push(slot);
        }
    }

    /// How many copies there are, the bytes of their slots, and how many those may be.
    pub(super) fn volume(&self) -> (u64, u64, u64) {
        (self.policy.len() as u64, self.policy.bytes(), self.policy.capacity())
    }

    /// From here on the slot of a copy that nobody holds any more is leaving.
    fn leave(&mut self, held: &Held) -> Option<Gone> {
        let slots = self.slots(held.size)?;
        self.busy += held.size.bytes() as u64;
        Some(Gone { slots, slot: held.slot })
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }
}

impl Class {
    fn take_free(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}
