//! The steps that a machine is put together by. Each attaches one thing; `machine::build` lists them in order for a
//! machine that boots, `machine::restore` for one that goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use chunk_store::Reader;
use devices::{
    Access, Block, Generation, GenerationPlace, GenerationResources, GenerationState, MMIO_REGION_SIZE,
    MmioTransport, QUEUE_NOTIFY_OFFSET, RESET_PORT_REGION_SIZE, ResetPort, Rng, SERIAL_REGION_SIZE, Serial,
    SerialSink, SocketBroker, Storage, TransportResources, TransportState, Uplink, VirtioDevice,
};
use kvm_ioctls::IoEventAddress;
use snapshot::Persist;
use vm_memory::{Bytes, GuestAddress};
use vmm_api::DriveAccess;
use vmm_sys_util::eventfd::EventFd;

use super::devices::{Attached, DeviceSet, Kind, SharedDevice, lock};
use super::error::{MachineError, device_failed, kvm_failed};
use super::frame::Frame;
use super::new_event;
use crate::acpi::{self, MmioSlot};
use crate::boot::{self, Entry};
use crate::chunk_drive::{ChunkDrive, FirstReads};
use crate::config::{Cmdline, Drive, DriveContent, DriveId, Net, SerialOutput, Vsock};
use crate::layered_drive::LayeredDrive;
use crate::layout;
use crate::power::{self, GuestEnd};
use crate::vcpu::{Buses, Shared};

/// Where guests look for their generation.
const GENERATION_PLACE: GenerationPlace =
    GenerationPlace { id: GuestAddress(layout::GENERATION_ID), clock: GuestAddress(layout::VMCLOCK) };

const _: () = assert!(devices::MAX_FRAME_LEN == inner_network::MAX_FRAME_LEN, "one network");

/// Devices being plugged into a frame.
pub(super) struct Assembly<'a> {
    frame: &'a Frame,
    buses: Buses,
    devices: DeviceSet,
    attached: Vec<Attached>,
    serial: Option<Arc<Mutex<Serial>>>,
    generation: Option<Generation>,
    first_reads: BTreeMap<String, FirstReads>,
    slots: Vec<MmioSlot>,
}

/// Everything that is plugged in.
pub(super) struct Fittings {
    pub(super) devices: DeviceSet,
    /// By slot.
    pub(super) attached: Vec<Attached>,
    pub(super) serial: Option<Arc<Mutex<Serial>>>,
    pub(super) generation: Option<Generation>,
    /// By id, of drives that are read by chunks.
    pub(super) first_reads: BTreeMap<String, FirstReads>,
    pub(super) end: GuestEnd,
}

impl<'a> Assembly<'a> {
    /// A frame with nothing plugged in.
    pub(super) fn new(frame: &'a Frame) -> Result<Self, MachineError> {
        Ok(Self {
            frame,
            buses: Buses::default(),
            devices: DeviceSet::new().map_err(MachineError::Events)?,
            attached: Vec::new(),
            serial: None,
            generation: None,
            first_reads: BTreeMap::new(),
            slots: Vec::new(),
        })
    }

    /// The end: what answers the vCPUs, and what the I/O thread serves.
    pub(super) fn finish(self) -> (Arc<Buses>, Fittings) {
        let Self { frame: _, buses, devices, attached, serial, generation, first_reads, slots: _ } = self;
        let end = buses.end.clone();
        (Arc::new(buses), Fittings { devices, attached, serial, generation, first_reads, end })
    }

    /// The serial port, as saved or as after a reset.
    pub(super) fn attach_serial(
        &mut self,
        output: SerialOutput,
        saved: Option<&devices::SerialState>,
    ) -> Result<(), MachineError> {
        let name = "the serial port";
        let sink = match output {
            SerialOutput::Null => SerialSink::null(),
            SerialOutput::Stdout => {
                SerialSink::fd(std::io::stdout().as_fd().try_clone_to_owned().map_err(device_failed(name))?)
            }
            SerialOutput::File(file) => SerialSink::fd(OwnedFd::from(file)),
        };
        let interrupt = Box::new(self.new_interrupt(layout::SERIAL_GSI)?);
        let serial = match saved {
            Some(state) => Serial::restore((interrupt, sink), state).map_err(device_failed(name))?,
            None => Serial::new(interrupt, sink),
        };
        let serial = Arc::new(Mutex::new(serial));
        self.serial = Some(Arc::clone(&serial));
        let port: Shared = serial;
        #[cfg(feature = "hostile")]
        let port = crate::hostile::heard(port);
        self.buses
            .ports
            .insert(layout::SERIAL_PORT.into(), SERIAL_REGION_SIZE, port)
            .map_err(device_failed(name))
    }

