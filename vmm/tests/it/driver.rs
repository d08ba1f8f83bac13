//! A guest's driver of any of its devices, a queue of it at a time: every available entry is the table's first descriptor.

use crate::guest::{Guest, VIRTIO};
use crate::reading;

/// Rings of queue `n` are `n` times this further on.
const QUEUE_STRIDE: u32 = 0x1000;
pub(crate) const QUEUE_LEN: u32 = 8;

pub(crate) const NEXT: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const INDIRECT: u32 = 4;

/// Registers, virtio 1.3 §4.2.2.
pub(crate) const STATUS: u32 = 0x70;
pub(crate) const NOTIFY: u32 = 0x50;

/// A descriptor: address, length, flags and next.
pub(crate) type Descriptor = (u32, u32, u32);

/// A device: its place among the register pages, how many queues it has and the one that is used.
pub(crate) struct Driver {
    pub(crate) page: u32,
    pub(crate) queues: u32,
    pub(crate) queue: u32,
}

impl Driver {
    pub(crate) fn register(&self, offset: u32) -> u32 {
        VIRTIO + 0x1000 * self.page + offset
    }

    /// Where a ring of the queue is, by where the first queue's is.
    pub(crate) fn ring(&self, first: u32) -> u32 {
        first + QUEUE_STRIDE * self.queue
    }

    /// The driver's way to DRIVER_OK, from wherever it stands.
    pub(crate) fn set_up(&self, guest: Guest) -> Guest {
        const FEATURES_OK: u32 = 0xb;
        let store = |guest: Guest, (offset, value): (u32, u32)| guest.store(self.register(offset), value);
        let negotiation = [
            (STATUS, 0),
            (STATUS, 1),
            (STATUS, 3),
            (0x24, 1),
            (0x20, 1),
            (0x24, 0),
            (0x20, 1 << 28),
            (STATUS, FEATURES_OK),
        ];
        let guest = negotiation.into_iter().fold(guest, store);
        let guest = (0..self.queues).fold(guest, |guest, queue| {
            let at = |ring: u32| ring + QUEUE_STRIDE * queue;
            let rings =
                [(0x80, at(reading::DESCRIPTORS)), (0x90, at(reading::AVAILABLE)), (0xa0, at(reading::USED))];
            let guest = guest.store(at(reading::AVAILABLE), 0).store(at(reading::USED), 0);
            let guest = store(store(guest, (0x30, queue)), (0x38, QUEUE_LEN));
            store(rings.into_iter().fold(guest, store), (0x44, 1))
        });
        store(guest, (STATUS, FEATURES_OK | 4))
    }

    /// Puts descriptors into the table, from its first on.
    pub(crate) fn describe(&self, guest: Guest, descriptors: &[Descriptor]) -> Guest {
        (0u32..).zip(descriptors).fold(guest, |guest, (index, &(address, len, flags))| {
            let entry = self.ring(reading::DESCRIPTORS) + 16 * index;
            guest.store(entry, address).store(entry + 4, 0).store(entry + 8, len).store(entry + 12, flags)
        })
    }

    /// Has the device take what the first descriptor begins, and waits until it has.
    pub(crate) fn submit(&self, guest: Guest) -> Guest {
        let (available, used) = (self.ring(reading::AVAILABLE) + 2, self.ring(reading::USED) + 2);
        guest
            .increment_half(available)
            .store(self.register(NOTIFY), self.queue)
            .await_equal_halves(used, available)
    }
}
