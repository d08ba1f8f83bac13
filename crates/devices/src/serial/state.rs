//! Saved form of the serial port's registers.

use serde::{Deserialize, Serialize};
use snapshot::SavedState;
use vm_superio::SerialState as Registers;

/// Depth of the input FIFO of a 16550A as `vm-superio` models it.
const FIFO_MAX: usize = 64;

/// A saved [`Serial`](super::Serial).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// Divisor latch, low byte.
    pub baud_divisor_low: u8,
    /// Divisor latch, high byte.
    pub baud_divisor_high: u8,
    /// IER.
    pub interrupt_enable: u8,
    /// IIR.
    pub interrupt_identification: u8,
    /// LCR.
    pub line_control: u8,
    /// LSR.
    pub line_status: u8,
    /// MCR.
    pub modem_control: u8,
    /// MSR.
    pub modem_status: u8,
    /// SCR.
    pub scratch: u8,
    /// Received bytes that the guest has not read.
    pub input: Vec<u8>,
}

impl SavedState for SerialState {
    const NAME: &'static str = "serial";
    const VERSION: u32 = 1;
}

/// Why a saved serial port was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialRestoreError {
    /// More input than the FIFO holds.
    #[error("{0} bytes of serial input do not fit the FIFO")]
    Input(usize),
    /// The registers contradict each other.
    #[error("serial registers are not valid")]
    Registers,
}

impl From<Registers> for SerialState {
    fn from(registers: Registers) -> Self {
        let Registers {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = registers;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            input: in_buffer,
        }
    }
}

impl SerialState {
    pub(super) fn registers(&self) -> Result<Registers, SerialRestoreError> {
        if self.input.len() > FIFO_MAX {
            return Err(SerialRestoreError::Input(self.input.len()));
        }
        Ok(Registers {
            baud_divisor_low: self.baud_divisor_low,
            baud_divisor_high: self.baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.input.clone(),
        })
    }
}
