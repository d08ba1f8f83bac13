//! The steps that a machine is put together by. Each attaches one thing; `machine::build` lists them in order.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};

use devices::{
    Access, Block, MMIO_REGION_SIZE, Memory, MmioTransport, QUEUE_NOTIFY_OFFSET, RESET_PORT_REGION_SIZE,
    ResetPort, Rng, SERIAL_REGION_SIZE, Serial, SerialSink, SocketBroker, TransportResources, VirtioDevice,
};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::devices::{DeviceSet, SharedDevice};
use super::{Built, MachineError, Parts};
use crate::acpi::{self, MmioSlot};
use crate::boot::{self, Entry};
use crate::config::{Cmdline, DriveId, MemSize, SerialOutput, VcpuCount, Vsock};
use crate::cpu::cpuid::{self, DeadlineTimer, Topology};
use crate::cpu::{self, CpuError};
use crate::vcpu::{Buses, Counters, Reporter, Shared, Vcpu};
use crate::{layout, memory, power};

/// KVM's own numbering of its interface, unchanged since Linux 2.6.22.
const KVM_API_VERSION: i32 = 12;

/// A machine half built.
pub(super) struct Assembly {
    kvm: Kvm,
    vm: VmFd,
    memory: Memory,
    mem_size: MemSize,
    buses: Buses,
    devices: DeviceSet,
    serial: Option<Arc<Mutex<Serial>>>,
    slots: Vec<MmioSlot>,
    guest_ended: EventFd,
}

fn kvm_failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

fn device_failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    device: &str,
) -> impl Fn(E) -> MachineError {
    move |source| MachineError::Device { device: device.to_owned(), source: source.into() }
}

impl Assembly {
    /// A virtual machine with memory and nothing else.
    pub(super) fn new(mem_size: MemSize) -> Result<Self, MachineError> {
        let kvm = Kvm::new().map_err(MachineError::OpenKvm)?;
        if kvm.get_api_version() != KVM_API_VERSION {
            return Err(MachineError::MissingCapability("stable API (version 12)"));
        }
        let needed = [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        ];
        for (capability, name) in needed {
            if !kvm.check_extension(capability) {
                return Err(MachineError::MissingCapability(name));
            }
        }
        let vm = kvm.create_vm().map_err(kvm_failed("create a virtual machine"))?;
        let memory = memory::create(mem_size.bytes())?;
        memory::register(&vm, &memory)?;
        Ok(Self {
            kvm,
            vm,
            memory,
            mem_size,
            buses: Buses::default(),
            devices: DeviceSet::new().map_err(MachineError::Events)?,
            serial: None,
            slots: Vec::new(),
            guest_ended: new_event()?,
        })
    }

    /// Local APICs, IOAPIC and (unused by a hardware-reduced guest) PICs in the kernel. No PIT: a guest whose APIC timer
    /// never stops and has a TSC deadline does not look for one.
    pub(super) fn attach_interrupt_controllers(&self) -> Result<(), MachineError> {
        self.vm
            .set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(kvm_failed("place KVM's identity map"))?;
        self.vm.set_tss_address(layout::KVM_TSS as usize).map_err(kvm_failed("place KVM's task state"))?;
        self.vm.create_irq_chip().map_err(kvm_failed("create the interrupt controllers"))
    }

    pub(super) fn attach_serial(&mut self, output: SerialOutput) -> Result<(), MachineError> {
        let name = "the serial port";
        let sink = match output {
            SerialOutput::Null => SerialSink::null(),
            SerialOutput::Stdout => {
                SerialSink::fd(std::io::stdout().as_fd().try_clone_to_owned().map_err(device_failed(name))?)
            }
            SerialOutput::File(file) => SerialSink::fd(OwnedFd::from(file)),
        };
        let interrupt = self.new_interrupt(layout::SERIAL_GSI)?;
        let serial = Arc::new(Mutex::new(Serial::new(Box::new(interrupt), sink)));
        self.serial = Some(Arc::clone(&serial));
        self.buses
            .ports
            .insert(layout::SERIAL_PORT.into(), SERIAL_REGION_SIZE, serial)
            .map_err(device_failed(name))
    }

    pub(super) fn attach_reset_port(&mut self) -> Result<(), MachineError> {
        let port = ResetPort::new(self.guest_ended.try_clone().map_err(MachineError::Events)?);
        let port: Shared = Arc::new(Mutex::new(port));
        self.buses
            .ports
            .insert(layout::I8042_PORT.into(), RESET_PORT_REGION_SIZE, port)
            .map_err(device_failed("the reset port"))
    }

    pub(super) fn attach_power_ports(&mut self) -> Result<(), MachineError> {
        let ports = power::PowerPorts::new(self.guest_ended.try_clone().map_err(MachineError::Events)?);
        let ports: Shared = Arc::new(Mutex::new(ports));
        self.buses
            .ports
            .insert(layout::POWER_PORT.into(), power::LEN, ports)
            .map_err(device_failed("the power registers"))
    }

    pub(super) fn attach_block(
        &mut self,
        id: DriveId,
        file: File,
        writable: bool,
    ) -> Result<(), MachineError> {
        let name = format!("drive {}", id.as_str());
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        let block = devices::DriveId::try_from(id.as_str())
            .and_then(|id| Block::new(id, file, access))
            .map_err(device_failed(&name))?;
        self.attach_virtio(&name, Arc::new(Mutex::new(block)))
    }

