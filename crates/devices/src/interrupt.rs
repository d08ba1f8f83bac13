//! How a device gets the guest's attention: the wire that the VMM provides, and the status bits of virtio-mmio.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::{fmt, io};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt wire. In the VMM it is an eventfd bound to an interrupt line.
pub trait Interrupt: Send + Sync {
    /// Asserts it once.
    ///
    /// # Errors
    /// When the wire is gone; devices treat that as a failure of the device.
    fn trigger(&self) -> io::Result<()>;
}

impl Interrupt for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}

/// The interrupt of one virtio-mmio device, shared by its transport (reads, acknowledges) and the device (raises).
pub struct DeviceInterrupt {
    /// InterruptStatus, virtio 1.3 §4.2.2.
    status: AtomicU32,
    /// DEVICE_NEEDS_RESET, virtio 1.3 §2.1.
    needs_reset: AtomicBool,
    wire: Box<dyn Interrupt>,
}

impl DeviceInterrupt {
    pub(crate) fn new(wire: Box<dyn Interrupt>) -> Self {
        Self { status: AtomicU32::new(0), needs_reset: AtomicBool::new(false), wire }
    }

    /// Says that used buffers wait.
    ///
    /// # Errors
    /// When the wire is gone.
    pub fn signal_used(&self) -> io::Result<()> {
        self.status.fetch_or(VIRTIO_MMIO_INT_VRING, Ordering::SeqCst);
        self.wire.trigger()
    }

    /// Says that the device met an error that only a reset ends, virtio 1.3 §2.1.2.
    pub fn signal_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.status.fetch_or(VIRTIO_MMIO_INT_CONFIG, Ordering::SeqCst);
        // A broken wire cannot be reported over itself; the status register still tells a driver that polls.
        let _ = self.wire.trigger();
    }

    /// Says that the configuration space changed.
    ///
    /// # Errors
    /// When the wire is gone.
    pub(crate) fn signal_config(&self) -> io::Result<()> {
        self.status.fetch_or(VIRTIO_MMIO_INT_CONFIG, Ordering::SeqCst);
        self.wire.trigger()
    }

    /// Asserts the wire again for a cause that the driver has not acknowledged. A driver that finds none does nothing.
    ///
    /// # Errors
    /// When the wire is gone.
    pub(crate) fn repeat(&self) -> io::Result<()> {
        if self.status() == 0 { Ok(()) } else { self.wire.trigger() }
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(crate) fn reset(&self) {
        self.set(0, false);
    }

    pub(crate) fn set(&self, status: u32, needs_reset: bool) {
        self.status.store(status, Ordering::SeqCst);
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
    }
}

impl fmt::Debug for DeviceInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, needs_reset, wire: _ } = self;
        f.debug_struct("DeviceInterrupt").field("status", status).field("needs_reset", needs_reset).finish()
    }
}
