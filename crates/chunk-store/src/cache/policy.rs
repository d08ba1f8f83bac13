//! Which copies stay: S3-FIFO (Yang et al., SOSP 2023), counted in bytes. A pure decision, names and lengths in, names to
//! drop out; nothing here touches a disk, and how many bytes there may be is the caller's to know.
//!
//! ```text
//!            new ─► small (a tenth) ─┬─ used since ──► main ─┬─ used since ─► main, one use less
//! remembered ──────────────────────┐ └─ not ─► ghost         └─ not ─► gone
//!                                  └───────────────────────► main
//! ```
//!
//! What is read once, however much of it (a scan of an image), passes through `small` and leaves `main` alone. A ghost is the
//! name of one that has gone: when it comes back, it was more than a scan.

use std::collections::{HashMap, VecDeque};

use crate::name::ChunkName;

/// Part of the bytes that new copies may take before one of them has to go.
const SMALL_PART: u64 = 10;

/// Uses that count: one that was popular for long is not kept for ever.
const MAX_USES: u8 = 3;

/// Fewest ghosts that are remembered, however few copies fit.
const MIN_GHOSTS: usize = 64;

/// The copies there are, and in which order they go.
#[derive(Debug)]
pub(super) struct Policy {
    capacity: u64,
    copies: HashMap<ChunkName, Resident>,
    small: Queue,
    main: Queue,
    /// Names that were in `small` once, oldest first; the map says which places are still theirs.
    ghosts: VecDeque<(ChunkName, u64)>,
    ghost_of: HashMap<ChunkName, u64>,
    /// Number of the next place.
    next: u64,
}

