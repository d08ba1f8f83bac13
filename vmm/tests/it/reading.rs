//! A guest that drives its first disk: the pages that driver and device use, each in a chunk of its own, so that who has
//! written what can be told.

use crate::guest::{Guest, VIRTIO};

pub(crate) const DESCRIPTORS: u32 = 0x30_0000;
pub(crate) const AVAILABLE: u32 = 0x31_0000;
pub(crate) const USED: u32 = 0x32_0000;
pub(crate) const HEADER: u32 = 0x33_0000;
pub(crate) const DATA: u32 = 0x34_0000;
pub(crate) const STATUS: u32 = 0x35_0000;

pub(crate) const SECTOR: usize = 512;

/// Sets the device up: a request is a header to read, a sector of data and a status to write.
pub(crate) fn set_up(guest: Guest) -> Guest {
    const FEATURES_OK: u32 = 0xb;
    let register = |guest: Guest, (offset, value): (u32, u32)| guest.store(VIRTIO + offset, value);
    let negotiation = [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, 0), (0x70, FEATURES_OK)];
    let queue = [(0x30, 0), (0x38, 8), (0x80, DESCRIPTORS), (0x90, AVAILABLE), (0xa0, USED), (0x44, 1)];
    // Address, length, flags and next.
    let descriptors = [(HEADER, 16, 0x1_0001), (DATA, SECTOR as u32, 0x2_0003), (STATUS, 1, 2)];
    let guest = negotiation.into_iter().fold(guest, register);
    let guest = queue.into_iter().fold(guest, register).store(VIRTIO + 0x70, FEATURES_OK | 4);
    let guest = (0u32..).zip(descriptors).fold(guest, |guest, (index, (address, len, flags))| {
        let at = DESCRIPTORS + 16 * index;
        guest.store(at, address).store(at + 8, len).store(at + 12, flags)
    });
    // No interrupts; every entry of the ring is descriptor 0.
    guest.store(AVAILABLE, 1)
}

/// Reads the sector that the header names and waits until it is there.
pub(crate) fn request(guest: Guest) -> Guest {
    guest.increment_half(AVAILABLE + 2).store(VIRTIO + 0x50, 0).await_equal_halves(USED + 2, AVAILABLE + 2)
}

/// Reads a sector and prints its first four bytes, then the request's status, four bytes too.
pub(crate) fn print_sector(guest: Guest, sector: u32) -> Guest {
    let guest = guest.store(HEADER + 8, sector).store(STATUS, 0xff);
    request(guest).load(DATA).print_eax().load(STATUS).print_eax()
}
