//! The virtio-mmio register file, virtio 1.3 §4.2.2, and the driver's way through it.
//!
//! ```text
//!  write 0 from anywhere: RESET
//!  RESET ─ACKNOWLEDGE─► ACK ─DRIVER─► DRIVER ─FEATURES_OK─► NEGOTIATED ─DRIVER_OK─► RUNNING
//!                                     features             queues                  notifications
//!  FAILED may be added anywhere; the device adds DEVICE_NEEDS_RESET. Every other write is ignored.
//! ```
//!
//! Called by vCPU threads under the transport's lock. A write that is not allowed where the driver stands, and an
//! access of another size or alignment than the register's, changes nothing and reads as zero.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::registers::{CONFIG_SPACE, Register};
use crate::{Activation, BusDevice, DeviceInterrupt, Interrupt, Memory, VirtioDevice};

/// Bytes of address space of one device: a page, so that devices can be told apart by page.
pub const MMIO_REGION_SIZE: u64 = 0x1000;

/// Where the driver writes the number of a queue with new buffers; target of the ioeventfds.
pub const QUEUE_NOTIFY_OFFSET: u64 = Register::QueueNotify as u64;

/// "virt", virtio 1.3 §4.2.2.
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, virtio 1.3 §4.2.2.
const INTERFACE_VERSION: u32 = 2;
/// The vendor's own number; "TNDR".
const VENDOR: u32 = 0x5244_4e54;

/// Features that the transport itself speaks for.
const TRANSPORT_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1;

/// Status values that a driver passes, in order; the last is the running device. virtio 1.3 §3.1.1.
pub(super) const STATUS_PATH: [u32; 5] = [
    0,
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];
const STATUS_DRIVER: u32 = STATUS_PATH[2];
const STATUS_NEGOTIATED: u32 = STATUS_PATH[3];
const STATUS_RUNNING: u32 = STATUS_PATH[4];

/// What a transport is given.
pub struct TransportResources {
    /// The device, shared with the I/O thread.
    pub device: Arc<Mutex<dyn VirtioDevice>>,
    /// Guest memory.
    pub memory: Memory,
    /// The interrupt line.
    pub interrupt: Box<dyn Interrupt>,
}

/// One virtio-mmio device as the guest's CPUs see it.
pub struct MmioTransport {
    // Glue, as long as the machine lives.
    pub(super) device: Arc<Mutex<dyn VirtioDevice>>,
    pub(super) memory: Memory,
    pub(super) interrupt: Arc<DeviceInterrupt>,
    pub(super) kicks: Vec<EventFd>,
    // Fixed by the device.
    pub(super) device_id: u32,
    pub(super) offered_features: u64,
    // Registers. While the device runs it has the queues, and these are what they were at DRIVER_OK.
    pub(super) registers: Registers,
}

/// What the driver has written so far; a reset makes it new.
pub(super) struct Registers {
    pub(super) status: u32,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) driver_features: u64,
    pub(super) queue_sel: u32,
    pub(super) config_generation: u32,
    /// Whether the driver wrote a queue size or address that cannot be; DRIVER_OK then fails.
    pub(super) queue_fault: bool,
    pub(super) queues: Vec<Queue>,
}

impl MmioTransport {
    /// A transport in reset.
    ///
    /// # Errors
    /// When the device's eventfds cannot be duplicated.
    pub fn new(resources: TransportResources) -> io::Result<Self> {
        let TransportResources { device, memory, interrupt } = resources;
        let (device_id, offered_features, kicks, queues) = {
            let device = lock(&device);
            let kicks = device.kicks().iter().map(EventFd::try_clone).collect::<io::Result<Vec<_>>>()?;
            let queues = new_queues(device.queue_sizes())?;
            (device.device_id(), device.features() | TRANSPORT_FEATURES, kicks, queues)
        };
        let interrupt = Arc::new(DeviceInterrupt::new(interrupt));
        let registers = Registers {
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            config_generation: 0,
            queue_fault: false,
            queues,
        };
        Ok(Self { device, memory, interrupt, kicks, device_id, offered_features, registers })
    }

