//! The serial console (16550A at a port range) and where its output goes.
//!
//! The registers are `vm-superio`'s. Here: the sink that never makes a vCPU wait, saved state, the bus interface.

mod sink;
mod state;

use std::convert::Infallible;

use snapshot::Persist;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Registers};

pub use self::sink::SerialSink;
pub use self::state::{SerialRestoreError, SerialState};
use crate::{BusDevice, Interrupt};

/// Ports of one 16550A.
pub const SERIAL_REGION_SIZE: u64 = 8;

/// The serial port.
pub struct Serial {
    registers: Registers<Wire, NoEvents, SerialSink>,
}

/// The interrupt line as `vm-superio` wants it.
struct Wire(Box<dyn Interrupt>);

impl Trigger for Wire {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        // A console without interrupts is a slow console; nothing in the guest depends on it.
        let _ = self.0.trigger();
        Ok(())
    }
}

impl Serial {
    /// A port whose output goes to `sink`.
    #[must_use]
    pub fn new(interrupt: Box<dyn Interrupt>, sink: SerialSink) -> Self {
        Self { registers: Registers::new(Wire(interrupt), sink) }
    }

    /// Offers input to the guest; returns how much fitted into its FIFO.
    pub fn receive(&mut self, input: &[u8]) -> usize {
        self.registers.enqueue_raw_bytes(input).unwrap_or(0)
    }

    /// Writes out what waits for the end of its line. The VMM calls it before it exits.
    pub fn flush(&mut self) {
        self.registers.writer_mut().flush_line();
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers are bytes: a wider access means nothing to a 16550.
        match (u8::try_from(offset), data) {
            (Ok(offset), [byte]) => *byte = self.registers.read(offset),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), &[byte]) = (u8::try_from(offset), data) {
            // The sink does not fail, the wire does not fail, and a full loopback FIFO drops bytes as a UART does.
            let _ = self.registers.write(offset, byte);
        }
    }
}

impl Persist for Serial {
    type State = SerialState;
    type Resources<'a> = (Box<dyn Interrupt>, SerialSink);
    type Error = SerialRestoreError;

    fn save(&self) -> SerialState {
        SerialState::from(self.registers.state())
    }

    fn restore(
        (interrupt, sink): (Box<dyn Interrupt>, SerialSink),
        state: &SerialState,
    ) -> Result<Self, SerialRestoreError> {
        let registers = Registers::from_state(&state.registers()?, Wire(interrupt), NoEvents, sink)
            .map_err(|_| SerialRestoreError::Registers)?;
        Ok(Self { registers })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    fn port() -> (Serial, EventFd, std::io::PipeReader) {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let sink = SerialSink::fd(OwnedFd::from(writer));
        (Serial::new(Box::new(irq.try_clone().unwrap()), sink), irq, reader)
    }

    fn print(serial: &mut Serial, text: &str) {
        text.bytes().for_each(|byte| serial.write(DATA, &[byte]));
    }

    #[test]
    fn whole_lines_come_out_and_the_rest_on_flush() {
        let (mut serial, _irq, mut reader) = port();
        print(&mut serial, "one\ntwo");
        let mut text = [0; 4];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one\n");
        serial.flush();
        drop(serial);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "two");
    }

    #[test]
    fn a_full_pipe_never_blocks_the_guest() {
        let (mut serial, _irq, reader) = port();
        // More than any pipe of 64 KiB holds; this test hangs when a write waits.
        for _ in 0..4096 {
            print(&mut serial, "0123456789012345678901234567890\n");
        }
        drop(reader);
        print(&mut serial, "and one whose reader is gone\n");
    }

    #[test]
    fn input_raises_the_interrupt_and_is_read_back() {
        let (mut serial, irq, _reader) = port();
        serial.write(INTERRUPT_ENABLE, &[1]);
        assert_eq!(serial.receive(b"hi"), 2);
        assert_eq!(irq.read().unwrap(), 1);
        let mut byte = [0];
        serial.read(LINE_STATUS, &mut byte);
        assert_eq!(byte[0] & 1, 1);
        serial.read(DATA, &mut byte);
        assert_eq!(&byte, b"h");
    }

    #[test]
    fn wide_accesses_mean_nothing() {
        let (mut serial, _irq, _reader) = port();
        serial.write(DATA, b"ab");
        let mut data = [0; 4];
        serial.read(LINE_STATUS, &mut data);
        assert_eq!(data, [0xff; 4]);
        serial.write(u64::MAX, &[0]);
    }

    #[test]
    fn a_storm_of_accesses_leaves_a_port_that_prints() {
        let (mut serial, irq, mut reader) = port();
        for value in 0..=u8::MAX {
            for offset in (0..=16).chain([u64::MAX]) {
                serial.write(offset, &[value]);
                serial.write(offset, &[value; 8]);
                serial.read(offset, &mut [0]);
                serial.receive(&[value; 64]);
            }
        }
        let _ = irq.read();
        // As a driver sets it up again: no loopback, no divisor latch.
        for (register, value) in [(3, 3), (4, 0)] {
            serial.write(register, &[value]);
        }
        serial.flush();
        print(&mut serial, "still there\n");
        drop(serial);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert!(bytes.ends_with(b"still there\n"));
    }

    #[test]
    fn registers_survive_save_and_restore_and_a_hostile_fifo_does_not() {
        let (mut serial, irq, _reader) = port();
        serial.write(INTERRUPT_ENABLE, &[1]);
        serial.receive(b"typed");
        let state = serial.save();
        let wire = || Box::new(irq.try_clone().unwrap());
        let mut again = Serial::restore((wire(), SerialSink::null()), &state).unwrap();
        assert_eq!(again.save(), state);
        let mut byte = [0];
        again.read(DATA, &mut byte);
        assert_eq!(&byte, b"t");
        let hostile = SerialState { input: vec![0; 1000], ..state };
        assert!(Serial::restore((wire(), SerialSink::null()), &hostile).is_err());
    }
}
