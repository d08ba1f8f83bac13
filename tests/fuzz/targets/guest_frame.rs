//! Frames that a guest sends: whatever the bytes and however they are cut, the reader yields messages or refuses, holds
//! no more than one frame, and what it yields encodes again.
#![no_main]

use guest_protocol::{FrameReader, GuestMessage, MAX_MESSAGE_LEN, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (bytes, cut) = input;
    let mut reader = FrameReader::default();
    for piece in bytes.chunks(usize::from(cut).max(1)) {
        reader.push(piece);
        loop {
            match reader.next_message::<GuestMessage>() {
                Ok(Some(message)) => check(&message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});

/// A message that was read has a frame of its own, from which it comes back.
fn check(message: &GuestMessage) {
    let frame = encode(message).expect("what was decoded is within the limits");
    assert!(frame.len() <= 4 + MAX_MESSAGE_LEN);
    let mut reader = FrameReader::default();
    reader.push(&frame);
    let again = reader.next_message::<GuestMessage>().expect("our own frame").expect("a whole frame");
    assert_eq!(&again, message);
}
