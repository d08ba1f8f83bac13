//! The reset line of a keyboard controller (i8042): the port a PC guest writes to reboot. No keyboard.

use vm_superio::{I8042Device, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::BusDevice;

/// Ports 0x60 to 0x64.
pub const RESET_PORT_REGION_SIZE: u64 = 5;

/// Makes an eventfd readable when the guest asks for a reset.
pub struct ResetPort {
    controller: I8042Device<ResetLine>,
}

struct ResetLine(EventFd);

impl Trigger for ResetLine {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

impl ResetPort {
    /// `reset` is what the VMM waits on.
    #[must_use]
    pub fn new(reset: EventFd) -> Self {
        Self { controller: I8042Device::new(ResetLine(reset)) }
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
            // The eventfd's counter can only overflow when the VMM has ignored 2^64 - 2 resets.
            let _ = self.controller.write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let reset = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut port = ResetPort::new(reset.try_clone().unwrap());
        for (offset, data) in [(0u64, &[0xfe][..]), (4, &[0xff]), (4, &[0xfe, 0]), (u64::MAX, &[0xfe])] {
            port.write(offset, data);
        }
        assert!(reset.read().is_err());
        port.write(4, &[0xfe]);
        assert_eq!(reset.read().unwrap(), 1);
        let mut status = [0xff];
        port.read(4, &mut status);
        assert_eq!(status, [0], "a driver waits until the input buffer is empty");
    }
}