    /// Eventfds to bind to [`QUEUE_NOTIFY_OFFSET`], in queue order. A write that the VMM does not bind comes through
    /// [`BusDevice::write`] and does the same.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Tells the driver that the device's configuration is another than it has read, virtio 1.3 §4.2.2 and §2.3.
    ///
    /// # Errors
    /// When the interrupt cannot be raised.
    pub fn change_config(&mut self) -> io::Result<()> {
        self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        // §2.3.1: before DRIVER_OK there is nobody to interrupt, and the driver has yet to read.
        if self.registers.status & DRIVER_OK != 0 { self.interrupt.signal_config() } else { Ok(()) }
    }

    /// Raises the interrupt again whose cause the driver has not acknowledged: it may have been on its way, and in no
    /// interrupt controller, when the machine was saved. For a restored machine, when its controllers are restored, too: what
    /// is raised before is lost when they are.
    ///
    /// # Errors
    /// When the wire is gone.
    pub fn repeat_interrupt(&self) -> io::Result<()> {
        self.interrupt.repeat()
    }

    fn read_register(&self, register: Register) -> u32 {
        let regs = &self.registers;
        match register {
            Register::MagicValue => MAGIC,
            Register::Version => INTERFACE_VERSION,
            Register::DeviceId => self.device_id,
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => page_of(self.offered_features, regs.device_features_sel),
            Register::QueueSizeMax => self.selected().map_or(0, |queue| u32::from(queue.max_size())),
            // §4.2.2.1: also after DRIVER_OK, when the device holds the queue itself.
            Register::QueueReady => self.selected().map_or(0, |queue| u32::from(queue.ready())),
            Register::InterruptStatus => self.interrupt.status(),
            Register::Status => regs.status | if self.interrupt.needs_reset() { NEEDS_RESET } else { 0 },
            Register::ConfigGeneration => regs.config_generation,
            // §4.2.2: no shared memory region reads as all ones.
            Register::ShmLenLow | Register::ShmLenHigh | Register::ShmBaseLow | Register::ShmBaseHigh => {
                u32::MAX
            }
            // Write-only registers, and QueueReset without VIRTIO_F_RING_RESET.
            _ => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        // Where the driver stands, FAILED aside: a driver that gave up has nothing more to set.
        let status = self.registers.status;
        match register {
            Register::Status => self.write_status(value),
            Register::DeviceFeaturesSel => self.registers.device_features_sel = value,
            Register::DriverFeaturesSel => self.registers.driver_features_sel = value,
            Register::QueueSel => self.registers.queue_sel = value,
            Register::DriverFeatures if status == STATUS_DRIVER => self.accept_features(value),
            Register::InterruptAck => self.interrupt.acknowledge(value),
            Register::QueueNotify if status == STATUS_RUNNING => self.notify(value),
            _ if status == STATUS_NEGOTIATED => self.write_queue(register, value),
            _ => {}
        }
    }

    /// §2.1: the driver sets bits in order and clears them only all at once.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // The driver writes back what it read, DEVICE_NEEDS_RESET included; that bit is the device's.
        let value = value & !NEEDS_RESET;
        let status = self.registers.status;
        if value == status | FAILED {
            self.registers.status = value;
            return;
        }
        let next = STATUS_PATH.iter().position(|&step| step == status).and_then(|at| STATUS_PATH.get(at + 1));
        if next != Some(&value) {
            return;
        }
        match value {
            // §3.1.1 step 5: the bit stays clear when the features do not do.
            STATUS_NEGOTIATED if !acceptable(self.registers.driver_features, self.offered_features) => {}
            STATUS_RUNNING => {
                self.registers.status = value;
                self.activate();
            }
            _ => self.registers.status = value,
        }
    }

    fn accept_features(&mut self, value: u32) {
        let shift = match self.registers.driver_features_sel {
            0 => 0,
            1 => 32,
            // No feature beyond 63 is offered, so none can be accepted.
            _ => return,
        };
        let page = u64::from(u32::MAX) << shift;
        let features = self.registers.driver_features & !page | u64::from(value) << shift;
        self.registers.driver_features = features;
    }

