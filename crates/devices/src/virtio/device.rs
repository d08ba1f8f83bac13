//! The contract between a virtio device, its transport and the VMM's I/O thread.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::service::consume;
use crate::{DeviceError, DeviceInterrupt, Memory};

/// Why the I/O thread calls a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The eventfd of this queue is readable.
    Kick(usize),
    /// The device's backend descriptor is readable.
    Backend,
}

/// What a device works with from DRIVER_OK to reset.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: Memory,
    /// All queues, set up and valid, in the order of [`VirtioDevice::queue_sizes`].
    pub queues: Vec<Queue>,
    /// Raises the device's interrupt.
    pub interrupt: Arc<DeviceInterrupt>,
    /// Feature bits that driver and device agreed on.
    pub features: u64,
}

/// A virtio device behind a transport.
///
/// The I/O thread registers every [`kicks`](Self::kicks) entry and [`backend`](Self::backend) with its epoll,
/// level-triggered, for reading, once; both sets are fixed for the device's life. When one is readable it calls
/// [`handle`](Self::handle), which does a bounded amount of work and leaves the descriptor readable when more waits.
pub trait VirtioDevice: Send {
    /// Device type, virtio 1.3 §5.
    fn device_id(&self) -> u32;

    /// Feature bits of the device type and of its queues; the transport adds its own.
    fn features(&self) -> u64;

    /// Largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads the device's configuration; past its end are zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Notification eventfds, one a queue, non-blocking. `vmm` binds number `n` to writes of `n` (4 bytes) at
    /// [`QUEUE_NOTIFY_OFFSET`](crate::QUEUE_NOTIFY_OFFSET).
    fn kicks(&self) -> &[EventFd];

    /// A descriptor that is readable when the host side wants the device's attention.
    fn backend(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Starts work; called at DRIVER_OK.
    fn activate(&mut self, activation: Activation);

    /// Forgets the driver: no guest memory is touched after this returns. Host resources that belong to the
    /// driver's doings (connections) are dropped.
    fn reset(&mut self);

    /// What [`activate`](Self::activate) gave, until [`reset`](Self::reset).
    fn activation(&self) -> Option<&Activation>;

    /// Takes in what made [`backend`](Self::backend) readable.
    ///
    /// # Errors
    /// When the host side failed: the device stops working.
    fn poll_backend(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Serves the queues of an active device, a bounded amount; does nothing when inactive.
    ///
    /// # Errors
    /// When the driver or the host side made going on impossible: the device stops working.
    fn process(&mut self) -> Result<(), DeviceError>;

    /// Queues of an active device as they stand, for saving; none when inactive.
    fn queues(&self) -> &[Queue] {
        self.activation().map_or(&[], |active| &active.queues)
    }

    /// Does what an event asks for; an event of an inactive device is consumed.
    ///
    /// # Errors
    /// When the device stopped working and asked the driver for a reset (DEVICE_NEEDS_RESET). Nothing is left to do
    /// for the caller but to log it.
    fn handle(&mut self, event: Event) -> Result<(), DeviceError> {
        let taken = match event {
            Event::Kick(index) => self.kicks().get(index).map_or(Ok(()), consume),
            Event::Backend => self.poll_backend(),
        };
        let result = taken.and_then(|()| self.process());
        if result.is_err()
            && let Some(active) = self.activation()
        {
            let interrupt = Arc::clone(&active.interrupt);
            self.reset();
            interrupt.signal_needs_reset();
        }
        result
    }
}

/// Reads from a configuration laid out as bytes; past its end are zeros.
pub(crate) fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
