//! The virtio devices as the I/O thread sees them: one epoll instance with every device's descriptors, itself a
//! descriptor of the I/O thread's own epoll. Taking it out there is how devices stand still while a machine is paused.
//! And the same devices by kind, for saving.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::{Block, Event, MmioTransport, Net, VirtioDevice, Vsock};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::describe::describe;

/// Events taken at once; more wait for the next call.
const BATCH: usize = 16;
/// Log lines about failed devices. A guest that resets a device and breaks it again must not fill the host's log.
const MAX_COMPLAINTS: u32 = 16;
/// The low byte of an epoll token is the queue; this value is the backend. No device has 255 queues.
const BACKEND: u64 = 0xff;

pub(crate) type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// A virtio device in its slot.
pub(crate) struct Attached {
    pub(crate) kind: Kind,
    pub(crate) transport: Arc<Mutex<MmioTransport>>,
}

/// What kind of device, with what is needed to save it.
pub(crate) enum Kind {
    Block(Arc<Mutex<Block>>),
    Vsock(Arc<Mutex<Vsock>>),
    Net(Arc<Mutex<Net>>),
    /// Has no state of its own.
    Entropy,
}

/// A panic behind the lock ends the process (panic = abort); in tests the state behind it is still defined.
pub(crate) fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct DeviceSet {
    epoll: Epoll,
    devices: Vec<SharedDevice>,
    complaints_left: u32,
}

impl DeviceSet {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, devices: Vec::new(), complaints_left: MAX_COMPLAINTS })
    }

    /// Watches the descriptors of `device`.
    pub(super) fn add(&mut self, device: SharedDevice) -> io::Result<()> {
        let token = (self.devices.len() as u64) << 8;
        {
            let device = lock(&device);
            for (queue, kick) in (0..).zip(device.kicks()) {
                self.watch(kick.as_raw_fd(), token | queue)?;
            }
            if let Some(backend) = device.backend() {
                self.watch(backend.as_raw_fd(), token | BACKEND)?;
            }
        }
        self.devices.push(device);
        Ok(())
    }

    fn watch(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))
    }

    /// Lets every device that has something to do work once.
    pub(crate) fn dispatch(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = match self.epoll.wait(0, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in &events[..count] {
            let (index, what) = (event.data() >> 8, event.data() & 0xff);
            let what = if what == BACKEND { Event::Backend } else { Event::Kick(what as usize) };
            if let Some(device) = self.devices.get(index as usize) {
                let served = lock(device).handle(what);
                if let Err(error) = served
                    && let Some(left) = self.complaints_left.checked_sub(1)
                {
                    self.complaints_left = left;
                    eprintln!("vmm: device {index} stopped until the guest resets it: {}", describe(&error));
                }
            }
        }
        Ok(())
    }
}

impl AsRawFd for DeviceSet {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
