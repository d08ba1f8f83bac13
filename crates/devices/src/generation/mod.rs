//! What tells a guest that it has become another machine: the VM generation id (16 bytes, "VM_Gen_Counter") and the
//! VMClock page, both in guest memory, and one interrupt for both. The ACPI tables that lead a guest to them are the
//! VMM's.
//!
//! Neither answers an access of the guest: it reads its own memory. What a guest writes there hurts itself alone, and
//! is replaced as a whole by the next [`Generation::renew`].
//!
//! Sources: Microsoft, "Virtual Machine Generation ID" (2012); the VMClock specification, version 1, and Linux'
//! `include/uapi/linux/vmclock-abi.h`.

mod state;

use std::io;
use std::sync::atomic::{Ordering, fence};

use snapshot::Persist;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{Interrupt, Memory, guest_io};
pub use state::GenerationState;

/// Length of a generation id.
pub const GENERATION_ID_LEN: u64 = 16;

/// Length of the VMClock page: what maps it maps pages.
pub const VMCLOCK_LEN: u64 = 4096;

/// Fields of the page that are not zero.
mod field {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const SIZE: u64 = 0x04;
    pub(super) const VERSION: u64 = 0x08;
    pub(super) const COUNTER_ID: u64 = 0x0a;
    pub(super) const SEQUENCE: u64 = 0x0c;
    pub(super) const DISRUPTION_MARKER: u64 = 0x10;
    pub(super) const FLAGS: u64 = 0x18;
    pub(super) const VM_GENERATION_COUNTER: u64 = 0x68;
}

/// "VCLK".
const MAGIC: u32 = u32::from_le_bytes(*b"VCLK");
const VERSION: u16 = 1;
/// No CPU counter is related to real time here: the status stays "unknown" (0), and a guest keeps its own clock.
const COUNTER_INVALID: u8 = 0xff;
/// `vm_generation_counter` is there, and a notification follows each change.
const FLAGS: u64 = 1 << 8 | 1 << 9;

/// Where the two are in guest memory: reserved for them in the memory map, and page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationPlace {
    /// Of the generation id.
    pub id: GuestAddress,
    /// Of the VMClock page.
    pub clock: GuestAddress,
}

/// What they need of the machine.
pub struct GenerationResources {
    /// Guest memory.
    pub memory: Memory,
    /// Where in it.
    pub place: GenerationPlace,
    /// The line that the ACPI event device listens on.
    pub interrupt: Box<dyn Interrupt>,
}

