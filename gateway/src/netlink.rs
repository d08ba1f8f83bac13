//! Messages to the kernel about networks and filters, and its answers: a message is a header, fixed fields, and attributes that
//! may hold others (netlink(7)). What is asked is done or refused when this returns.
//!
//! The dozen messages that this program sends are fewer lines than a library's use would be, and a library is more that has the right to.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Length, kind, flags, number, sender.
const HEADER_LEN: usize = 16;

/// Where the flags and the number are in a header.
const FLAGS_AT: usize = 6;
const NUMBER_AT: usize = 8;

/// Length and kind of an attribute; what follows begins at a multiple of this.
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// An answer repeats the question at most, and no question is longer.
const BUFFER_LEN: usize = 16 * 1024;

/// First and last message of a batch for one of netfilter's parts, `linux/netfilter/nfnetlink.h`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Something to be done.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Of a kind, with flags beside those that every request has, and its fixed fields.
    pub(crate) fn new(kind: u16, flags: libc::c_int, fields: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..FLAGS_AT].copy_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        bytes[FLAGS_AT..NUMBER_AT].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend(fields);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (ATTRIBUTE_HEADER_LEN + value.len()) as u16;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(ATTRIBUTE_HEADER_LEN), 0);
        self
    }

    /// Adds an attribute that is a name.
    pub(crate) fn with_name(self, kind: u16, name: &str) -> Self {
        self.with(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(crate) fn with_nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.bytes.len();
        self = fill(self.with(kind | libc::NLA_F_NESTED as u16, &[]));
        let len = (self.bytes.len() - begin) as u16;
        self.bytes[begin..begin + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Adds fixed fields within an attribute.
    pub(crate) fn with_fields(mut self, fields: &[u8]) -> Self {
        self.bytes.extend(fields);
        self
    }

    fn finish(mut self, flags: libc::c_int, number: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[FLAGS_AT] |= flags as u8;
        self.bytes[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&number.to_ne_bytes());
        self.bytes
    }
}

/// A socket to one part of the kernel, which acts in the network that it was opened in, wherever its owner goes.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    last: u32,
}

impl Netlink {
    /// To the routing part, or to netfilter.
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self, Errno> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self { socket, last: 0 })
    }

    /// Has one thing done.
    pub(crate) fn ask(&mut self, message: Message) -> Result<(), Errno> {
        let number = self.next();
        self.send(&message.finish(libc::NLM_F_ACK, number))?;
        self.hear(number, number)
    }

    /// Has all of it done by a part of netfilter, or nothing.
    pub(crate) fn ask_all(&mut self, part: u16, messages: Vec<Message>) -> Result<(), Errno> {
        // Family, version, and in network order the part.
        let [high, low] = part.to_be_bytes();
        let edge = |kind| Message::new(kind, 0, &[0, 0, high, low]);
        let mut bytes = edge(BATCH_BEGIN).finish(0, self.next());
        let first = self.last + 1;
        for message in messages {
            bytes.extend(message.finish(libc::NLM_F_ACK, self.next()));
        }
        let last = self.last;
        bytes.extend(edge(BATCH_END).finish(0, self.next()));
        self.send(&bytes)?;
        self.hear(first, last)
    }

    fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    /// Waits for the answers to these numbers; the first refusal is the result.
    fn hear(&self, first: u32, last: u32) -> Result<(), Errno> {
        let mut result = Ok(());
        let mut buffer = [0; BUFFER_LEN];
        loop {
            let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (number, outcome) in Answers(buffer.get(..len).unwrap_or_default()) {
                if outcome.is_err() && result.is_ok() {
                    result = outcome;
                }
                // Refusals of a batch as a whole bear the number of its first message.
                if number == last || (number.wrapping_add(1) == first && outcome.is_err()) {
                    return result;
                }
            }
        }
    }
}

/// What the kernel says of requests: their numbers, and whether they were done.
struct Answers<'a>(&'a [u8]);

impl Iterator for Answers<'_> {
    type Item = (u32, Result<(), Errno>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let len = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
            let message = self.0.get(..len).filter(|message| message.len() >= HEADER_LEN)?;
            self.0 = self.0.get(len.next_multiple_of(ATTRIBUTE_HEADER_LEN)..).unwrap_or_default();
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            // Whatever else comes is news, which nobody has asked for.
            if i32::from(kind) == libc::NLMSG_ERROR {
                let number = u32::from_ne_bytes(*message[NUMBER_AT..].first_chunk()?);
                let error = i32::from_ne_bytes(*message.get(HEADER_LEN..)?.first_chunk()?);
                let outcome = if error == 0 { Ok(()) } else { Err(Errno::from_raw(-error)) };
                return Some((number, outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_know_their_lengths() {
        let message = Message::new(1, libc::NLM_F_CREATE, &[9; 4])
            .with(2, &[7; 5])
            .with_nested(3, |inner| inner.with_name(4, "ab").with(5, &[]));
        let expected: &[&[u8]] = &[
            &[52, 0, 0, 0, 1, 0, 5, 4, 77, 0, 0, 0, 0, 0, 0, 0],
            &[9, 9, 9, 9],
            &[9, 0, 2, 0, 7, 7, 7, 7, 7, 0, 0, 0],
            &[16, 0, 3, 0x80, 7, 0, 4, 0, b'a', b'b', 0, 0, 4, 0, 5, 0],
        ];
        let mut expected = expected.concat();
        expected[0] = expected.len() as u8;
        assert_eq!(message.finish(libc::NLM_F_ACK, 77), expected);
    }

    #[test]
    fn answers_are_told_from_news_and_what_is_cut_off_is_none() {
        let answer = |number: u32, error: i32| {
            let message = Message::new(libc::NLMSG_ERROR as u16, 0, &error.to_ne_bytes());
            message.with_fields(&[0; 16]).finish(0, number)
        };
        let news = Message::new(16, 0, &[0; 16]).finish(0, 1);
        let bytes = [answer(1, 0), news, answer(2, -17)].concat();
        let heard: Vec<_> = Answers(&bytes).collect();
        assert_eq!(heard, [(1, Ok(())), (2, Err(Errno::EEXIST))]);
        for len in 0..bytes.len() {
            assert!(Answers(&bytes[..len]).count() <= 2);
        }
        assert_eq!(Answers(&[0; 64]).count(), 0);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let message =
            Message::new(libc::RTM_DELLINK, 0, &[0; 16]).with_name(libc::IFLA_IFNAME, "no-such-link");
        assert!(matches!(netlink.ask(message.clone()), Err(Errno::ENODEV | Errno::EPERM)));
        assert!(matches!(netlink.ask(message), Err(Errno::ENODEV | Errno::EPERM)));
    }
}
