//! Accesses of ports as a hostile guest makes them: the serial port takes them all, resets are counted only for the one command
//! that asks for one, and what is saved of the serial port in the middle of it can be restored and is the same.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use devices::{BusDevice, Interrupt, ResetPort, Serial, SerialSink};
use libfuzzer_sys::fuzz_target;
use snapshot::Persist;

/// Where the keyboard controller takes commands, and the one for a reset.
const COMMAND: u64 = 4;
const RESET: u8 = 0xfe;

struct NoWire;

impl Interrupt for NoWire {
    fn trigger(&self) -> std::io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut serial = Serial::new(Box::new(NoWire), SerialSink::null());
    let resets = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&resets);
    let mut controller = ResetPort::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut asked = 0;
    for &[action, offset, len, value] in input.as_chunks::<4>().0 {
        // Mostly a byte, as a driver's.
        let len = if len & 0xf0 == 0 { usize::from(len % 9) } else { 1 };
        let offset = if offset == u8::MAX { u64::MAX } else { u64::from(offset) };
        let mut data = [value; 8];
        match action % 6 {
            0 | 1 => serial.write(offset, &data[..len]),
            2 => serial.read(offset, &mut data[..len]),
            3 => assert!(serial.receive(&data[..len]) <= len),
            4 => {
                asked += u32::from(offset == COMMAND && len == 1 && value == RESET);
                controller.write(offset, &data[..len]);
                controller.read(offset, &mut data[..len]);
            }
            _ => {
                let state = serial.save();
                serial = Serial::restore((Box::new(NoWire), SerialSink::null()), &state)
                    .expect("what was saved can be restored");
                assert_eq!(serial.save(), state);
            }
        }
    }
    assert_eq!(resets.load(Ordering::Relaxed), asked);
});
