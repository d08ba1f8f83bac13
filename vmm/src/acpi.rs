//! The ACPI tables: which CPUs, interrupt controllers and devices exist, and how to power off. Pure; `machine` writes
//! the bytes to [`layout::ACPI_TABLES`].
//!
//! The platform is *hardware-reduced* (ACPI 6.5 §4.1): no PIC, no PIT, no PM timer, no SCI. The kernel then needs no
//! legacy device but the serial port, and its time comes from kvm-clock and the TSC deadline timer.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, ONE, Package, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use devices::VMCLOCK_LEN;

use crate::layout;

const OEM_ID: [u8; 6] = *b"TINDER";
const OEM_TABLE_ID: [u8; 8] = *b"TINDERBX";
const OEM_REVISION: u32 = 1;
/// Length of a table's header, ACPI 6.5 §5.2.6.
const HEADER_LEN: u32 = 36;
/// DSDT revision 2: integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// ACPI 6.5 §5.2.9.3: no CMOS clock, no VGA, no MSI-capable PCI; the 8042 bit stays clear.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_CMOS_CLOCK: u16 = 1 << 5;

/// Notification value of both generation devices: their content has changed.
const NOTIFY_CHANGED: u8 = 0x80;

/// Sleep type of S5 in `\_S5_` and in the sleep control register.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// Value that the reset register takes.
pub(crate) const RESET_VALUE: u8 = 1;
/// Offset of the sleep control register from [`layout::POWER_PORT`].
pub(crate) const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub(crate) const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub(crate) const RESET: u16 = 2;

/// One virtio-mmio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmioSlot {
    /// First register.
    pub address: u32,
    /// Bytes.
    pub len: u32,
    /// Interrupt line.
    pub gsi: u32,
}

/// All tables as one block for [`layout::ACPI_TABLES`]: the RSDP is at its start.
#[must_use]
pub(crate) fn tables(vcpu_count: u8, virtio: &[MmioSlot]) -> Vec<u8> {
    let mut block = Block::new(layout::ACPI_TABLES, Rsdp::len());
    let dsdt = block.append(dsdt(virtio).as_slice());
    let fadt = block.append(&bytes(&fadt(dsdt)));
    let madt = block.append(&bytes(&madt(vcpu_count)));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = block.append(&bytes(&xsdt));
    let tables = block.finish(&bytes(&Rsdp::new(OEM_ID, xsdt)));
    debug_assert!(tables.len() as u64 <= layout::ACPI_TABLES_LEN, "16 vCPUs and 11 devices take under 2 KiB");
    tables
}

/// Tables one after the other at known addresses.
struct Block {
    base: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// `reserve` bytes stay free at the start.
    fn new(base: u64, reserve: usize) -> Self {
        Self { base, bytes: vec![0; reserve] }
    }

    fn append(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }

    fn finish(mut self, head: &[u8]) -> Vec<u8> {
        self.bytes[..head.len()].copy_from_slice(head);
        self.bytes
    }
}

struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytes(Vec::new());
    table.to_aml_bytes(&mut sink);
    sink.0
}

fn port_register(offset: u16) -> GAS {
    let address = u64::from(layout::POWER_PORT + offset);
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address)
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_CLOCK).into();
    fadt.reset_reg = port_register(RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port_register(SLEEP_CONTROL);
    fadt.sleep_status_reg = port_register(SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    fadt.finalize()
}

fn madt(vcpu_count: u8) -> MADT {
    let mut madt =
        MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, LocalInterruptController::Address(layout::LAPIC));
    for id in 0..vcpu_count {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn dsdt(virtio: &[MmioSlot]) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_LEN, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut aml =
        bytes(&Name::new(Path::new("_S5_"), &Package::new(vec![&SLEEP_TYPE_OFF, &ZERO, &ZERO, &ZERO])));
    let mut devices = serial_device();
    devices.extend(generation_devices());
    for (index, slot) in virtio.iter().enumerate() {
        devices.extend(virtio_device(index, slot));
    }
    aml.extend(Scope::raw(Path::new("_SB_"), devices));
    dsdt.append_slice(&aml);
    dsdt
}

fn serial_device() -> Vec<u8> {
    let port = layout::SERIAL_PORT;
    bytes(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, 8),
                    &Interrupt::new(true, true, false, false, layout::SERIAL_GSI),
                ]),
            ),
        ],
    ))
}

/// The generation id, the VMClock page, and the event device whose interrupt notifies both (a hardware-reduced platform
/// has no GPE; ACPI 6.5 §5.6.9).
fn generation_devices() -> Vec<u8> {
    // Kernels look for the compatible id; they read the address as two halves, the low one first.
    let mut devices = bytes(&Device::new(
        Path::new("VGEN"),
        vec![
            &Name::new(Path::new("_HID"), &"VMGENCTR"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(Path::new("ADDR"), &Package::new(vec![&(layout::GENERATION_ID as u32), &ZERO])),
        ],
    ));
    let page = Memory32Fixed::new(false, layout::VMCLOCK as u32, VMCLOCK_LEN as u32);
    devices.extend(bytes(&Device::new(
        Path::new("VCLK"),
        vec![
            &Name::new(Path::new("_HID"), &"AMZNC10C"),
            &Name::new(Path::new("_CID"), &"VMCLOCK"),
            &Name::new(Path::new("_DDN"), &"VMCLOCK"),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&page])),
        ],
    )));
    let line = Interrupt::new(true, true, false, false, layout::GENERATION_GSI);
    devices.extend(bytes(&Device::new(
        Path::new("GED0"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&line])),
            // Its argument is the line; there is but one.
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    &Notify::new(&Path::new("VGEN"), &NOTIFY_CHANGED),
                    &Notify::new(&Path::new("VCLK"), &NOTIFY_CHANGED),
                ],
            ),
        ],
    )));
    devices
}

fn virtio_device(index: usize, slot: &MmioSlot) -> Vec<u8> {
    bytes(&Device::new(
        Path::new(&format!("V{index:03}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &index),
            // Cache coherent: without it the driver's DMA set-up is refused on x86.
            &Name::new(Path::new("_CCA"), &ONE),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, slot.address, slot.len),
                    &Interrupt::new(true, true, false, false, slot.gsi),
                ]),
            ),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table(block: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI_TABLES).expect("inside");
        let len = u32::from_le_bytes(block[start + 4..start + 8].try_into().expect("four bytes"));
        &block[start..start + len as usize]
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let slots: Vec<_> = (0..11)
            .map(|n| MmioSlot {
                address: 0xd000_0000 + n * 0x1000,
                len: 0x1000,
                gsi: layout::VIRTIO_FIRST_GSI + n,
            })
            .collect();
        let block = tables(16, &slots);
        assert!(block.len() as u64 <= layout::ACPI_TABLES_LEN);
        assert_eq!(&block[..8], b"RSD PTR ");
        assert_eq!(sum(&block[..20]), 0);
        assert_eq!(sum(&block[..36]), 0);
        let xsdt = table(&block, u64_at(&block, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table(&block, u64_at(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let madt = table(&block, u64_at(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        assert_eq!(madt.len(), 44 + 16 * 8 + 12);
        let dsdt = table(&block, u64_at(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(dsdt.windows(8).filter(|w| w == b"LNRO0005").count(), 11);
        for id in ["VM_Gen_Counter", "AMZNC10C", "ACPI0013", "_EVT"] {
            assert!(dsdt.windows(id.len()).any(|w| w == id.as_bytes()), "{id}");
        }
    }
}