    pub(super) fn attach_vsock(&mut self, vsock: Vsock) -> Result<(), MachineError> {
        let name = "the socket device";
        let device = SocketBroker::new(vsock.broker)
            .and_then(|broker| devices::Vsock::new(vsock.guest_cid, Box::new(broker)))
            .map_err(device_failed(name))?;
        self.attach_virtio(name, Arc::new(Mutex::new(device)))
    }

    pub(super) fn attach_entropy(&mut self) -> Result<(), MachineError> {
        let name = "the entropy device";
        let rng = Rng::new().map_err(device_failed(name))?;
        self.attach_virtio(name, Arc::new(Mutex::new(rng)))
    }

    /// Gives a device the next register page and interrupt line, and its notifications to KVM.
    fn attach_virtio(&mut self, name: &str, device: SharedDevice) -> Result<(), MachineError> {
        let slot = self.next_slot(name)?;
        let transport = MmioTransport::new(TransportResources {
            device: Arc::clone(&device) as Arc<Mutex<dyn VirtioDevice>>,
            memory: self.memory.clone(),
            interrupt: Box::new(self.new_interrupt(slot.gsi)?),
        })
        .map_err(device_failed(name))?;
        let notify = IoEventAddress::Mmio(u64::from(slot.address) + QUEUE_NOTIFY_OFFSET);
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            self.vm
                .register_ioevent(kick, &notify, queue)
                .map_err(kvm_failed("bind a queue notification to an eventfd"))?;
        }
        self.devices.add(device).map_err(MachineError::Events)?;
        self.buses
            .mmio
            .insert(slot.address.into(), slot.len.into(), Arc::new(Mutex::new(transport)))
            .map_err(device_failed(name))?;
        self.slots.push(slot);
        Ok(())
    }

    fn next_slot(&self, name: &str) -> Result<MmioSlot, MachineError> {
        let index = self.slots.len() as u32;
        let gsi = layout::VIRTIO_FIRST_GSI + index;
        if gsi >= layout::IOAPIC_LINES {
            return Err(MachineError::NoInterruptLine(name.to_owned()));
        }
        let len = MMIO_REGION_SIZE as u32;
        Ok(MmioSlot { address: layout::VIRTIO_MMIO as u32 + index * len, len, gsi })
    }

    fn new_interrupt(&self, gsi: u32) -> Result<EventFd, MachineError> {
        let wire = new_event()?;
        self.vm.register_irqfd(&wire, gsi).map_err(kvm_failed("bind an eventfd to an interrupt line"))?;
        Ok(wire)
    }

    /// After every device.
    pub(super) fn write_acpi_tables(&self, vcpus: VcpuCount) -> Result<(), MachineError> {
        let tables = acpi::tables(vcpus.get(), &self.slots);
        self.memory.write_slice(&tables, GuestAddress(layout::ACPI_TABLES)).map_err(MachineError::Acpi)
    }

    pub(super) fn load_kernel(
        &self,
        kernel: &File,
        initrd: Option<&File>,
        cmdline: &Cmdline,
    ) -> Result<Entry, MachineError> {
        Ok(boot::load(&self.memory, self.mem_size.bytes(), kernel, initrd, cmdline)?)
    }

    /// The last step: vCPUs that stand at their first instruction.
    pub(super) fn create_vcpus(self, count: VcpuCount, entry: Entry) -> Result<Built, MachineError> {
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_failed("read the supported CPUID"))?;
        let timer = if self.kvm.check_extension(Cap::TscDeadlineTimer) {
            DeadlineTimer::Emulated
        } else {
            DeadlineTimer::Missing
        };
        cpu::write_boot_tables(&self.memory, entry)?;
        let (reports, received) = mpsc::channel();
        let (buses, counters) = (Arc::new(self.buses), Arc::new(Counters::default()));
        let vcpu_ended = new_event()?;
        let mut vcpus = Vec::with_capacity(count.get().into());
        for index in 0..count.get() {
            let fd = self.vm.create_vcpu(index.into()).map_err(kvm_failed("create a vCPU"))?;
            let topology = Topology { count: count.get(), index };
            set_cpuid(&fd, index, &cpuid::normalise(supported.as_slice(), topology, timer))?;
            cpu::set_boot_msrs(&fd, index)?;
            cpu::set_local_interrupts(&fd, index)?;
            if index == 0 {
                cpu::set_boot_registers(&fd, index, entry)?;
            }
            let wake = vcpu_ended.try_clone().map_err(MachineError::Events)?;
            let reporter = Reporter { reports: reports.clone(), wake };
            let (buses, counters) = (Arc::clone(&buses), Arc::clone(&counters));
            vcpus.push(Vcpu { index, fd, run_size: self.vm.run_size(), buses, counters, reporter });
        }
        let parts = Parts {
            _vm: self.vm,
            memory: self.memory,
            devices: self.devices,
            serial: self.serial,
            counters,
            reports: received,
            vcpu_ended,
            guest_ended: self.guest_ended,
        };
        Ok(Built { vcpus, parts })
    }
}

fn set_cpuid(vcpu: &VcpuFd, index: u8, entries: &[kvm_cpuid_entry2]) -> Result<(), MachineError> {
    let table = CpuId::from_entries(entries).map_err(|_| CpuError::TooManyEntries(entries.len()))?;
    let set = vcpu.set_cpuid2(&table);
    set.map_err(|source| CpuError::Kvm { what: "set the CPUID", index, source })?;
    Ok(())
}

fn new_event() -> Result<EventFd, MachineError> {
    EventFd::new(EFD_NONBLOCK).map_err(MachineError::Events)
}
