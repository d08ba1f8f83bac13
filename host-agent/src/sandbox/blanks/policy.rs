//! How many blank machines wait, of which shapes: values in, values out; no clock, no process.
//!
//! A blank is worth having when the next clone comes before it could be made. So each shape that was asked for lately
//! keeps one, and as many as were taken within the time of a burst; all of them together stay below a bound that the
//! node's memory sets, the shape that was asked for last first.
//!
//! None is made as long as every processor has a clone to bring up: the next one would not come sooner for it, and those
//! would come later.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use vmm_api::Shape;

/// What is taken within this time is a burst, which the next one may equal.
pub(crate) const BURST: Duration = Duration::from_secs(10);

/// How long a shape that nobody asks for keeps a blank.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

/// A clone that takes longer than this to answer its first event is busy with the event, or waits for something.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Takes of one shape that are remembered: more blanks than this are never wanted.
const MAX_REMEMBERED: usize = 64;

/// A machine's shape, in an order: MiB and vCPUs.
pub(crate) type Key = (u32, u8);

/// What is to be done, one step at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a blank.
    Make(Shape),
    /// End one.
    End(Shape),
    /// Nothing, before that moment or the next take.
    Wait(Option<Instant>),
}

/// Takes, by shape.
#[derive(Debug)]
pub(crate) struct Policy {
    limit: usize,
    processors: usize,
    takes: BTreeMap<Key, VecDeque<Instant>>,
    /// Clones on their way up: their numbers and when they began.
    starting: BTreeMap<u64, Instant>,
    started: u64,
}

impl Policy {
    /// With at most so many blanks, on so many processors.
    pub(crate) fn new(limit: usize, processors: usize) -> Self {
        Self { limit, processors, takes: BTreeMap::new(), starting: BTreeMap::new(), started: 0 }
    }

    /// A clone begins; its number.
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.started += 1;
        self.starting.insert(self.started, now);
        self.started
    }

    /// A clone has answered its first event, or is lost.
    pub(crate) fn end(&mut self, number: u64) {
        self.starting.remove(&number);
    }

    /// A blank was asked for, whether or not there was one.
    pub(crate) fn taken(&mut self, shape: Shape, now: Instant) {
        let takes = self.takes.entry(key(shape)).or_default();
        takes.push_back(now);
        if takes.len() > MAX_REMEMBERED {
            takes.pop_front();
        }
    }

    /// What to do when there are so many blanks.
    pub(crate) fn step(&mut self, have: &BTreeMap<Key, usize>, now: Instant) -> Step {
        self.takes.retain(|_, takes| takes.back().is_some_and(|last| *last + MEMORY > now));
        let targets = self.targets(now);
        let target = |key: &Key| targets.get(key).copied().unwrap_or(0);
        if let Some((surplus, _)) = have.iter().find(|(key, count)| **count > target(key)) {
            return Step::End(shape(*surplus));
        }
        let missing = |key: &Key| target(key) > have.get(key).copied().unwrap_or(0);
        // The one that was asked for last first.
        let wanted =
            self.takes.iter().filter(|(key, _)| missing(key)).max_by_key(|(_, takes)| takes.back().copied());
        match wanted {
            Some((key, _)) => self.busy_until(now).map_or(Step::Make(shape(*key)), |at| Step::Wait(Some(at))),
            None => Step::Wait(self.next_change(now)),
        }
    }

    /// When a processor has nothing to bring up any more, at the latest.
    fn busy_until(&self, now: Instant) -> Option<Instant> {
        let ends = self.starting.values().map(|began| *began + ON_ITS_WAY);
        let mut ends: Vec<_> = ends.filter(|end| *end > now).collect();
        ends.sort_unstable();
        ends.len().checked_sub(self.processors).and_then(|surplus| ends.get(surplus).copied())
    }

    fn targets(&self, now: Instant) -> BTreeMap<Key, usize> {
        let mut shapes: Vec<_> = self.takes.iter().collect();
        shapes.sort_by_key(|(_, takes)| std::cmp::Reverse(takes.back().copied()));
        let mut left = self.limit;
        let mut targets = BTreeMap::new();
        for (key, takes) in shapes {
            let burst = takes.iter().filter(|taken| **taken + BURST > now).count();
            let target = burst.max(1).min(left);
            left -= target;
            targets.insert(*key, target);
        }
        targets
    }

    /// When a target falls by itself.
    fn next_change(&self, now: Instant) -> Option<Instant> {
        let changes = self.takes.values().flat_map(|takes| {
            let bursts = takes.iter().map(|taken| *taken + BURST);
            bursts.chain(takes.back().map(|last| *last + MEMORY))
        });
        changes.filter(|at| *at > now).min()
    }
}

