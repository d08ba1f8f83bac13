//! Netlink, as much of it as guest-init speaks: a message to the kernel, its word that it is done, a list of what there is
//! (netlink(7)). Who says what is in `boot/network.rs` and `gate/connections.rs`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Length of a message's header, and what every part of a message is aligned to.
const HEADER_LEN: usize = 16;
const ALIGN: usize = 4;
/// What the kernel fills at once when it lists is no longer than this or a page (netlink(7)). Two pages: a clone waits for each.
const BUFFER_LEN: usize = 8 << 10;

/// Kinds of message of the protocol itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const LIST: u16 = 0x300;
/// Makes what a message describes; without it, it must be there.
pub const CREATE: u16 = 0x400;

/// A message being put together.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// One of this kind, which begins with the kind's own structure.
    #[must_use]
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        put(&mut bytes, 4, &kind.to_le_bytes());
        put(&mut bytes, 6, &flags.to_le_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    /// The same with an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(ALIGN + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        self
    }

    fn with(mut self, flags: u16) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let flags = flags | u16::from_le_bytes(field(&self.0, 6).unwrap_or_default());
        put(&mut self.0, 0, &len.to_le_bytes());
        put(&mut self.0, 6, &flags.to_le_bytes());
        self.0
    }
}

/// A conversation with one part of the kernel.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// # Errors
    /// When this kernel has no such part.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Has the kernel do what the message says, and waits until it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&self, message: Message) -> io::Result<()> {
        self.say(&message.with(REQUEST | ACKNOWLEDGE))?;
        self.hear(&mut |_| {})
    }

    /// Has it list what there is; `each` is given what follows each message's header.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(&self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.say(&message.with(REQUEST | LIST))?;
        self.hear(&mut each)
    }

    fn say(&self, bytes: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn hear(&self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(end) = answers(buffer.get(..len).unwrap_or_default(), each) {
                return end;
            }
        }
    }
}

/// Goes through the messages of an answer; how it ended, if it did.
fn answers(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    while let (Some(len), Some(kind)) = (field(bytes, 0), field(bytes, 4)) {
        let len = u32::from_le_bytes(len) as usize;
        let Some(body) = bytes.get(HEADER_LEN..len) else { break };
        match u16::from_le_bytes(kind) {
            ERROR | DONE => {
                // Zero, or an error number below it.
                let code = i32::from_le_bytes(field(body, 0).unwrap_or_default());
                return Some(if code >= 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) });
            }
            _ => each(body),
        }
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    None
}

/// The bytes at `at`, when there are so many.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(field) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_header_a_structure_and_attributes() {
        let message = Message::new(0x14, CREATE, &[1, 2, 3, 4]).attribute(2, &[5; 6]).with(REQUEST);
        let expected = [
            &[32, 0, 0, 0, 0x14, 0, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 10, 0, 2, 0][..],
            &[5, 5, 5, 5, 5, 5, 0, 0],
        ];
        assert_eq!(message, expected.concat());
    }

    fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = Message::new(kind, 0, body).with(0);
        message.resize(message.len().next_multiple_of(ALIGN), 0);
        message
    }

    fn heard(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Option<i32>>) {
        let mut bodies = Vec::new();
        let end = answers(bytes, &mut |body| bodies.push(body.to_vec()));
        (bodies, end.map(|end| end.err().and_then(|error| error.raw_os_error())))
    }

    #[test]
    fn answers_are_taken_apart_up_to_the_last() {
        let list = [answer(20, &[1; 5]), answer(20, &[2; 8])].concat();
        assert_eq!(heard(&list), (vec![vec![1; 5], vec![2; 8]], None));
        assert_eq!(heard(&[list, answer(DONE, &[0; 4])].concat()).1, Some(None));
        assert_eq!(heard(&answer(ERROR, &[0; 20])).1, Some(None));
        assert_eq!(heard(&answer(ERROR, &(-2i32).to_le_bytes())).1, Some(Some(libc::ENOENT)));
    }

    #[test]
    fn answers_that_are_cut_off_end_where_they_do() {
        let whole = answer(20, &[1; 8]);
        for len in 0..whole.len() {
            assert_eq!(heard(&whole[..len]), (vec![], None));
        }
        assert_eq!(heard(&[0; 16]), (vec![], None), "a length of nothing");
    }
}
