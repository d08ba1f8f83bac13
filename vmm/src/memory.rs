//! Guest memory: private anonymous mappings around the device hole.
//!
//! * Private and anonymous: no page is shared with another microVM, none is backed by a file.
//! * Huge pages are left to the host's policy (`/sys/kernel/mm/transparent_hugepage/enabled`): booting touches tens of
//!   MiB, and one fault for 2 MiB instead of 512 is most of a cold boot's host work. A node that packs by the page
//!   sets `madvise` or `never`.
//! * Kept out of core dumps; the flag also stops the kernel from merging the mapping with a neighbour, so that
//!   `metrics` can tell guest memory from the VMM's own.

#![expect(unsafe_code, reason = "madvise and KVM memory slots take raw host addresses")]

use std::ops::Range;

use devices::Memory;
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use snapshot::PAGE_LEN;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    MmapRegion,
};

use crate::layout;

/// Memory that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The host refused the mapping.
    #[error("map {bytes} bytes of guest memory")]
    Map {
        /// How much.
        bytes: u64,
        /// Why not.
        source: vm_memory::mmap::FromRangesError,
    },
    /// A region has no host address.
    #[error("find the host address of guest memory at {0:#x}")]
    HostAddress(u64),
    /// `madvise(MADV_DONTDUMP)`.
    #[error("keep guest memory out of core dumps")]
    Advise(#[source] std::io::Error),
    /// `madvise(MADV_NOHUGEPAGE)`.
    #[error("have guest memory in small pages")]
    SmallPages(#[source] std::io::Error),
    /// A page that there is not.
    #[error("write page {0} of guest memory")]
    Page(u32),
    /// KVM refused the slot.
    #[error("give KVM the guest memory at {start:#x}")]
    Slot {
        /// Guest address.
        start: u64,
        /// Why not.
        source: kvm_ioctls::Error,
    },
    /// Which pages changed.
    #[error("read the log of written pages at {start:#x}")]
    DirtyLog {
        /// Guest address.
        start: u64,
        /// Why not.
        source: kvm_ioctls::Error,
    },
}

/// Maps `mem_size` bytes.
///
/// # Errors
/// The host's.
pub(crate) fn create(mem_size: u64) -> Result<Memory, MemoryError> {
    let ranges: Vec<_> = layout::memory_regions(mem_size)
        .into_iter()
        .map(|(start, len)| (GuestAddress(start), len as usize))
        .collect();
    let memory =
        Memory::from_ranges(&ranges).map_err(|source| MemoryError::Map { bytes: mem_size, source })?;
    for range in host_ranges(&memory)? {
        // SAFETY: madvise needs a page-aligned range of this process; it is exactly a mapping that `memory` owns.
        // MADV_DONTDUMP changes no content.
        let result = unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.end - range.start, libc::MADV_DONTDUMP)
        };
        if result != 0 {
            return Err(MemoryError::Advise(std::io::Error::last_os_error()));
        }
    }
    Ok(memory)
}

/// Where the regions are in this process.
///
/// # Errors
/// A region without host address, which anonymous mappings are not.
pub(crate) fn host_ranges(memory: &Memory) -> Result<Vec<Range<usize>>, MemoryError> {
    memory
        .iter()
        .map(|region| {
            let start = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|_| MemoryError::HostAddress(region.start_addr().0))?
                as usize;
            Ok(start..start + region.len() as usize)
        })
        .collect()
}

/// Lets `range`, all or part of one of [`host_ranges`], exist in small pages only: to write one does not make its neighbours
/// exist, now or later.
///
/// # Errors
/// The host's.
pub(crate) fn by_small_pages(range: &Range<usize>) -> Result<(), MemoryError> {
    // SAFETY: the caller's range is page-aligned and of a mapping of guest memory; MADV_NOHUGEPAGE changes no content.
    let result =
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_NOHUGEPAGE) };
    // EINVAL: a kernel without huge pages.
    match std::io::Error::last_os_error() {
        error if result != 0 && error.raw_os_error() != Some(libc::EINVAL) => {
            Err(MemoryError::SmallPages(error))
        }
        _ => Ok(()),
    }
}

