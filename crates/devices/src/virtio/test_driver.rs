//! A guest driver for tests: sets a device up through its registers, fills queues in guest memory, reads used rings.
//!
//! It does what it is told, sensible or not.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::registers::Register;
use crate::{BusDevice, Event, Memory, MmioTransport, TransportResources, VirtioDevice};

/// Rings of a queue, from its base, which [`Driver::table`] is.
pub(crate) const AVAILABLE: u64 = 0x4000;
pub(crate) const USED: u64 = 0x8000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Guest memory: two regions that touch, so that a buffer can lie across both.
pub(crate) const SEAM: u64 = 8 << 20;
pub(crate) const MEMORY_LEN: u64 = 16 << 20;
/// Buffers of tests begin here; queues are below.
pub(crate) const BUFFERS: u64 = 1 << 20;

/// One descriptor, as the driver writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Desc {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

pub(crate) fn readable(addr: u64, len: u32) -> Desc {
    Desc { addr, len, flags: 0, next: 0 }
}

pub(crate) fn writable(addr: u64, len: u32) -> Desc {
    Desc { addr, len, flags: WRITE, next: 0 }
}

#[derive(Default)]
struct Ring {
    size: u16,
    next_desc: u16,
    avail: u16,
    used: u16,
}

impl Ring {
    fn base(queue: usize) -> u64 {
        0x1_0000 * (queue as u64 + 1)
    }
}

pub(crate) struct Driver<D: VirtioDevice + 'static> {
    pub(crate) memory: Memory,
    pub(crate) device: Arc<Mutex<D>>,
    pub(crate) transport: MmioTransport,
    irq: EventFd,
    rings: Vec<Ring>,
}

pub(crate) fn new_memory() -> Memory {
    Memory::from_ranges(&[
        (GuestAddress(0), SEAM as usize),
        (GuestAddress(SEAM), (MEMORY_LEN - SEAM) as usize),
    ])
    .unwrap()
}

