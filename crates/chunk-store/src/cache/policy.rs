//! Which files stay: S3-FIFO (Yang et al., SOSP 2023), counted in bytes. A pure decision, names and lengths in, names to
//! delete out; nothing here touches a disk.
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

/// Part of the bytes that new files may take before one of them has to go.
const SMALL_PART: u64 = 10;

/// Uses that count: one that was popular for long is not kept for ever.
const MAX_USES: u8 = 3;

/// Fewest ghosts that are remembered, however few files fit.
const MIN_GHOSTS: usize = 64;

/// The files there are, and in which order they go.
#[derive(Debug)]
pub(super) struct Policy {
    capacity: u64,
    files: HashMap<ChunkName, Resident>,
    small: Queue,
    main: Queue,
    /// Names that were in `small` once, oldest first; the map says which places are still theirs.
    ghosts: VecDeque<(ChunkName, u64)>,
    ghost_of: HashMap<ChunkName, u64>,
    /// Number of the next place.
    next: u64,
}

/// First in, first out. A place whose file has gone or has another place stays until its turn, and counts no bytes.
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
    /// For at most `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            files: HashMap::new(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: VecDeque::new(),
            ghost_of: HashMap::new(),
            next: 0,
        }
    }

    /// Bytes of all files; never more than the capacity.
    pub(super) fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// What they may not exceed.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is such a file.
    pub(super) fn holds(&self, name: &ChunkName) -> bool {
        self.files.contains_key(name)
    }

    /// Whether there is such a file, which is about to be read.
    pub(super) fn touch(&mut self, name: &ChunkName) -> bool {
        let Some(file) = self.files.get_mut(name) else { return false };
        file.uses = (file.uses + 1).min(MAX_USES);
        true
    }

    /// Makes room for a new file. What has to go is in the list: `name` itself when it is larger than all the room there is.
    /// A file that is there already stays where it is.
    pub(super) fn insert(&mut self, name: ChunkName, len: u64) -> Vec<ChunkName> {
        if self.holds(&name) {
            return Vec::new();
        }
        if len > self.capacity {
            return vec![name];
        }
        let mut gone = Vec::new();
        while self.bytes() + len > self.capacity {
            let Some(name) = self.evict() else { break };
            gone.push(name);
        }
        let queue = if self.ghost_of.remove(&name).is_some() { Which::Main } else { Which::Small };
        self.enter(name, Resident { len, uses: 0, place: 0, queue });
        gone
    }

    /// Forgets a file that is not there any more.
    pub(super) fn remove(&mut self, name: &ChunkName) {
        if let Some(file) = self.files.remove(name) {
            self.queue(file.queue).bytes -= file.len;
            self.compact(file.queue);
        }
    }

    fn queue(&mut self, which: Which) -> &mut Queue {
        match which {
            Which::Small => &mut self.small,
            Which::Main => &mut self.main,
        }
    }

    /// At the end of its queue.
    fn enter(&mut self, name: ChunkName, file: Resident) {
        let place = self.next_place();
        let queue = self.queue(file.queue);
        queue.places.push_back((name, place));
        queue.bytes += file.len;
        self.files.insert(name, Resident { place, ..file });
    }

    fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The one file that goes now. Each turn takes a use from a file or a place from `small`, so there is an end to it.
    fn evict(&mut self) -> Option<ChunkName> {
        loop {
            let from_small = self.small.bytes > self.capacity / SMALL_PART || self.main.bytes == 0;
            let which = if from_small { Which::Small } else { Which::Main };
            let Some((name, file)) = self.leave(which) else {
                // Files of no bytes at all can be left in the other queue.
                let other = if from_small { Which::Main } else { Which::Small };
                return self.leave(other).map(|(name, _)| name);
            };
            match (which, file.uses) {
                (Which::Small, 0) => {
                    self.remember(name);
                    return Some(name);
                }
                (Which::Small, _) => self.enter(name, Resident { uses: 0, queue: Which::Main, ..file }),
                (Which::Main, 0) => return Some(name),
                (Which::Main, uses) => self.enter(name, Resident { uses: uses - 1, ..file }),
            }
        }
    }

    /// Takes the first file out of a queue.
    fn leave(&mut self, which: Which) -> Option<(ChunkName, Resident)> {
        loop {
            let (name, place) = self.queue(which).places.pop_front()?;
            if let Some(file) = self.files.get(&name).copied().filter(|file| file.place == place) {
                self.files.remove(&name);
                self.queue(which).bytes -= file.len;
                return Some((name, file));
            }
        }
    }

    /// As many ghosts as there are files.
    fn remember(&mut self, name: ChunkName) {
        let place = self.next_place();
        self.ghosts.push_back((name, place));
        self.ghost_of.insert(name, place);
        while self.ghosts.len() > self.files.len().max(MIN_GHOSTS) {
            let Some((oldest, place)) = self.ghosts.pop_front() else { break };
            if self.ghost_of.get(&oldest) == Some(&place) {
                self.ghost_of.remove(&oldest);
            }
        }
    }

    /// Places that are nobody's are at most as many as the others: files can go otherwise than by their turn.
    fn compact(&mut self, which: Which) {
        let files = std::mem::take(&mut self.files);
        let queue = self.queue(which);
        if queue.places.len() > 2 * files.len() + MIN_GHOSTS {
            queue.places.retain(|(name, place)| files.get(name).is_some_and(|file| file.place == *place));
        }
        self.files = files;
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
            policy.insert(name(number), 1);
        }
        hit
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
    fn what_does_not_fit_is_not_kept() {
        let mut policy = Policy::new(100);
        policy.insert(name(1), 50);
        assert_eq!(policy.insert(name(2), 101), [name(2)]);
        assert!(policy.touch(&name(1)) && !policy.touch(&name(2)));
        assert_eq!(policy.insert(name(3), 100), [name(1)]);
        policy.remove(&name(3));
        assert_eq!((policy.bytes(), policy.len()), (0, 0));
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
            let mut files: HashMap<ChunkName, u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Read(number, len) => {
                        let name = name(number);
                        prop_assert_eq!(policy.touch(&name), files.contains_key(&name));
                        if let Entry::Vacant(file) = files.entry(name) {
                            file.insert(len);
                            let gone = policy.insert(name, len);
                            prop_assert_eq!(gone.iter().collect::<HashSet<_>>().len(), gone.len());
                            for name in gone {
                                prop_assert!(files.remove(&name).is_some(), "what goes was there");
                            }
                        }
                    }
                    Step::Remove(number) => {
                        files.remove(&name(number));
                        policy.remove(&name(number));
                    }
                }
                prop_assert_eq!(policy.len(), files.len());
                prop_assert_eq!(policy.bytes(), files.values().sum::<u64>());
                prop_assert!(policy.bytes() <= capacity);
                let places = policy.small.places.len() + policy.main.places.len();
                prop_assert!(places <= 2 * (2 * 60 + MIN_GHOSTS), "{} places of 60 files", places);
                prop_assert!(policy.ghosts.len() <= MIN_GHOSTS);
            }
        }
    }
}