/// Writes page `number`, regions counted one after the other.
///
/// # Errors
/// There is no such page.
pub(crate) fn write_page(memory: &Memory, number: u32, content: &[u8]) -> Result<(), MemoryError> {
    let mut offset = u64::from(number) * PAGE_LEN as u64;
    for region in memory.iter() {
        if offset < region.len() {
            let written = region.write_slice(content, MemoryRegionAddress(offset));
            return written.map_err(|_| MemoryError::Page(number));
        }
        offset -= region.len();
    }
    Err(MemoryError::Page(number))
}

/// Whether KVM remembers which pages the guest writes; each page's first write then costs a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    On,
    Off,
}

impl Tracking {
    /// On when there is something that changes are relative to.
    pub(crate) fn since<T>(base: Option<T>) -> Self {
        if base.is_some() { Self::On } else { Self::Off }
    }
}

/// Makes the regions the memory slots of `vm`, or changes whether they are tracked: no vCPU runs. Nothing counts as written
/// then.
///
/// # Errors
/// KVM's.
pub(crate) fn register(vm: &VmFd, memory: &Memory, tracking: Tracking) -> Result<(), MemoryError> {
    for (slot, (region, host)) in (0..).zip(memory.iter().zip(host_ranges(memory)?)) {
        let start = region.start_addr().0;
        let slot = kvm_userspace_memory_region {
            slot,
            flags: if tracking == Tracking::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: host.start as u64,
        };
        // SAFETY: KVM writes to the host range for as long as the VM lives. The range is a whole mapping of `memory`,
        // regions do not overlap, and `Machine` holds a clone of `memory` (reference counted) beside the VM.
        unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Slot { start, source })?;
        written_by_host(region).reset();
    }
    Ok(())
}

/// The pages of a region that devices and the loader have written.
fn written_by_host(region: &GuestRegionMmap<AtomicBitmap>) -> &AtomicBitmap {
    let mapping: &MmapRegion<AtomicBitmap> = region;
    mapping.bitmap()
}

/// Pages that were written: one bit each, by region.
pub(crate) type WrittenPages = Vec<Vec<u64>>;

/// Pages that guest (KVM's log, which has KVM's own writes too) or host have written since tracking began or this was last
/// asked. A page that the pager has put in place is not among them: it is as it was saved.
///
/// # Errors
/// KVM's.
pub(crate) fn take_dirty(vm: &VmFd, memory: &Memory) -> Result<WrittenPages, MemoryError> {
    let take = |(slot, region): (u32, &GuestRegionMmap<AtomicBitmap>)| {
        let start = region.start_addr().0;
        let by_guest = vm.get_dirty_log(slot, region.len() as usize);
        let mut dirty = by_guest.map_err(|source| MemoryError::DirtyLog { start, source })?;
        for (word, by_host) in dirty.iter_mut().zip(written_by_host(region).get_and_reset()) {
            *word |= by_host;
        }
        Ok(dirty)
    };
    (0..).zip(memory.iter()).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_around_the_hole_is_mapped_and_the_hole_is_not() {
        let memory = create(4 << 30).expect("mapped lazily");
        let last = (5u64 << 30) - 1;
        memory.write_obj(7u8, GuestAddress(last)).expect("last byte");
        assert!(memory.write_obj(7u8, GuestAddress(last + 1)).is_err());
        assert!(memory.write_obj(7u8, GuestAddress(layout::HOLE_START)).is_err());
        assert_eq!(host_ranges(&memory).expect("addresses").len(), 2);
    }

    #[test]
    fn pages_are_counted_across_the_hole() {
        let memory = create(4 << 30).expect("mapped lazily");
        for (page, address) in
            [(0, 0), (0xc_0000 - 1, 0xbfff_f000), (0xc_0000, 1 << 32), (0xf_ffff, 0x1_3fff_f000)]
        {
            write_page(&memory, page, &[page as u8 | 1; PAGE_LEN]).expect("inside");
            let end: u8 = memory.read_obj(GuestAddress(address + 4095)).expect("read");
            assert_eq!(end, page as u8 | 1, "page {page:#x}");
        }
        assert!(write_page(&memory, 0x10_0000, &[1; PAGE_LEN]).is_err());
    }
}
