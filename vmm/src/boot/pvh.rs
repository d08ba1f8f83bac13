//! The PVH boot structures: start info, module list and memory map (Xen's `start_info.h`, version 1).

use devices::Memory;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::Placed;
use crate::layout::{self, RangeKind};

/// The version that has a memory map.
const VERSION: u32 = 1;

pub(super) fn write_start_info(
    memory: &Memory,
    mem_size: u64,
    initrd: Option<Placed>,
) -> Result<(), GuestMemoryError> {
    let map: Vec<_> = layout::memory_map(mem_size)
        .into_iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.len,
            type_: match range.kind {
                RangeKind::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
                RangeKind::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
            },
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .into_iter()
        .map(|initrd| hvm_modlist_entry { paddr: initrd.start, size: initrd.len, ..Default::default() })
        .collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI_TABLES,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    write_all(memory, layout::PVH_MODULES, &modules)?;
    write_all(memory, layout::PVH_MEMORY_MAP, &map)?;
    memory.write_obj(info, GuestAddress(layout::PVH_START_INFO))
}

fn write_all<T: vm_memory::ByteValued>(
    memory: &Memory,
    at: u64,
    items: &[T],
) -> Result<(), GuestMemoryError> {
    for (index, item) in items.iter().enumerate() {
        memory.write_obj(*item, GuestAddress(at + (index * size_of::<T>()) as u64))?;
    }
    Ok(())
}
