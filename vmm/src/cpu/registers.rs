//! Registers, segments and page tables for the two kernel entries. The other vCPUs wait for the kernel's INIT and SIPI
//! in KVM and need nothing.

use devices::Memory;
use kvm_bindings::{kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::CpuError;
use crate::boot::Entry;
use crate::layout;

/// Reserved bit of RFLAGS that is always one.
const RFLAGS_RESERVED: u64 = 1 << 1;
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Selectors as the Linux boot protocol wants them (`__BOOT_CS`, `__BOOT_DS`); PVH asks for no particular ones.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;
/// Two null entries, code, data and task state segment (which takes two in 64-bit mode; its base is zero).
const GDT_ENTRIES: usize = 6;

/// Segment types, SDM 3A §3.4.5.1 and §3.5.
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_BUSY_TSS: u8 = 0xb;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;
const TABLE_LEN: u64 = 0x1000;
const TABLE_ENTRIES: u64 = 512;

/// Offsets of the local interrupt pins in the register page (SDM 3A §11.4.1) and their delivery modes (§11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 0b100 << 8;
const DELIVER_EXTINT: u32 = 0b111 << 8;
const DELIVERY_MASK: u32 = 0b111 << 8;

fn segment(selector: u16, type_: u8, bits: Bits) -> kvm_segment {
    let system = type_ == TYPE_BUSY_TSS && selector == TSS_SELECTOR;
    let code = type_ == TYPE_CODE && !system;
    let long_code = code && bits == Bits::SixtyFour;
    kvm_segment {
        base: 0,
        limit: if system { 0x67 } else { u32::MAX },
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!(system || long_code)),
        s: u8::from(!system),
        l: u8::from(long_code),
        g: u8::from(!system),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    ThirtyTwo,
    SixtyFour,
}

/// The descriptor that loads as `segment`, SDM 3A §3.4.5.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_) | u64::from(segment.s) << 4 | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
}

struct Segments {
    code: kvm_segment,
    data: kvm_segment,
    task: kvm_segment,
}

fn segments(bits: Bits) -> Segments {
    Segments {
        code: segment(CODE_SELECTOR, TYPE_CODE, bits),
        data: segment(DATA_SELECTOR, TYPE_DATA, bits),
        task: segment(TSS_SELECTOR, TYPE_BUSY_TSS, bits),
    }
}

fn bits(entry: Entry) -> Bits {
    match entry {
        Entry::Pvh { .. } => Bits::ThirtyTwo,
        Entry::Linux64 { .. } => Bits::SixtyFour,
    }
}

/// Writes the descriptor table, an empty interrupt table and, for the 64-bit entry, page tables.
///
/// # Errors
/// Guest memory is too small, which checked configurations exclude.
pub(crate) fn write_boot_tables(memory: &Memory, entry: Entry) -> Result<(), CpuError> {
    let Segments { code, data, task } = segments(bits(entry));
    let mut table = [0u64; GDT_ENTRIES];
    for segment in [&code, &data, &task] {
        table[usize::from(segment.selector) / 8] = descriptor(segment);
    }
    for (index, entry) in (0..).zip(table) {
        memory.write_obj(entry, GuestAddress(layout::GDT + index * 8))?;
    }
    memory.write_obj(0u64, GuestAddress(layout::IDT))?;
    if bits(entry) == Bits::SixtyFour {
        write_identity_map(memory)?;
    }
    Ok(())
}

/// The first GiB in pages of 2 MiB; the kernel replaces it within its first hundred instructions.
fn write_identity_map(memory: &Memory) -> Result<(), GuestMemoryError> {
    let [pml4, pdpt, directory] = [0, 1, 2].map(|n| layout::PAGE_TABLES + n * TABLE_LEN);
    memory.write_obj(pdpt | PAGE_PRESENT_WRITABLE, GuestAddress(pml4))?;
    memory.write_obj(directory | PAGE_PRESENT_WRITABLE, GuestAddress(pdpt))?;
    for index in 0..TABLE_ENTRIES {
        let page = index << 21 | PAGE_LARGE | PAGE_PRESENT_WRITABLE;
        memory.write_obj(page, GuestAddress(directory + index * 8))?;
    }
    Ok(())
}

fn special_registers(reset: kvm_sregs, entry: Entry) -> kvm_sregs {
    let Segments { code, data, task } = segments(bits(entry));
    let mut sregs =
        kvm_sregs { cs: code, ds: data, es: data, fs: data, gs: data, ss: data, tr: task, ..reset };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (GDT_ENTRIES * 8 - 1) as u16;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    if bits(entry) == Bits::SixtyFour {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME | EFER_LMA;
    }
    sregs
}

fn general_registers(entry: Entry) -> kvm_regs {
    match entry {
        Entry::Pvh { address } => kvm_regs {
            rip: address,
            rbx: layout::PVH_START_INFO,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        },
        Entry::Linux64 { address } => kvm_regs {
            rip: address,
            rsi: layout::ZERO_PAGE,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        },
    }
}

/// Puts the boot vCPU at the kernel's entry.
///
/// # Errors
/// KVM's.
pub(crate) fn set_boot_registers(vcpu: &VcpuFd, index: u8, entry: Entry) -> Result<(), CpuError> {
    let failed = |what| move |source| CpuError::Kvm { what, index, source };
    let reset = vcpu.get_sregs().map_err(failed("read the special registers"))?;
    vcpu.set_sregs(&special_registers(reset, entry)).map_err(failed("set the special registers"))?;
    vcpu.set_regs(&general_registers(entry)).map_err(failed("set the registers"))
}

/// Wires the local interrupt pins as firmware does: LINT0 to the (absent) legacy PIC, LINT1 to NMI.
///
/// # Errors
/// KVM's.
pub(crate) fn set_local_interrupts(vcpu: &VcpuFd, index: u8) -> Result<(), CpuError> {
    let failed = |what| move |source| CpuError::Kvm { what, index, source };
    let mut lapic = vcpu.get_lapic().map_err(failed("read the local APIC"))?;
    set_delivery(&mut lapic, LVT_LINT0, DELIVER_EXTINT);
    set_delivery(&mut lapic, LVT_LINT1, DELIVER_NMI);
    vcpu.set_lapic(&lapic).map_err(failed("set the local APIC"))
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let old = bytes.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte as u8));
    for (byte, new) in bytes.iter_mut().zip((old & !DELIVERY_MASK | mode).to_le_bytes()) {
        *byte = new as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_well_known_ones() {
        let flat = segments(Bits::ThirtyTwo);
        assert_eq!(descriptor(&flat.code), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&flat.data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&flat.task), 0x0000_8b00_0000_0067);
        assert_eq!(descriptor(&segments(Bits::SixtyFour).code), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn a_local_interrupt_pin_keeps_its_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT0 + 2] = 1;
        set_delivery(&mut lapic, LVT_LINT0, DELIVER_EXTINT);
        assert_eq!(
            lapic.regs[LVT_LINT0..LVT_LINT0 + 4].iter().map(|b| *b as u8).collect::<Vec<_>>(),
            [0, 7, 1, 0]
        );
    }
}
