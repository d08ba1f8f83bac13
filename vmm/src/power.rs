//! The ACPI power registers: sleep control, sleep status, reset (see `acpi`). On the port bus, called by vCPU threads.

use devices::BusDevice;
use vmm_sys_util::eventfd::EventFd;

use crate::acpi;

/// SLP_EN of the sleep control register, ACPI 6.5 §4.8.3.7.
const SLEEP_ENABLE: u8 = 1 << 5;
/// SLP_TYPx is bits 2 to 4.
const SLEEP_TYPE_SHIFT: u8 = 2;

/// Bytes that the registers take on the port bus.
pub(crate) const LEN: u64 = 3;

/// Tells the I/O thread that the guest wants to end.
pub(crate) struct PowerPorts {
    ended: EventFd,
}

impl PowerPorts {
    pub(crate) fn new(ended: EventFd) -> Self {
        Self { ended }
    }
}

impl BusDevice for PowerPorts {
    /// Nothing to report: there is no sleep to wake from.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let [value] = *data else { return };
        let off = SLEEP_ENABLE | (acpi::SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT);
        let ends = (offset == u64::from(acpi::SLEEP_CONTROL) && value == off)
            || (offset == u64::from(acpi::RESET) && value == acpi::RESET_VALUE);
        if ends {
            // Fails only when the counter is full, that is when the I/O thread has been told 2^64 - 2 times.
            let _ = self.ended.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn ends(offset: u16, data: &[u8]) -> bool {
        let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        PowerPorts::new(event.try_clone().expect("clone")).write(offset.into(), data);
        event.read().is_ok()
    }

    #[test]
    fn only_s5_and_the_reset_value_end_the_guest() {
        assert!(ends(acpi::SLEEP_CONTROL, &[0x34]));
        assert!(ends(acpi::RESET, &[1]));
        assert!(!ends(acpi::SLEEP_CONTROL, &[0x14]), "type without enable");
        assert!(!ends(acpi::SLEEP_CONTROL, &[0x2c]), "S3");
        assert!(!ends(acpi::SLEEP_STATUS, &[0x34]));
        assert!(!ends(acpi::RESET, &[0]));
        assert!(!ends(acpi::RESET, &[1, 1]));
    }
}