/// The key of a shape.
pub(crate) fn key(shape: Shape) -> Key {
    (shape.mem_size_mib, shape.vcpu_count)
}

fn shape((mem_size_mib, vcpu_count): Key) -> Shape {
    Shape { vcpu_count, mem_size_mib }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4;

    fn of(index: u8) -> Shape {
        Shape { vcpu_count: 1 + index, mem_size_mib: 128 }
    }

    /// Carries out steps until there is nothing to do; how many there were.
    fn settle(policy: &mut Policy, have: &mut BTreeMap<Key, usize>, now: Instant) -> usize {
        for steps in 0..1000 {
            match policy.step(have, now) {
                Step::Make(shape) => *have.entry(key(shape)).or_default() += 1,
                Step::End(shape) => *have.get_mut(&key(shape)).unwrap() -= 1,
                Step::Wait(next) => {
                    assert!(next.is_none_or(|next| next > now), "it waits for the past");
                    return steps;
                }
            }
            assert!(have.values().sum::<usize>() <= LIMIT.max(have.values().sum()));
        }
        panic!("it never comes to rest: {have:?}");
    }

    proptest! {
        #[test]
        fn it_comes_to_rest_within_the_bound(takes in proptest::collection::vec((0..3u8, 0..400u64), 0..60)) {
            let (mut policy, mut have, mut now) = (Policy::new(LIMIT, 1), BTreeMap::new(), Instant::now());
            for (index, seconds) in takes {
                now += Duration::from_secs(seconds);
                settle(&mut policy, &mut have, now);
                if let Some(count) = have.get_mut(&key(of(index))).filter(|count| **count > 0) {
                    *count -= 1;
                }
                policy.taken(of(index), now);
                settle(&mut policy, &mut have, now);
                prop_assert!(have.values().sum::<usize>() <= LIMIT);
                prop_assert!(have[&key(of(index))] >= 1, "what was just asked for is there");
                prop_assert_eq!(settle(&mut policy, &mut have, now), 0, "at rest it stays at rest");
            }
            now += MEMORY;
            settle(&mut policy, &mut have, now);
            prop_assert_eq!(have.values().sum::<usize>(), 0, "nobody asks any more");
        }
    }

    #[test]
    fn it_follows_a_burst_and_forgets_it() {
        let (mut policy, mut have, now) = (Policy::new(LIMIT, 1), BTreeMap::new(), Instant::now());
        assert_eq!(policy.step(&have, now), Step::Wait(None));
        for _ in 0..3 {
            policy.taken(of(0), now);
        }
        settle(&mut policy, &mut have, now);
        assert_eq!(have[&key(of(0))], 3);
        assert_eq!(policy.step(&have, now), Step::Wait(Some(now + BURST)));
        settle(&mut policy, &mut have, now + BURST);
        assert_eq!(have[&key(of(0))], 1);
        assert_eq!(policy.step(&have, now + BURST), Step::Wait(Some(now + MEMORY)));
    }

    #[test]
    fn a_blank_waits_until_a_processor_is_free_or_a_clone_takes_too_long() {
        let (mut policy, have, now) = (Policy::new(LIMIT, 2), BTreeMap::new(), Instant::now());
        policy.taken(of(0), now);
        let first = policy.begin(now);
        assert_eq!(policy.step(&have, now), Step::Make(of(0)));
        let later = now + ON_ITS_WAY / 2;
        policy.begin(later);
        policy.begin(later);
        assert_eq!(policy.step(&have, later), Step::Wait(Some(later + ON_ITS_WAY)));
        policy.end(first);
        assert_eq!(policy.step(&have, later), Step::Wait(Some(later + ON_ITS_WAY)));
        policy.end(first + 1);
        assert_eq!(policy.step(&have, later), Step::Make(of(0)));
        policy.begin(later);
        assert_eq!(policy.step(&have, later + ON_ITS_WAY), Step::Make(of(0)));
    }

    #[test]
    fn no_room_is_no_blank() {
        let mut policy = Policy::new(0, 1);
        policy.taken(of(0), Instant::now());
        assert!(matches!(policy.step(&BTreeMap::new(), Instant::now()), Step::Wait(Some(_))));
    }
}
