//! What the device targets share: a small machine with one virtio device, driven through its registers, whose guest
//! memory is the target's to fill.
//!
//! The machine checks nothing itself: a panic, a hang or a fault of the process is the finding.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::{BusDevice, Event, Interrupt, Memory, MmioTransport, TransportResources, VirtioDevice};
use snapshot::Persist;
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: two regions with a hole between them, so that buffers can end at, touch and jump over a border.
pub const LOW_LEN: usize = 0x1_0000;
/// Where the second region begins.
pub const HIGH_START: u64 = 0x1_8000;
/// Length of the second region.
pub const HIGH_LEN: usize = 0x8000;

/// Most entries of a queue. Rings lie close together, so that short inputs reach all of them.
pub const QUEUE_MAX: u16 = 8;
/// Rings of queue `n` begin at `n` times this, with the descriptor table.
pub const QUEUE_STRIDE: u64 = 0x200;
/// Available ring, from a queue's start.
pub const AVAILABLE: u64 = 0x80;
/// Used ring, from a queue's start.
pub const USED: u64 = 0x100;

/// Wake-ups that an input gets: with bounded work in each, a device at rest needs far fewer.
const WAKE_UPS_MAX: usize = 256;

/// Registers, virtio 1.3 §4.2.2.
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;

struct NoWire;

impl Interrupt for NoWire {
    fn trigger(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One device at work.
pub struct Machine<D> {
    /// The guest's memory.
    pub memory: Memory,
    /// The register file.
    pub transport: MmioTransport,
    device: Arc<Mutex<D>>,
}

impl<D: VirtioDevice + 'static> Machine<D> {
    /// Sets a device up as a driver does, with queues of `size` entries.
    ///
    /// # Panics
    /// When the host has no memory or descriptors left.
    #[expect(clippy::unwrap_used, reason = "a target may fail where the host does")]
    pub fn new(device: D, size: u16, features: u64) -> Self {
        let ranges = [(GuestAddress(0), LOW_LEN), (GuestAddress(HIGH_START), HIGH_LEN)];
        let memory = Memory::from_ranges(&ranges).unwrap();
        let queues = device.queue_sizes().len();
        let device = Arc::new(Mutex::new(device));
        let shared: Arc<Mutex<dyn VirtioDevice>> = device.clone();
        let resources =
            TransportResources { device: shared, memory: memory.clone(), interrupt: Box::new(NoWire) };
        let transport = MmioTransport::new(resources).unwrap();
        let mut machine = Self { memory, transport, device };
        machine.start(queues, size, features);
        machine
    }

    fn start(&mut self, queues: usize, size: u16, features: u64) {
        self.set_up(queues, size, features);
        let mut status = [0; 4];
        self.transport.read(STATUS, &mut status);
        assert_eq!(u32::from_le_bytes(status), 15, "the device did not start");
    }

    /// What a driver does from reset to DRIVER_OK. The device may have its reasons not to start.
    pub fn set_up(&mut self, queues: usize, size: u16, features: u64) {
        for status in [0, 1, 3] {
            self.write(STATUS, status);
        }
        for page in [0, 1] {
            self.write(DRIVER_FEATURES_SEL, page);
            self.write(DRIVER_FEATURES, (features >> (32 * page)) as u32);
        }
        self.write(STATUS, 11);
        for queue in 0..queues as u32 {
            let base = queue * QUEUE_STRIDE as u32;
            self.write(QUEUE_SEL, queue);
            self.write(QUEUE_SIZE, size.into());
            self.write(QUEUE_DESC, base);
            self.write(QUEUE_DRIVER, base + AVAILABLE as u32);
            self.write(QUEUE_DEVICE, base + USED as u32);
            self.write(QUEUE_READY, 1);
        }
        self.write(STATUS, 15);
    }

    /// Writes a register.
    pub fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Fills memory from `start` on; what lies outside is left out.
    pub fn fill(&self, start: u64, bytes: &[u8]) {
        // A fill that ends at the region's border has filled all there is.
        let _ = self.memory.write_slice(bytes, GuestAddress(start));
    }

    /// The device, as the I/O thread holds it.
    pub fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another transport and its device in place of these.
    ///
    /// # Panics
    /// When what was saved cannot be restored, which is the finding.
    #[expect(clippy::expect_used, reason = "that is the finding")]
    pub fn restore(&mut self, device: D) {
        let state = self.transport.save();
        let device = Arc::new(Mutex::new(device));
        let shared: Arc<Mutex<dyn VirtioDevice>> = device.clone();
        let memory = self.memory.clone();
        let resources = TransportResources { device: shared, memory, interrupt: Box::new(NoWire) };
        self.transport = MmioTransport::restore(resources, &state).expect("what was saved can be restored");
        self.device = device;
    }

    /// Handles events until none of the queues asks for more.
    ///
    /// # Panics
    /// When the device never comes to rest.
    pub fn run(&self) {
        for _ in 0..WAKE_UPS_MAX {
            let mut device = self.device();
            let kicked: Vec<usize> = (0..device.kicks().len())
                .filter(|&queue| {
                    let kick = &device.kicks()[queue];
                    kick.read().is_ok_and(|count| kick.write(count).is_ok())
                })
                .collect();
            if device.backend().is_some() {
                let _ = device.handle(Event::Backend);
            }
            if kicked.is_empty() {
                return;
            }
            for queue in kicked {
                let _ = device.handle(Event::Kick(queue));
            }
        }
        panic!("the device never comes to rest");
    }
}
