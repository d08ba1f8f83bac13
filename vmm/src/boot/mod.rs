//! Puts a kernel, its initrd and its command line in guest memory and says how the first vCPU enters it.
//!
//! Two forms, an ELF with a PVH note and a bzImage; two protocols, PVH's (`pvh`, entered in 32-bit protected mode) and
//! Linux's own (`linux`, entered at 64 bit). Called by `machine` only, before any vCPU exists.
//!
//! A Linux ELF is entered by its own protocol although it has a PVH note: entered by PVH, it looks for Xen at 256 CPUID
//! leaves first, and each CPUID is a VM exit.

mod linux;
mod positioned;
mod pvh;

use std::fs::File;

use devices::Memory;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, PvhBootCapability};
use vm_memory::{Bytes, GuestAddress};

use crate::config::Cmdline;
use crate::layout;
use positioned::PositionedFile;

/// Initrds start on a page.
const INITRD_ALIGNMENT: u64 = 4096;
/// First bytes of an ELF file.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// A kernel, initrd or command line that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The kernel file cannot be read.
    #[error("read the kernel")]
    ReadKernel(#[source] std::io::Error),
    /// Neither form.
    #[error("load the kernel as {form}")]
    Kernel {
        /// ELF or bzImage.
        form: &'static str,
        /// The loader's reason.
        source: linux_loader::loader::Error,
    },
    /// An ELF that cannot be entered.
    #[error("the ELF kernel has no PVH entry note (CONFIG_PVH)")]
    NoPvhNote,
    /// A bzImage that cannot be entered at 64 bit or moved.
    #[error(
        "the bzImage has boot protocol {version:#x} and loader flags {flags:#x}: 2.12 with a 64-bit entry is needed"
    )]
    OldBzImage {
        /// Protocol version.
        version: u16,
        /// `xloadflags`.
        flags: u16,
    },
    /// Too large.
    #[error("the kernel needs memory up to {end:#x}, the machine has {available:#x} below the device hole")]
    KernelTooLarge {
        /// Where the kernel ends, its zeroed data included.
        end: u64,
        /// Where memory ends.
        available: u64,
    },
    /// The initrd file cannot be read.
    #[error("read the initrd")]
    ReadInitrd(#[source] std::io::Error),
    /// Too large.
    #[error(
        "the initrd of {len} bytes does not fit between the kernel's end at {kernel_end:#x} and {limit:#x}"
    )]
    InitrdTooLarge {
        /// Its length.
        len: u64,
        /// End of the kernel.
        kernel_end: u64,
        /// Where it must end.
        limit: u64,
    },
    /// The initrd could not be copied.
    #[error("copy the initrd into guest memory")]
    CopyInitrd(#[source] vm_memory::GuestMemoryError),
    /// Boot structures could not be written.
    #[error("write boot structures into guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

impl BootError {
    /// The field of the configuration that is to blame.
    #[must_use]
    pub(crate) fn field(&self) -> Option<&'static str> {
        match self {
            Self::ReadKernel(_)
            | Self::Kernel { .. }
            | Self::NoPvhNote
            | Self::OldBzImage { .. }
            | Self::KernelTooLarge { .. } => Some("kernel"),
            Self::ReadInitrd(_) | Self::InitrdTooLarge { .. } | Self::CopyInitrd(_) => Some("initrd"),
            Self::Write(_) => None,
        }
    }
}

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit protected mode without paging, `ebx` = start info.
    Pvh {
        /// First instruction.
        address: u64,
    },
    /// 64-bit mode over an identity map, `rsi` = zero page.
    Linux64 {
        /// First instruction.
        address: u64,
    },
}

/// The initrd as it lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    start: u64,
    len: u64,
}

struct Kernel {
    entry: Entry,
    /// First address that the kernel does not use before it has read its memory map.
    end: u64,
    /// First address that an initrd may not use.
    initrd_limit: u64,
    header: Option<setup_header>,
}

