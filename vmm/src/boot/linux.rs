//! The Linux boot protocol's zero page and 64-bit entry (Documentation/arch/x86/boot.rst).

use devices::Memory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Placed};
use crate::config::Cmdline;
use crate::layout::{self, RangeKind};

/// Protocol 2.12 brought `xloadflags`.
const MINIMUM_VERSION: u16 = 0x020c;
/// The kernel has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Where it is, relative to the load address.
const ENTRY_64: u64 = 0x200;
/// "Other boot loader": none has been assigned to us.
const LOADER_TYPE: u8 = 0xff;
/// What a boot sector ends with, and "HdrS": a header is there.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

pub(super) fn check_header(header: &setup_header) -> Result<(), BootError> {
    let (version, flags) = (header.version, header.xloadflags);
    if version < MINIMUM_VERSION || flags & XLF_KERNEL_64 == 0 {
        return Err(BootError::OldBzImage { version, flags });
    }
    Ok(())
}

/// An ELF has no setup header of its own. Behind its entry the kernel reads what [`write_boot_params`] adds, the rest
/// is for boot loaders.
pub(super) fn header_of_elf() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: MINIMUM_VERSION,
        ..Default::default()
    }
}

pub(super) fn entry(load_address: u64) -> u64 {
    load_address.saturating_add(ENTRY_64)
}

/// The kernel decompresses itself to where it prefers to be, or to where it was loaded, and needs `init_size` there.
pub(super) fn end(header: &setup_header, load_address: u64) -> u64 {
    header.pref_address.max(load_address).saturating_add(header.init_size.into())
}

pub(super) fn write_boot_params(
    memory: &Memory,
    mem_size: u64,
    mut header: setup_header,
    initrd: Option<Placed>,
    cmdline: &Cmdline,
) -> Result<(), BootError> {
    header.type_of_loader = LOADER_TYPE;
    // Both fit: CMDLINE is below 1 MiB, and an initrd ends below `initrd_addr_max`, which has 32 bits.
    header.cmd_line_ptr = layout::CMDLINE as u32;
    header.cmdline_size = cmdline.as_str().len() as u32;
    if let Some(initrd) = initrd {
        header.ramdisk_image = initrd.start as u32;
        header.ramdisk_size = initrd.len as u32;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: layout::ACPI_TABLES, ..Default::default() };
    for (slot, range) in params.e820_table.iter_mut().zip(layout::memory_map(mem_size)) {
        let type_ = match range.kind {
            RangeKind::Ram => E820_RAM,
            RangeKind::Reserved => E820_RESERVED,
        };
        *slot = boot_e820_entry { addr: range.start, size: range.len, r#type: type_ };
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}