/// First in, first out. A place whose copy has gone or has another place stays until its turn, and counts no bytes.
#[derive(Debug, Default)]
struct Queue {
    places: VecDeque<(ChunkName, u64)>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Resident {
    len: u64,
    uses: u8,
    place: u64,
    queue: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Small,
    Main,
}

impl Policy {
    /// For `capacity` bytes, which decide how many of them are new copies'.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            copies: HashMap::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_of: HashMap::new(),
            next: 0,
        }
    }

    /// Bytes of all copies.
    pub(super) fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// What they are not to exceed.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many copies there are.
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    /// Whether there is such a copy.
    pub(super) fn holds(&self, name: &ChunkName) -> bool {
        self.copies.contains_key(name)
    }

    /// Whether there is such a copy, which is about to be read.
    pub(super) fn touch(&mut self, name: &ChunkName) -> bool {
        let Some(copy) = self.copies.get_mut(name) else { return false };
        copy.uses = (copy.uses + 1).min(MAX_USES);
        true
    }

    /// Takes in a copy for which there is room. One that is there already stays where it is.
    pub(super) fn insert(&mut self, name: ChunkName, len: u64) {
        if self.holds(&name) {
            return;
        }
        let queue = if self.ghost_of.remove(&name).is_some() { Which::Main } else { Which::Small };
        self.enter(name, Resident { len, uses: 0, place: 0, queue });
    }

    /// Forgets a copy that is not there any more.
    pub(super) fn remove(&mut self, name: &ChunkName) {
        if let Some(copy) = self.copies.remove(name) {
            self.queue(copy.queue).bytes -= copy.len;
            self.compact(copy.queue);
        }
    }

    fn queue(&mut self, which: Which) -> &mut Queue {
        match which {
            Which::Small => &mut self.small,
            Which::Main => &mut self.main,
        }
    }

    /// At the end of its queue.
    fn enter(&mut self, name: ChunkName, copy: Resident) {
        let place = self.next_place();
        let queue = self.queue(copy.queue);
        queue.places.push_back((name, place));
        queue.bytes += copy.len;
        self.copies.insert(name, Resident { place, ..copy });
    }

    fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Forgets the one copy that goes now, if there is any. Each turn takes a use from a copy or a place from `small`, so there is an end to it.
    pub(super) fn evict(&mut self) -> Option<ChunkName> {
        loop {
            let from_small = self.small.bytes > self.capacity / SMALL_PART || self.main.bytes == 0;
            let which = if from_small { Which::Small } else { Which::Main };
            let Some((name, copy)) = self.leave(which) else {
                // Files of no bytes at all can be left in the other queue.
                let other = if from_small { Which::Main } else { Which::Small };
                return self.leave(other).map(|(name, _)| name);
            };
            match (which, copy.uses) {
                (Which::Small, 0) => {
                    self.remember(name);
                    return Some(name);
                }
                (Which::Small, _) => self.enter(name, Resident { uses: 0, queue: Which::Main, ..copy }),
                (Which::Main, 0) => return Some(name),
                (Which::Main, uses) => self.enter(name, Resident { uses: uses - 1, ..copy }),
            }
        }
    }

    /// Takes the first copy out of a queue.
    fn leave(&mut self, which: Which) -> Option<(ChunkName, Resident)> {
        loop {
            let (name, place) = self.queue(which).places.pop_front()?;
            if let Some(copy) = self.copies.get(&name).copied().filter(|copy| copy.place == place) {
                self.copies.remove(&name);
                self.queue(which).bytes -= copy.len;
                return Some((name, copy));
            }
        }
    }

    /// As many ghosts as there are copies.
    fn remember(&mut self, name: ChunkName) {
        let place = self.next_place();
        self.ghosts.push_back((name, place));
        self.ghost_of.insert(name, place);
        while self.ghosts.len() > self.copies.len().max(MIN_GHOSTS) {
            let Some((oldest, place)) = self.ghosts.pop_front() else { break };
            if self.ghost_of.get(&oldest) == Some(&place) {
                self.ghost_of.remove(&oldest);
            }
        }
    }

    /// Places that are nobody's are at most as many as the others: copies can go otherwise than by their turn.
    fn compact(&mut self, which: Which) {
        let copies = std::mem::take(&mut self.copies);
        let queue = self.queue(which);
        if queue.places.len() > 2 * copies.len() + MIN_GHOSTS {
            queue.places.retain(|(name, place)| copies.get(name).is_some_and(|copy| copy.place == *place));
        }
        self.copies = copies;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::collections::hash_map::Entry;

    use proptest::prelude::*;

    use super::*;

    fn name(number: u32) -> ChunkName {
        ChunkName::of(&number.to_le_bytes())
    }

    /// What a cache does with each read: looks, and takes it in when it is not there.
    fn read(policy: &mut Policy, number: u32) -> bool {
        let hit = policy.touch(&name(number));
        if !hit {
            take_in(policy, number, 1);
        }
        hit
    }

    /// Makes room first, if that is possible. What had to go.
    fn take_in(policy: &mut Policy, number: u32, len: u64) -> Vec<ChunkName> {
        let mut gone = Vec::new();
        if len > policy.capacity() {
            return vec![name(number)];
        }
        while policy.bytes() + len > policy.capacity() {
            gone.push(policy.evict().expect("there are bytes"));
        }
        policy.insert(name(number), len);
        gone
    }

    #[test]
    fn a_scan_leaves_what_is_used() {
        let mut policy = Policy::new(100);
        for _ in 0..3 {
            (0..80).for_each(|number| _ = read(&mut policy, number));
        }
        (1000..11_000).for_each(|number| _ = read(&mut policy, number));
        let kept = (0..80).filter(|number| policy.touch(&name(*number))).count();
        assert_eq!(kept, 80, "of 80 that were used, after a scan of a hundred times the cache");
    }

    #[test]
    fn what_comes_back_soon_stays() {
        let mut policy = Policy::new(100);
        (0..120).for_each(|number| _ = read(&mut policy, number));
        assert!(!read(&mut policy, 15), "it has gone");
        (200..290).for_each(|number| _ = read(&mut policy, number));
        assert!(read(&mut policy, 15), "and was remembered");
    }

    #[test]
    fn what_is_removed_counts_no_more() {
        let mut policy = Policy::new(100);
        take_in(&mut policy, 1, 50);
        assert_eq!(take_in(&mut policy, 2, 100), [name(1)]);
        assert!(policy.touch(&name(2)) && !policy.touch(&name(1)));
        policy.remove(&name(2));
        assert_eq!((policy.bytes(), policy.len(), policy.evict()), (0, 0, None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Read(u32, u64),
        Remove(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..60_u32, 0..40_u64).prop_map(|(number, len)| Step::Read(number, len)),
            1 => (0..60_u32).prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..150)
    }

    proptest! {
        #[test]
        fn it_knows_what_there_is_and_keeps_to_its_bytes(capacity in 0..200_u64, steps in steps()) {
            let mut policy = Policy::new(capacity);
            let mut copies: HashMap<ChunkName, u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Read(number, len) => {
                        let name = name(number);
                        prop_assert_eq!(policy.touch(&name), copies.contains_key(&name));
                        if let Entry::Vacant(copy) = copies.entry(name) {
                            copy.insert(len);
                            let gone = take_in(&mut policy, number, len);
                            prop_assert_eq!(gone.iter().collect::<HashSet<_>>().len(), gone.len());
                            for name in gone {
                                prop_assert!(copies.remove(&name).is_some(), "what goes was there");
                            }
                        }
                    }
                    Step::Remove(number) => {
                        copies.remove(&name(number));
                        policy.remove(&name(number));
                    }
                }
                prop_assert_eq!(policy.len(), copies.len());
                prop_assert_eq!(policy.bytes(), copies.values().sum::<u64>());
                prop_assert!(policy.bytes() <= capacity);
                let places = policy.small.places.len() + policy.main.places.len();
                prop_assert!(places <= 2 * (2 * 60 + MIN_GHOSTS), "{} places of 60 copies", places);
                prop_assert!(policy.ghosts.len() <= MIN_GHOSTS);
            }
        }
    }
}