    /// §4.2.3.2. A ready queue is not changed; what cannot be is remembered until DRIVER_OK, which then fails.
    fn write_queue(&mut self, register: Register, value: u32) {
        let Registers { queue_sel, queue_fault, queues, .. } = &mut self.registers;
        let Some(queue) = usize::try_from(*queue_sel).ok().and_then(|index| queues.get_mut(index)) else {
            return;
        };
        if register == Register::QueueReady {
            queue.set_ready(value == 1);
            return;
        }
        if queue.ready() {
            return;
        }
        let address = |old: u64, high: bool| {
            let value = u64::from(value);
            GuestAddress(if high { old & 0xffff_ffff | value << 32 } else { old >> 32 << 32 | value })
        };
        let done = match register {
            Register::QueueSize => queue.try_set_size(u16::try_from(value).unwrap_or(0)),
            Register::QueueDescLow => queue.try_set_desc_table_address(address(queue.desc_table(), false)),
            Register::QueueDescHigh => queue.try_set_desc_table_address(address(queue.desc_table(), true)),
            Register::QueueDriverLow => queue.try_set_avail_ring_address(address(queue.avail_ring(), false)),
            Register::QueueDriverHigh => queue.try_set_avail_ring_address(address(queue.avail_ring(), true)),
            Register::QueueDeviceLow => queue.try_set_used_ring_address(address(queue.used_ring(), false)),
            Register::QueueDeviceHigh => queue.try_set_used_ring_address(address(queue.used_ring(), true)),
            _ => Ok(()),
        };
        *queue_fault |= done.is_err();
    }

    fn notify(&self, index: u32) {
        let kick = usize::try_from(index).ok().and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick
            && kick.write(1).is_err()
        {
            self.interrupt.signal_needs_reset();
        }
    }

    /// DRIVER_OK: hands the queues to the device. A driver that left a queue out or set one up wrongly gets
    /// DEVICE_NEEDS_RESET instead, since no device here can work with fewer queues.
    fn activate(&mut self) {
        let features = self.registers.driver_features;
        let event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1;
        if self.registers.queue_fault {
            return self.interrupt.signal_needs_reset();
        }
        let mut queues = Vec::with_capacity(self.registers.queues.len());
        for queue in &mut self.registers.queues {
            queue.set_event_idx(event_idx);
            let valid = queue.is_valid(&self.memory);
            match Queue::try_from(queue.state()) {
                Ok(copy) if valid => queues.push(copy),
                _ => return self.interrupt.signal_needs_reset(),
            }
        }
        self.hand_over(queues);
    }

    pub(super) fn hand_over(&self, queues: Vec<Queue>) {
        lock(&self.device).activate(Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.registers.driver_features,
        });
        // A driver may have filled queues before DRIVER_OK, and a saved one may have been kicked just before.
        for index in 0..self.kicks.len() {
            self.notify(u32::try_from(index).unwrap_or(u32::MAX));
        }
    }

    /// §2.4: returns when the device has stopped, so that the status reads zero only then. The device's lock is held
    /// by the I/O thread for one bounded piece of work at most.
    fn reset(&mut self) {
        lock(&self.device).reset();
        self.interrupt.reset();
        let Registers {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            // Free-running, so that a driver never takes a new configuration for an old one.
            config_generation: _,
            queue_fault,
            queues,
        } = &mut self.registers;
        *status = 0;
        *device_features_sel = 0;
        *driver_features_sel = 0;
        *driver_features = 0;
        *queue_sel = 0;
        *queue_fault = false;
        queues.iter_mut().for_each(QueueT::reset);
    }

    fn selected(&self) -> Option<&Queue> {
        usize::try_from(self.registers.queue_sel).ok().and_then(|index| self.registers.queues.get(index))
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            lock(&self.device).read_config(offset, data);
        } else if let (Some(register), Ok(data)) = (Register::at(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // No device here has a configuration field that a driver may write.
        if let (Some(register), Ok(data)) = (Register::at(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }
}

/// §6: a driver accepts a subset of what is offered, and VERSION_1 always.
pub(super) fn acceptable(accepted: u64, offered: u64) -> bool {
    accepted & !offered == 0 && accepted & TRANSPORT_FEATURES == TRANSPORT_FEATURES
}

fn page_of(features: u64, page: u32) -> u32 {
    match page {
        0 => (features & u64::from(u32::MAX)) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn new_queues(sizes: &[u16]) -> io::Result<Vec<Queue>> {
    sizes.iter().map(|&size| Queue::new(size).map_err(|error| io::Error::other(error.to_string()))).collect()
}

/// A poisoned lock means a panic elsewhere, which ends the process in release builds.
pub(super) fn lock<'a>(
    device: &'a Mutex<dyn VirtioDevice + 'static>,
) -> MutexGuard<'a, dyn VirtioDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