/// Loads everything that the kernel expects in memory, `acpi` tables included.
///
/// # Errors
/// Says what does not fit or is no kernel.
pub(crate) fn load(
    memory: &Memory,
    mem_size: u64,
    kernel: &File,
    initrd: Option<&File>,
    cmdline: &Cmdline,
) -> Result<Entry, BootError> {
    let kernel = load_kernel(memory, mem_size, kernel)?;
    let initrd = initrd.map(|file| load_initrd(memory, file, &kernel)).transpose()?;
    memory.write_slice(&cmdline.as_c_string(), GuestAddress(layout::CMDLINE))?;
    match kernel.header {
        None => pvh::write_start_info(memory, mem_size, initrd)?,
        Some(header) => linux::write_boot_params(memory, mem_size, header, initrd, cmdline)?,
    }
    Ok(kernel.entry)
}

fn load_kernel(memory: &Memory, mem_size: u64, file: &File) -> Result<Kernel, BootError> {
    let mut file = PositionedFile::new(file);
    let mut magic = [0; ELF_MAGIC.len()];
    std::io::Read::read_exact(&mut file, &mut magic).map_err(BootError::ReadKernel)?;
    let kernel =
        if magic == ELF_MAGIC { load_elf(memory, &mut file)? } else { load_bzimage(memory, &mut file)? };
    let available = layout::low_memory_end(mem_size);
    if kernel.end > available {
        return Err(BootError::KernelTooLarge { end: kernel.end, available });
    }
    Ok(Kernel { initrd_limit: kernel.initrd_limit.min(available), ..kernel })
}

fn load_elf(memory: &Memory, file: &mut PositionedFile<'_>) -> Result<Kernel, BootError> {
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(layout::HIGH_RAM)))
        .map_err(|source| BootError::Kernel { form: "ELF", source })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhNote);
    };
    let (entry, header) = elf_entry(entry.0, loaded.kernel_load.0);
    Ok(Kernel { entry, end: loaded.kernel_end, initrd_limit: u64::MAX, header })
}

/// `vmlinux` begins with the 32-bit code that its PVH note points to, and its ELF header points to the 64-bit code
/// that a bzImage would jump to. A kernel where both are one place knows PVH only.
fn elf_entry(pvh: u64, start: u64) -> (Entry, Option<setup_header>) {
    if pvh == start {
        (Entry::Pvh { address: pvh }, None)
    } else {
        (Entry::Linux64 { address: start }, Some(linux::header_of_elf()))
    }
}

fn load_bzimage(memory: &Memory, file: &mut PositionedFile<'_>) -> Result<Kernel, BootError> {
    let loaded = BzImage::load(memory, None, file, Some(GuestAddress(layout::HIGH_RAM)))
        .map_err(|source| BootError::Kernel { form: "bzImage", source })?;
    let header = loaded.setup_header.unwrap_or_default();
    linux::check_header(&header)?;
    Ok(Kernel {
        entry: Entry::Linux64 { address: linux::entry(loaded.kernel_load.0) },
        end: linux::end(&header, loaded.kernel_load.0).max(loaded.kernel_end),
        initrd_limit: u64::from(header.initrd_addr_max) + 1,
        header: Some(header),
    })
}

/// As high as it may be: what a kernel decompresses or allocates early is below.
fn load_initrd(memory: &Memory, file: &File, kernel: &Kernel) -> Result<Placed, BootError> {
    let len = file.metadata().map_err(BootError::ReadInitrd)?.len();
    let limit = kernel.initrd_limit;
    let start = limit.checked_sub(len).map(|start| start & !(INITRD_ALIGNMENT - 1));
    let Some(start) = start.filter(|start| *start >= kernel.end) else {
        return Err(BootError::InitrdTooLarge { len, kernel_end: kernel.end, limit });
    };
    let mut file = PositionedFile::new(file);
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, len as usize)
        .map_err(BootError::CopyInitrd)?;
    Ok(Placed { start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elf_with_two_ways_in_is_entered_as_linux() {
        let (entry, header) = elf_entry(0x100_0000, 0x100_0123);
        assert_eq!(entry, Entry::Linux64 { address: 0x100_0123 });
        // Linux takes a zero version for a header that it has still to copy, and a missing one for no header.
        assert!(header.is_some_and(|header| header.version != 0));
        let (entry, header) = elf_entry(0x100_0000, 0x100_0000);
        assert_eq!(entry, Entry::Pvh { address: 0x100_0000 });
        assert!(header.is_none());
    }
}