    pub(super) fn attach_reset_port(&mut self) -> Result<(), MachineError> {
        let end = self.buses.end.clone();
        let port = ResetPort::new(move || end.ask());
        let port: Shared = Arc::new(Mutex::new(port));
        self.buses
            .ports
            .insert(layout::I8042_PORT.into(), RESET_PORT_REGION_SIZE, port)
            .map_err(device_failed("the reset port"))
    }

    pub(super) fn attach_power_ports(&mut self) -> Result<(), MachineError> {
        let ports = power::PowerPorts::new(self.buses.end.clone());
        let ports: Shared = Arc::new(Mutex::new(ports));
        self.buses
            .ports
            .insert(layout::POWER_PORT.into(), power::LEN, ports)
            .map_err(device_failed("the power registers"))
    }

    /// What tells a clone from its original: as saved (and then renewed, before the first vCPU runs) or as at a boot.
    pub(super) fn attach_generation(&mut self, saved: Option<&GenerationState>) -> Result<(), MachineError> {
        let name = "the generation";
        let resources = GenerationResources {
            memory: self.frame.memory.clone(),
            place: GENERATION_PLACE,
            interrupt: Box::new(self.new_interrupt(layout::GENERATION_GSI)?),
        };
        let generation = match saved {
            Some(state) => Generation::restore(resources, state),
            None => Generation::new(resources),
        };
        self.generation = Some(generation.map_err(device_failed(name))?);
        Ok(())
    }

    pub(super) fn attach_block(
        &mut self,
        drive: Drive,
        saved: Option<Saved<'_, devices::BlockState>>,
    ) -> Result<(), MachineError> {
        let Drive { id, content, access, len: _ } = drive;
        let name = format!("drive {}", id.as_str());
        let access = match access {
            DriveAccess::ReadOnly => Access::ReadOnly,
            DriveAccess::ReadWrite => Access::ReadWrite,
        };
        let storage: Box<dyn Storage> = match content {
            DriveContent::File(file) => Box::new(file),
            DriveContent::Chunks(reader) => Box::new(self.chunk_drive(&id, reader)),
            DriveContent::Layered(reader, layer) => {
                Box::new(LayeredDrive::new(self.chunk_drive(&id, reader), layer))
            }
        };
        let id = devices::DriveId::try_from(id.as_str()).map_err(device_failed(&name))?;
        let block = match saved {
            Some(saved) => {
                Block::restore((id, storage, access), saved.device).map_err(device_failed(&name))?
            }
            None => Block::new(id, storage, access).map_err(device_failed(&name))?,
        };
        let resized = saved.is_some_and(|saved| saved.device.sectors != block.sectors());
        let block = Arc::new(Mutex::new(block));
        let transport =
            self.attach_virtio(&name, Kind::Block(Arc::clone(&block)), block, saved.map(|s| s.transport))?;
        if resized {
            lock(&transport).change_config().map_err(MachineError::Events)?;
        }
        Ok(())
    }

    /// What it reads is part of the machine's working set.
    fn chunk_drive(&mut self, id: &DriveId, reader: Reader) -> ChunkDrive {
        let drive = ChunkDrive::new(id.as_str(), reader);
        self.first_reads.insert(id.as_str().to_owned(), drive.first_reads());
        drive
    }

    pub(super) fn attach_vsock(
        &mut self,
        vsock: Vsock,
        saved: Option<Saved<'_, devices::VsockState>>,
    ) -> Result<(), MachineError> {
        let name = "the socket device";
        let broker = Box::new(SocketBroker::new(vsock.broker).map_err(device_failed(name))?);
        let device = match saved {
            Some(saved) => devices::Vsock::restore(broker, saved.device).map_err(device_failed(name))?,
            None => devices::Vsock::new(vsock.guest_cid, broker).map_err(device_failed(name))?,
        };
        let device = Arc::new(Mutex::new(device));
        self.attach_virtio(name, Kind::Vsock(Arc::clone(&device)), device, saved.map(|s| s.transport))
            .map(drop)
    }

    pub(super) fn attach_entropy(&mut self, saved: Option<&TransportState>) -> Result<(), MachineError> {
        let name = "the entropy device";
        let rng = Rng::new().map_err(device_failed(name))?;
        self.attach_virtio(name, Kind::Entropy, Arc::new(Mutex::new(rng)), saved).map(drop)
    }

