//! Address ranges and what answers in them. Pure: it finds, the caller locks and calls.
//!
//! `vmm` keeps one bus for ports and one for MMIO.

use std::collections::BTreeMap;

/// Something that answers accesses of one range. Offsets are relative to the range's start.
///
/// Every access is answerable: one that makes no sense reads as `0xff` or zero (the device's choice) and is ignored
/// when written.
pub trait BusDevice: Send {
    /// Fills `data` (1 to 8 bytes).
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1 to 8 bytes).
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a range was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No bytes.
    #[error("bus range at {start:#x} is empty")]
    Empty {
        /// First address.
        start: u64,
    },
    /// Past the end of the address space.
    #[error("bus range at {start:#x} of {len:#x} bytes wraps around")]
    Wraps {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device is there.
    #[error("bus range at {start:#x} of {len:#x} bytes overlaps the one at {other:#x}")]
    Overlaps {
        /// First address.
        start: u64,
        /// Length in bytes.
        len: u64,
        /// First address of the range that is there already.
        other: u64,
    },
}

/// Disjoint ranges, each with its device.
#[derive(Debug)]
pub struct Bus<D> {
    /// By first address: the last address (inclusive) and the device.
    ranges: BTreeMap<u64, (u64, D)>,
}

impl<D> Default for Bus<D> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<D> Bus<D> {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device at `start`.
    ///
    /// # Errors
    /// When the range is empty, wraps around or overlaps another.
    pub fn insert(&mut self, start: u64, len: u64, device: D) -> Result<(), BusError> {
        let Some(last_offset) = len.checked_sub(1) else { return Err(BusError::Empty { start }) };
        let last = start.checked_add(last_offset).ok_or(BusError::Wraps { start, len })?;
        if let Some((&other, &(other_last, _))) = self.ranges.range(..=last).next_back()
            && other_last >= start
        {
            return Err(BusError::Overlaps { start, len, other });
        }
        self.ranges.insert(start, (last, device));
        Ok(())
    }

    /// The device that answers an access of `len` bytes at `address`, and the access's offset in its range. An
    /// access that leaves the range has no device.
    #[must_use]
    pub fn get(&self, address: u64, len: usize) -> Option<(&D, u64)> {
        let (&start, (last, device)) = self.ranges.range(..=address).next_back()?;
        let end = address.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        (end <= *last).then_some((device, address - start))
    }

    /// Every device, by address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &D)> {
        self.ranges.iter().map(|(&start, (_, device))| (start, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_cannot_be_a_range() {
        let mut bus = Bus::new();
        assert_eq!(bus.insert(1, 0, ()), Err(BusError::Empty { start: 1 }));
        assert_eq!(bus.insert(u64::MAX, 2, ()), Err(BusError::Wraps { start: u64::MAX, len: 2 }));
        assert_eq!(bus.insert(u64::MAX, 1, ()), Ok(()));
    }

    #[test]
    fn an_access_that_leaves_its_range_finds_nothing() {
        let mut bus = Bus::new();
        bus.insert(0x100, 0x10, 'a').unwrap();
        bus.insert(0x110, 0x10, 'b').unwrap();
        assert_eq!(bus.get(0x10c, 4), Some((&'a', 0xc)));
        assert_eq!(bus.get(0x10d, 4), None);
        assert_eq!(bus.get(0x110, 1), Some((&'b', 0)));
        assert_eq!(bus.get(0x120, 1), None);
        assert_eq!(bus.get(0xff, 1), None);
        assert_eq!(bus.get(0x100, 0), None);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_every_byte_finds_its_own(
            wanted in prop::collection::vec((0u64..300, 1u64..40), 1..20),
        ) {
            let mut bus = Bus::new();
            let mut owner = [None; 400];
            for (id, &(start, len)) in wanted.iter().enumerate() {
                let range = start as usize..(start + len) as usize;
                let free = owner[range.clone()].iter().all(Option::is_none);
                prop_assert_eq!(bus.insert(start, len, id).is_ok(), free);
                if free {
                    owner[range].fill(Some(id));
                }
            }
            for (address, id) in owner.iter().enumerate() {
                prop_assert_eq!(bus.get(address as u64, 1).map(|(found, _)| *found), *id);
            }
        }
    }
}
