//! How a guest ends itself: the ACPI power registers (sleep control, sleep status, reset; see `acpi`) on the port bus, called
//! by vCPU threads, and what they and the reset port set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::BusDevice;

use crate::acpi;

/// SLP_EN of the sleep control register, ACPI 6.5 §4.8.3.7.
const SLEEP_ENABLE: u8 = 1 << 5;
/// SLP_TYPx is bits 2 to 4.
const SLEEP_TYPE_SHIFT: u8 = 2;

/// Bytes that the registers take on the port bus.
pub(crate) const LEN: u64 = 3;

/// Whether the guest has asked for its end. Set on the thread of the vCPU that asks, which then runs no further: a guest that
/// does goes on to its last way to reset, a triple fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestEnd(Arc<AtomicBool>);

impl GuestEnd {
    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The registers.
pub(crate) struct PowerPorts {
    end: GuestEnd,
}

impl PowerPorts {
    pub(crate) fn new(end: GuestEnd) -> Self {
        Self { end }
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
            self.end.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(offset: u16, data: &[u8]) -> bool {
        let end = GuestEnd::default();
        PowerPorts::new(end.clone()).write(offset.into(), data);
        end.is_asked()
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
