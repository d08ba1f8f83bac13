//! The reset line of a keyboard controller (i8042): the port a PC guest writes to reboot. No keyboard.

use std::convert::Infallible;

use vm_superio::{I8042Device, Trigger};

use crate::BusDevice;

/// Ports 0x60 to 0x64.
pub const RESET_PORT_REGION_SIZE: u64 = 5;

/// Tells when the guest asks for a reset.
pub struct ResetPort {
    controller: I8042Device<ResetLine>,
}

struct ResetLine(Box<dyn Fn() + Send>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

impl ResetPort {
    /// `reset` is called on the thread of the vCPU that asks.
    #[must_use]
    pub fn new(reset: impl Fn() + Send + 'static) -> Self {
        Self { controller: I8042Device::new(ResetLine(Box::new(reset))) }
    }
}

impl BusDevice for ResetPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.controller.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            // Only a reset could fail.
            let _ = self.controller.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let resets = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&resets);
        let mut port = ResetPort::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for (offset, data) in [(0u64, &[0xfe][..]), (4, &[0xff]), (4, &[0xfe, 0]), (u64::MAX, &[0xfe])] {
            port.write(offset, data);
        }
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        port.write(4, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
        let mut status = [0xff];
        port.read(4, &mut status);
        assert_eq!(status, [0], "a driver waits until the input buffer is empty");
    }
}
