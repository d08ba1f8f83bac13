//! Entropy device, virtio 1.3 §5.4: fills buffers from the host kernel's random number generator.
//!
//! It has no state worth saving: its queue is in the transport's.

use std::io;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use crate::guest_io;
use crate::virtio::service::{Outcome, Served, come_back, new_kicks, serve};
use crate::{Activation, DeviceError, VirtioDevice};

/// Linux keeps one request in flight.
const QUEUE_SIZE: u16 = 16;
/// Bytes a request gets at most; a device may answer with less than asked, virtio 1.3 §5.4.6. Linux asks for 64.
const REQUEST_MAX: usize = 1024;
/// Requests a wake-up.
const WAKE_REQUESTS: usize = 16;

/// The entropy device.
#[derive(Debug)]
pub struct Rng {
    // Glue.
    kicks: Vec<EventFd>,
    // From DRIVER_OK to reset.
    active: Option<Activation>,
}

impl Rng {
    /// A device in reset.
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self { kicks: new_kicks(1)?, active: None })
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn reset(&mut self) {
        let Self { kicks: _, active } = self;
        *active = None;
    }

    fn activation(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let (Some(kick), Some(Activation { memory, queues, interrupt, .. })) =
            (self.kicks.first(), &mut self.active)
        else {
            return Ok(());
        };
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        let served = serve(queue, memory, interrupt, WAKE_REQUESTS, |buffers| {
            let mut bytes = [0; REQUEST_MAX];
            let wanted = buffers.writable.len().min(REQUEST_MAX);
            let bytes = bytes.get_mut(..wanted).unwrap_or_default();
            let count = guest_io::fill_random(bytes).map_err(DeviceError::Backend)?;
            let filled = buffers.writable.fill_from(bytes.get(..count).unwrap_or_default());
            Ok(Outcome::Used(u32::try_from(filled).unwrap_or(0)))
        })?;
        if served == Served::Partly {
            come_back(kick)?;
        }
        Ok(())
    }
}