/// Why a guest could not be told.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// No random bytes.
    #[error("draw a generation id")]
    Random(#[source] io::Error),
    /// The place is not in guest memory.
    #[error("write the generation into guest memory")]
    Memory(#[from] GuestMemoryError),
    /// The wire is gone.
    #[error("tell the guest of its new generation")]
    Interrupt(#[source] io::Error),
    /// A saved sequence number that stands for "being written".
    #[error("the saved VMClock page is half written (sequence {0})")]
    Sequence(u32),
}

/// The pair.
pub struct Generation {
    // Glue.
    resources: GenerationResources,
    // Volatile state.
    id: [u8; 16],
    sequence: u32,
    disruption_marker: u64,
    counter: u64,
}

impl Generation {
    /// Of a machine that boots: a random id, and a counter that says "never resumed".
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn new(resources: GenerationResources) -> Result<Self, GenerationError> {
        let mut id = [0; GENERATION_ID_LEN as usize];
        let filled = guest_io::fill_random(&mut id).map_err(GenerationError::Random)?;
        debug_assert_eq!(filled, id.len(), "getrandom gives up to 256 bytes whole");
        let mut generation = Self { resources, id, sequence: 0, disruption_marker: 0, counter: 0 };
        generation.publish()?;
        Ok(generation)
    }

    /// Makes the guest another one than every other clone. Called after guest memory and the interrupt controllers are
    /// restored and before the first vCPU runs, so that no instruction of the guest sees the old generation: the
    /// interrupt then waits for the guest.
    ///
    /// # Errors
    /// [`GenerationError`]; the machine must not run then.
    pub fn renew(&mut self, id: [u8; 16]) -> Result<(), GenerationError> {
        let [a, b, c, d, e, f, g, h, ..] = id;
        self.id = id;
        // As guest-protocol's `generation_counter` has it.
        self.counter = u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1);
        self.disruption_marker = self.disruption_marker.wrapping_add(1);
        self.publish()?;
        self.resources.interrupt.trigger().map_err(GenerationError::Interrupt)
    }

    /// Writes both, the page between two raises of its sequence number, which is odd meanwhile.
    fn publish(&mut self) -> Result<(), GenerationError> {
        let GenerationResources { memory, place, .. } = &self.resources;
        let at = |field| GuestAddress(place.clock.0 + field);
        memory.write_slice(&self.id, place.id)?;
        let writing = self.sequence.wrapping_add(1);
        memory.write_obj(writing.to_le(), at(field::SEQUENCE))?;
        fence(Ordering::Release);
        memory.write_obj(MAGIC.to_le(), at(field::MAGIC))?;
        memory.write_obj((VMCLOCK_LEN as u32).to_le(), at(field::SIZE))?;
        memory.write_obj(VERSION.to_le(), at(field::VERSION))?;
        memory.write_obj(COUNTER_INVALID, at(field::COUNTER_ID))?;
        memory.write_obj(self.disruption_marker.to_le(), at(field::DISRUPTION_MARKER))?;
        memory.write_obj(FLAGS.to_le(), at(field::FLAGS))?;
        memory.write_obj(self.counter.to_le(), at(field::VM_GENERATION_COUNTER))?;
        fence(Ordering::Release);
        self.sequence = writing.wrapping_add(1);
        memory.write_obj(self.sequence.to_le(), at(field::SEQUENCE))?;
        Ok(())
    }
}

impl Persist for Generation {
    type State = GenerationState;
    type Resources<'a> = GenerationResources;
    type Error = GenerationError;

    fn save(&self) -> GenerationState {
        let Self { resources: _, id, sequence, disruption_marker, counter } = self;
        GenerationState {
            id: *id,
            sequence: *sequence,
            disruption_marker: *disruption_marker,
            counter: *counter,
        }
    }

    /// Writes nothing yet: that is [`Generation::renew`]'s, once memory is there.
    fn restore(resources: GenerationResources, state: &GenerationState) -> Result<Self, GenerationError> {
        let GenerationState { id, sequence, disruption_marker, counter } = *state;
        if !sequence.is_multiple_of(2) {
            return Err(GenerationError::Sequence(sequence));
        }
        Ok(Self { resources, id, sequence, disruption_marker, counter })
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    const PLACE: GenerationPlace = GenerationPlace { id: GuestAddress(0), clock: GuestAddress(0x1000) };

    fn resources(memory: &Memory) -> (GenerationResources, EventFd) {
        let wire = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Box::new(wire.try_clone().unwrap());
        (GenerationResources { memory: memory.clone(), place: PLACE, interrupt }, wire)
    }

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap()
    }

    fn field<T: vm_memory::ByteValued>(memory: &Memory, at: u64) -> T {
        memory.read_obj(GuestAddress(PLACE.clock.0 + at)).unwrap()
    }

    #[test]
    fn a_booted_machine_has_an_id_and_was_never_resumed() {
        let memory = memory();
        let (resources, wire) = resources(&memory);
        Generation::new(resources).unwrap();
        assert_ne!(memory.read_obj::<u128>(PLACE.id).unwrap(), 0);
        assert_eq!(field::<[u8; 4]>(&memory, 0x00), *b"VCLK");
        assert_eq!(field::<u32>(&memory, 0x04), 4096);
        assert_eq!((field::<u16>(&memory, 0x08), field::<u8>(&memory, 0x0a)), (1, 0xff));
        assert_eq!((field::<u32>(&memory, 0x0c), field::<u64>(&memory, 0x18)), (2, 0x300));
        assert_eq!(field::<u64>(&memory, 0x68), 0);
        assert!(wire.read().is_err(), "nothing has changed");
    }

    #[test]
    fn a_clone_has_another_id_and_counter_than_its_original_and_is_told() {
        let memory = memory();
        let (resources, _wire) = self::resources(&memory);
        let state = Generation::new(resources).unwrap().save();
        let (resources, wire) = self::resources(&memory);
        let mut clone = Generation::restore(resources, &state).unwrap();
        // A guest that scribbled over the page gets it whole again.
        memory.write_slice(&[0xaa; 0x70], PLACE.clock).unwrap();
        clone.renew([3; 16]).unwrap();
        assert_eq!(memory.read_obj::<[u8; 16]>(PLACE.id).unwrap(), [3; 16]);
        assert_eq!(field::<u64>(&memory, 0x68), 0x0303_0303_0303_0303);
        assert_eq!((field::<u32>(&memory, 0x0c), field::<u64>(&memory, 0x10)), (4, 1));
        assert_eq!(field::<[u8; 4]>(&memory, 0x00), *b"VCLK");
        assert_eq!(wire.read().unwrap(), 1);
    }

    #[test]
    fn a_state_that_was_being_written_is_refused() {
        let memory = memory();
        let (resources, _wire) = resources(&memory);
        let state = GenerationState { id: [0; 16], sequence: 3, disruption_marker: 0, counter: 0 };
        assert!(matches!(Generation::restore(resources, &state), Err(GenerationError::Sequence(3))));
    }
}
