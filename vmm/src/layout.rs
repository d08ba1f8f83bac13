//! Where everything is in guest physical memory, and which interrupt lines and ports exist. Constants and one pure
//! function; nobody else in this crate writes an address.
//!
//! ```text
//! 0x0000_0000  boot structures, command line                     RAM
//! 0x000a_0000  ACPI tables at 0xe0000, generation at 0xf0000     reserved
//! 0x0010_0000  kernel; initrd at the end of low memory           RAM
//! 0xc000_0000  MMIO: virtio at 0xd000_0000, IOAPIC, LAPIC, TSS   hole
//! 0x1_0000_0000  what does not fit below the hole                RAM
//! ```

/// Global descriptor table for the boot vCPU.
pub(crate) const GDT: u64 = 0x500;
/// Empty interrupt descriptor table.
pub(crate) const IDT: u64 = 0x520;
/// PVH start info, its module list and its memory map.
pub(crate) const PVH_START_INFO: u64 = 0x6000;
/// One entry, for the initrd.
pub(crate) const PVH_MODULES: u64 = 0x6040;
/// Entries of the memory map.
pub(crate) const PVH_MEMORY_MAP: u64 = 0x6080;
/// `boot_params` of the Linux boot protocol.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Top of the stack that the 64-bit entry starts with.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Identity map of the first GiB for the 64-bit entry: PML4, then one PDPT, then one page directory.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// End of the RAM below 1 MiB; the extended BIOS data area would begin here.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, the RSDP first: inside the range that a kernel scans when it is not told.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// Room for them.
pub(crate) const ACPI_TABLES_LEN: u64 = 0x1_0000;
/// The VM generation id, in a page of its own behind the tables.
pub(crate) const GENERATION_ID: u64 = 0xf_0000;
/// The VMClock page.
pub(crate) const VMCLOCK: u64 = 0xf_1000;
/// Kernels are loaded from here on.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;
/// First address of the hole for devices.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// First address after it.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;
/// First virtio-mmio register page; the next devices follow page by page.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// The in-kernel IOAPIC.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// The in-kernel local APICs.
pub(crate) const LAPIC: u32 = 0xfee0_0000;
/// One page that KVM on Intel without "unrestricted guest" keeps an identity map in.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM on Intel keeps a task state segment in.
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;

/// COM1.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub(crate) const SERIAL_GSI: u32 = 4;
/// The keyboard controller, for its reset line only.
pub(crate) const I8042_PORT: u16 = 0x60;
/// ACPI sleep control, sleep status and reset registers, one byte each.
pub(crate) const POWER_PORT: u16 = 0x600;
/// First interrupt line of the virtio devices. 5 to 22 are the free inputs of the one IOAPIC above the ISA lines in use.
pub(crate) const VIRTIO_FIRST_GSI: u32 = 5;
/// The line that says "you have become another machine": the last of the in-kernel IOAPIC's 24.
pub(crate) const GENERATION_GSI: u32 = 23;

/// What a range of the memory map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeKind {
    /// Usable.
    Ram,
    /// Backed by memory, not for the kernel's use.
    Reserved,
}

/// One range of the memory map that the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapRange {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Its use.
    pub kind: RangeKind,
}

/// Ranges of guest physical memory that are backed, for `mem_size` bytes: one, or two around the hole.
#[must_use]
pub(crate) fn memory_regions(mem_size: u64) -> Vec<(u64, u64)> {
    if mem_size <= HOLE_START {
        vec![(0, mem_size)]
    } else {
        vec![(0, HOLE_START), (HOLE_END, mem_size - HOLE_START)]
    }
}

/// End of the memory below the hole.
#[must_use]
pub(crate) fn low_memory_end(mem_size: u64) -> u64 {
    mem_size.min(HOLE_START)
}

/// The memory map as both boot protocols pass it.
#[must_use]
pub(crate) fn memory_map(mem_size: u64) -> Vec<MapRange> {
    let ram = |start, end: u64| MapRange { start, len: end - start, kind: RangeKind::Ram };
    let mut map = vec![
        ram(0, LOW_RAM_END),
        MapRange { start: LOW_RAM_END, len: HIGH_RAM - LOW_RAM_END, kind: RangeKind::Reserved },
        ram(HIGH_RAM, low_memory_end(mem_size)),
    ];
    map.extend(memory_regions(mem_size).into_iter().skip(1).map(|(start, len)| ram(start, start + len)));
    map
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_map_is_ordered_disjoint_avoids_the_hole_and_loses_nothing(mib in 128u64..=10_496) {
            let size = mib << 20;
            let map = memory_map(size);
            prop_assert!(map.windows(2).all(|w| w[0].start + w[0].len <= w[1].start));
            prop_assert!(map.iter().all(|r| r.start + r.len <= HOLE_START || r.start >= HOLE_END));
            let told: u64 = map.iter().map(|r| r.len).sum();
            prop_assert_eq!(told, size);
            let backed: u64 = memory_regions(size).iter().map(|r| r.1).sum();
            prop_assert_eq!(backed, size);
        }
    }
}
