//! Frames from either side: whatever the bytes and however they are cut, the reader yields messages or refuses, holds
//! no more than one frame, and what it yields encodes again.
#![no_main]

use std::fmt::Debug;

use guest_protocol::{FrameReader, GuestMessage, HostMessage, MAX_MESSAGE_LEN, encode};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (bytes, cut) = input;
    read::<GuestMessage>(&bytes, cut);
    read::<HostMessage>(&bytes, cut);
});

fn read<M: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8], cut: u8) {
    let mut reader = FrameReader::default();
    for piece in bytes.chunks(usize::from(cut).max(1)) {
        reader.push(piece);
        loop {
            match reader.next_message::<M>() {
                Ok(Some(message)) => check(&message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A message that was read has a frame of its own, from which it comes back.
fn check<M: Serialize + DeserializeOwned + PartialEq + Debug>(message: &M) {
    let frame = encode(message).expect("what was decoded is within the limits");
    assert!(frame.len() <= 4 + MAX_MESSAGE_LEN);
    let mut reader = FrameReader::default();
    reader.push(&frame);
    let again = reader.next_message::<M>().expect("our own frame").expect("a whole frame");
    assert_eq!(&again, message);
}
