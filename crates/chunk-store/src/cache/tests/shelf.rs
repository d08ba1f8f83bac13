//! Whose a slot is: one name's or one writer's at most, and all that have room on the disk are within the bound at any moment,
//! whatever the disk refuses and whoever is slower than whom.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::shelf::{Gone, Room, Shelf};
use super::super::slots::{Held, Slots};
use super::*;

const SIZES: [ChunkSize; 2] = [ChunkSize::MEMORY, ChunkSize::IMAGE];

#[derive(Clone, Debug)]
enum Step {
    MakeRoom(usize),
    /// Empties one of what is gone of a room, or what was dropped; whether the disk does it.
    Empty(usize, bool),
    Settle(usize),
    /// Under this number's name.
    Admit(usize, u32),
    Abandon(usize),
    Drop(usize),
    Retry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any = || any::<usize>();
    let step = prop_oneof![
        6 => any().prop_map(Step::MakeRoom),
        8 => (any(), proptest::bool::weighted(0.8)).prop_map(|(which, does)| Step::Empty(which, does)),
        8 => any().prop_map(Step::Settle),
        6 => (any(), 0..12_u32).prop_map(|(which, number)| Step::Admit(which, number)),
        1 => any().prop_map(Step::Abandon),
        2 => any().prop_map(Step::Drop),
        1 => Just(Step::Retry),
    ];
    proptest::collection::vec(step, 0..200)
}

/// A shelf, who has which of its slots, and which of these take room on the disk.
struct Model {
    shelf: Shelf,
    /// Rooms whose writers wait until what is gone has been emptied.
    waiting: Vec<(Room, Vec<Gone>)>,
    writing: Vec<Room>,
    leaving: Vec<Gone>,
    held: Vec<(ChunkName, Held)>,
    on_disk: BTreeSet<(ChunkSize, u32)>,
}

fn name(number: u32) -> ChunkName {
    ChunkName::of(&number.to_le_bytes())
}

impl Model {
    fn forget(&mut self, gone: &Gone) {
        self.held.retain(|(_, held)| (held.size, held.slot) != (gone.slots.size(), gone.slot));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::MakeRoom(size) => {
                let Some(mut room) = self.shelf.make_room(SIZES[size % 2]) else { return };
                let gone: Vec<_> = room.gone.drain(..).collect();
                gone.iter().for_each(|gone| self.forget(gone));
                let (size, slot) = (room.slots.size(), room.slot);
                self.held.retain(|(_, held)| (held.size, held.slot) != (size, slot));
                self.waiting.push((room, gone));
            }
            Step::Empty(which, does) if !self.leaving.is_empty() => {
                let gone = self.leaving.swap_remove(which % self.leaving.len());
                if does {
                    self.on_disk.remove(&(gone.slots.size(), gone.slot));
                }
                self.shelf.emptied(gone.reported(does));
            }
            Step::Settle(which) if !self.waiting.is_empty() => self.settle(which),
            Step::Admit(which, number) if !self.writing.is_empty() => {
                let room = self.writing.swap_remove(which % self.writing.len());
                let held = room.held((1, 1), [0; 16]);
                let replaced = self.shelf.admit(name(number), held);
                self.held.retain(|(held, _)| *held != name(number));
                self.leaving.extend(replaced);
                self.held.push((name(number), held));
            }
            Step::Abandon(which) if !self.writing.is_empty() => {
                let room = self.writing.swap_remove(which % self.writing.len());
                self.leaving.push(Shelf::abandon(room));
            }
            Step::Drop(which) if !self.held.is_empty() => {
                let (name, held) = self.held.swap_remove(which % self.held.len());
                self.leaving.extend(self.shelf.drop_held(&name, &held));
                assert!(self.shelf.drop_held(&name, &held).is_none(), "it has gone");
            }
            Step::Retry => self.leaving.extend(self.shelf.stuck()),
            _ => {}
        }
    }

    /// The disk gives back some of what is gone, by the number.
    fn settle(&mut self, which: usize) {
        let (room, gone) = self.waiting.swap_remove(which % self.waiting.len());
        let emptied = gone.into_iter().enumerate().map(|(at, gone)| {
            let does = !(which / 7 + at).is_multiple_of(5);
            if does {
                self.on_disk.remove(&(gone.slots.size(), gone.slot));
            }
            gone.reported(does)
        });
        let emptied = emptied.collect();
        if self.shelf.settle(&room, emptied) {
            self.on_disk.insert((room.slots.size(), room.slot));
            self.writing.push(room);
        }
    }

    fn check(&mut self, capacity: u64) {
        let bytes: u64 = self.on_disk.iter().map(|(size, _)| size.bytes() as u64).sum();
        assert!(bytes <= capacity, "{bytes} bytes of {capacity}");
        let rooms = self.waiting.iter().map(|(room, _)| room).chain(&self.writing);
        let mut owned: Vec<_> = rooms.map(|room| (room.slots.size(), room.slot)).collect();
        owned.extend(self.held.iter().map(|(_, held)| (held.size, held.slot)));
        owned.extend(self.leaving.iter().map(|gone| (gone.slots.size(), gone.slot)));
        let gone = self.waiting.iter().flat_map(|(_, gone)| gone);
        owned.extend(gone.map(|gone| (gone.slots.size(), gone.slot)));
        assert_eq!(
            owned.iter().collect::<BTreeSet<_>>().len(),
            owned.len(),
            "a slot is one's alone: {owned:?}"
        );
        assert!(self.held.iter().all(|(name, held)| self.shelf.holds(name, held)));
        assert_eq!(self.shelf.volume().0, self.held.len() as u64);
        assert!(owned.iter().all(|(size, slot)| (u64::from(*slot) + 1) * size.bytes() as u64 <= capacity));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_slot_is_one_owners_and_bytes_are_bounded(steps in steps(), large in 0..4_u64, small in 0..4_u64) {
        let root = tempfile::tempdir().unwrap();
        let capacity = large * SIZES[1].bytes() as u64 + small * SLOT;
        let mut shelf = Shelf::new(capacity);
        for size in SIZES {
            shelf.adopt(Slots::open(root.path(), size, 1000).unwrap()).unwrap();
        }
        let (waiting, writing, leaving, held) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut model = Model { shelf, waiting, writing, leaving, held, on_disk: BTreeSet::new() };
        for step in steps {
            model.step(step);
            model.check(capacity);
        }
        // When everything is over and the disk gives back what it has, all the room is there.
        while !model.waiting.is_empty() {
            model.settle(1);
        }
        while let Some(room) = model.writing.pop() {
            model.leaving.push(Shelf::abandon(room));
        }
        model.leaving.extend(std::iter::from_fn(|| model.shelf.stuck()).collect::<Vec<_>>());
        while let Some((name, held)) = model.held.pop() {
            model.leaving.extend(model.shelf.drop_held(&name, &held));
        }
        model.leaving.drain(..).for_each(|gone| model.shelf.emptied(gone.reported(true)));
        let rooms = (0..large).filter_map(|_| model.shelf.make_room(SIZES[1])).count();
        prop_assert_eq!(rooms as u64, large);
        let rooms = (0..=small).filter_map(|_| model.shelf.make_room(SIZES[0])).count();
        prop_assert_eq!(rooms as u64, small);
    }
}