impl<D: VirtioDevice + 'static> Driver<D> {
    /// A device in reset.
    pub(crate) fn new(device: D) -> Self {
        let memory = new_memory();
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let rings = device.queue_sizes().iter().map(|&size| Ring { size, ..Ring::default() }).collect();
        let device = Arc::new(Mutex::new(device));
        let shared: Arc<Mutex<dyn VirtioDevice>> = device.clone();
        let transport = MmioTransport::new(TransportResources {
            device: shared,
            memory: memory.clone(),
            interrupt: Box::new(irq.try_clone().unwrap()),
        })
        .unwrap();
        Self { memory, device, transport, irq, rings }
    }

    /// A device at DRIVER_OK that accepted everything offered but event indices, so that it interrupts always.
    pub(crate) fn started(device: D) -> Self {
        let mut driver = Self::new(device);
        driver.start();
        driver
    }

    pub(crate) fn start(&mut self) {
        for ring in &mut self.rings {
            *ring = Ring { size: ring.size, ..Ring::default() };
        }
        let features = self.offered() & !(1 << 29);
        self.negotiate(features);
        for queue in 0..self.rings.len() {
            self.set_up_queue(queue);
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        assert!(!self.needs_reset(), "device refused to start");
    }

    pub(crate) fn queue_size(&self, queue: usize) -> u16 {
        self.rings[queue].size
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write(Register::DeviceFeaturesSel, 1);
        let high = self.read(Register::DeviceFeatures);
        self.write(Register::DeviceFeaturesSel, 0);
        u64::from(high) << 32 | u64::from(self.read(Register::DeviceFeatures))
    }

    /// Up to FEATURES_OK.
    pub(crate) fn negotiate(&mut self, features: u64) {
        self.write(Register::Status, 0);
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        for page in 0..2 {
            self.write(Register::DriverFeaturesSel, page);
            self.write(Register::DriverFeatures, (features >> (32 * page)) as u32);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    }

    pub(crate) fn set_up_queue(&mut self, queue: usize) {
        let base = Ring::base(queue) as u32;
        let zeros = vec![0; 0x1_0000];
        self.memory.write_slice(&zeros, GuestAddress(base.into())).unwrap();
        self.write(Register::QueueSel, queue as u32);
        assert_eq!(self.read(Register::QueueSizeMax), u32::from(self.rings[queue].size));
        self.set_up_queue_blindly(queue);
    }

    pub(crate) fn set_up_queue_blindly(&mut self, queue: usize) {
        let base = Ring::base(queue) as u32;
        self.write(Register::QueueSel, queue as u32);
        self.write(Register::QueueSize, self.rings[queue].size.into());
        self.write(Register::QueueDescLow, base);
        self.write(Register::QueueDriverLow, base + AVAILABLE as u32);
        self.write(Register::QueueDeviceLow, base + USED as u32);
        self.write(Register::QueueReady, 1);
    }

    pub(crate) fn add_status(&mut self, bit: u32) {
        let status = self.read(Register::Status);
        self.write(Register::Status, status | bit);
    }

    pub(crate) fn status(&mut self) -> u32 {
        self.read(Register::Status)
    }

    pub(crate) fn needs_reset(&mut self) -> bool {
        self.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0
    }

    pub(crate) fn read(&mut self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register as u64, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, register: Register, value: u32) {
        self.transport.write(register as u64, &value.to_le_bytes());
    }

    pub(crate) fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    /// Links descriptors into a chain and makes it available; returns its head.
    pub(crate) fn add(&mut self, queue: usize, chain: &[Desc]) -> u16 {
        let size = self.rings[queue].size;
        let first = self.rings[queue].next_desc;
        for (index, desc) in chain.iter().enumerate() {
            let at = (first + index as u16) % size;
            let mut desc = *desc;
            if index + 1 < chain.len() {
                desc.flags |= NEXT;
                desc.next = (at + 1) % size;
            }
            self.put_desc(Ring::base(queue), at, desc);
        }
        self.rings[queue].next_desc = (first + chain.len() as u16) % size;
        self.make_available(queue, first);
        first
    }

    pub(crate) fn put_desc(&self, table: u64, index: u16, desc: Desc) {
        self.put(table + 16 * u64::from(index), &desc.bytes());
    }

    pub(crate) fn table(queue: usize) -> u64 {
        Ring::base(queue)
    }

    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let avail = Ring::base(queue) + AVAILABLE;
        let at = avail + 4 + 2 * u64::from(ring.avail % ring.size);
        ring.avail = ring.avail.wrapping_add(1);
        let index = ring.avail;
        self.put(at, &head.to_le_bytes());
        self.put(avail + 2, &index.to_le_bytes());
    }

    pub(crate) fn set_avail_index(&self, queue: usize, index: u16) {
        self.put(Ring::base(queue) + AVAILABLE + 2, &index.to_le_bytes());
    }

    /// Notifies, then lets the I/O thread's part run until no eventfd and no backend is readable.
    pub(crate) fn kick(&mut self, queue: usize) {
        self.write(Register::QueueNotify, queue as u32);
        self.run();
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            let events = pending(&*self.device());
            if events.is_empty() {
                return;
            }
            for event in events {
                let _ = self.device().handle(event);
            }
        }
        panic!("device never comes to rest");
    }

    pub(crate) fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap()
    }

    /// New entries of the used ring: heads and lengths.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let used = Ring::base(queue) + USED;
        let index = u16::from_le_bytes(self.get(used + 2));
        let ring = &mut self.rings[queue];
        let mut entries = Vec::new();
        while ring.used != index {
            let at = used + 4 + 8 * u64::from(ring.used % ring.size);
            ring.used = ring.used.wrapping_add(1);
            let mut entry = [0; 8];
            self.memory.read_slice(&mut entry, GuestAddress(at)).unwrap();
            let (head, len) = entry.split_at(4);
            entries.push((
                u32::from_le_bytes(head.try_into().unwrap()),
                u32::from_le_bytes(len.try_into().unwrap()),
            ));
        }
        entries
    }

    pub(crate) fn interrupted(&self) -> bool {
        self.irq.read().is_ok()
    }

    pub(crate) fn put(&self, addr: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn get<const N: usize>(&self, addr: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn get_vec(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }
}

/// What the VMM's epoll would report.
pub(crate) fn pending(device: &dyn VirtioDevice) -> Vec<Event> {
    let kicks = device.kicks().iter().enumerate().map(|(index, kick)| (kick.as_raw_fd(), Event::Kick(index)));
    let backend = device.backend().map(|fd| (fd.as_raw_fd(), Event::Backend));
    let readable = |&(fd, _): &(i32, Event)| {
        let epoll = vmm_sys_util::epoll::Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, fd, event).unwrap();
        epoll.wait(0, &mut [event]).unwrap() > 0
    };
    kicks.chain(backend).filter(readable).map(|(_, event)| event).collect()
}