    /// Every machine has one: without an uplink its link is down, and a clone can be given one.
    pub(super) fn attach_net(
        &mut self,
        uplink: Option<Net>,
        saved: Option<Saved<'_, devices::NetState>>,
    ) -> Result<(), MachineError> {
        let name = "the network device";
        let uplink =
            uplink.map(|Net { tap, receive, transmit }| Uplink { link: Box::new(tap), receive, transmit });
        let net = match saved {
            Some(saved) => devices::Net::restore((inner_network::GUEST_MAC, uplink), saved.device)
                .map_err(device_failed(name))?,
            None => devices::Net::new(inner_network::GUEST_MAC, uplink).map_err(device_failed(name))?,
        };
        let changed = saved.is_some_and(|saved| saved.device.link_up != net.link_is_up());
        let net = Arc::new(Mutex::new(net));
        let transport =
            self.attach_virtio(name, Kind::Net(Arc::clone(&net)), net, saved.map(|s| s.transport))?;
        if changed {
            lock(&transport).change_config().map_err(MachineError::Events)?;
        }
        Ok(())
    }

    /// Gives a device the next register page and interrupt line, and its notifications to KVM. A restored device looks at
    /// its queues once, whatever was under way when it was saved.
    fn attach_virtio(
        &mut self,
        name: &str,
        kind: Kind,
        device: SharedDevice,
        saved: Option<&TransportState>,
    ) -> Result<Arc<Mutex<MmioTransport>>, MachineError> {
        let slot = self.next_slot(name)?;
        let resources = TransportResources {
            device: Arc::clone(&device) as Arc<Mutex<dyn VirtioDevice>>,
            memory: self.frame.memory.clone(),
            interrupt: Box::new(self.new_interrupt(slot.gsi)?),
        };
        let transport = match saved {
            Some(state) => MmioTransport::restore(resources, state).map_err(device_failed(name))?,
            None => MmioTransport::new(resources).map_err(device_failed(name))?,
        };
        let notify = IoEventAddress::Mmio(u64::from(slot.address) + QUEUE_NOTIFY_OFFSET);
        for (queue, kick) in (0u32..).zip(transport.kicks()) {
            self.frame
                .vm
                .register_ioevent(kick, &notify, queue)
                .map_err(kvm_failed("bind a queue notification to an eventfd"))?;
            if saved.is_some() {
                kick.write(1).map_err(MachineError::Events)?;
            }
        }
        self.devices.add(device).map_err(MachineError::Events)?;
        let transport = Arc::new(Mutex::new(transport));
        self.attached.push(Attached { kind, transport: Arc::clone(&transport) });
        self.buses
            .mmio
            .insert(slot.address.into(), slot.len.into(), Arc::clone(&transport) as Shared)
            .map_err(device_failed(name))?;
        self.slots.push(slot);
        Ok(transport)
    }

    fn next_slot(&self, name: &str) -> Result<MmioSlot, MachineError> {
        let index = self.slots.len() as u32;
        let gsi = layout::VIRTIO_FIRST_GSI + index;
        if gsi >= layout::GENERATION_GSI {
            return Err(MachineError::NoInterruptLine(name.to_owned()));
        }
        let len = MMIO_REGION_SIZE as u32;
        Ok(MmioSlot { address: layout::VIRTIO_MMIO as u32 + index * len, len, gsi })
    }

    fn new_interrupt(&self, gsi: u32) -> Result<EventFd, MachineError> {
        let wire = new_event()?;
        self.frame
            .vm
            .register_irqfd(&wire, gsi)
            .map_err(kvm_failed("bind an eventfd to an interrupt line"))?;
        Ok(wire)
    }

    /// After every device.
    pub(super) fn write_acpi_tables(&self) -> Result<(), MachineError> {
        let tables = acpi::tables(self.frame.shape.vcpus.get(), &self.slots);
        self.frame.memory.write_slice(&tables, GuestAddress(layout::ACPI_TABLES)).map_err(MachineError::Acpi)
    }

    pub(super) fn load_kernel(
        &self,
        kernel: &File,
        initrd: Option<&File>,
        cmdline: &Cmdline,
    ) -> Result<Entry, MachineError> {
        Ok(boot::load(&self.frame.memory, self.frame.shape.memory.bytes(), kernel, initrd, cmdline)?)
    }
}

/// What was saved of a virtio device.
pub(super) struct Saved<'a, S> {
    pub(super) device: &'a S,
    pub(super) transport: &'a TransportState,
}

impl<S> Clone for Saved<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Saved<'_, S> {}
