//! What the agent asks the gateway for and what it is answered: one packet each way, of fields at fixed places. No I/O.
//!
//! ```text
//!  request   "TBG2"  kind  slot      u32 each, least byte first; behind them, by kind:
//!            1 make                  a rate: bytes in a second (u64) and at once (u32); the slot is 0
//!            2 permit                reach (u32), then an address and a prefix's length (u32 each) as often as there are prefixes
//!            3 remove                nothing
//!            4 resolve               an address (u32); the slot is 0
//!  answer    'S' slot (u32)          a slot was made; the descriptor beside this is its tap
//!            'D'                     it is done
//!            'F' text                which step failed, and why
//! ```
//!
//! The gateway is root and reads what the agent wrote, so there is nothing to parse: a packet of another length, or a number
//! out of bounds, is refused whole. Where a guest may go is an [`Egress`].

mod egress;

use std::net::Ipv4Addr;

pub use egress::{Egress, EgressError, MAX_PREFIXES, Prefix, PrefixError, Prefixes};

/// Where the gateway listens.
pub const SOCKET: &str = "/run/tinderbox-gateway.sock";

/// Longest request, bytes.
pub const MAX_REQUEST_LEN: usize = HEAD_LEN + 4 + PREFIX_LEN * MAX_PREFIXES;

/// Longest answer, bytes; text beyond is cut off.
pub const MAX_ANSWER_LEN: usize = 512;

/// Numbers of slots: each has an address of its own in the gateway's pool, and comes back after all others.
pub const NUMBERS: u32 = 1 << 15;

/// Bytes in front of what differs by kind, and of one prefix.
const HEAD_LEN: usize = 12;
const PREFIX_LEN: usize = 8;

/// First bytes of a request: what it is, and in which version.
const MAGIC: [u8; 4] = *b"TBG2";

const MAKE: u32 = 1;
const PERMIT: u32 = 2;
const REMOVE: u32 = 3;
const RESOLVE: u32 = 4;

const NOWHERE: u32 = 0;
const INTERNET: u32 = 1;
const LISTED: u32 = 2;

const MADE: u8 = b'S';
const DONE: u8 = b'D';
const FAILED: u8 = b'F';

/// What is asked of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A slot that nobody has had, for a guest that may go nowhere yet.
    Make {
        /// How fast it may ever send and be sent to.
        rate: Rate,
    },
    /// What is behind a slot may go there, and nowhere else.
    Permit {
        /// Which.
        slot: u32,
        /// Where to.
        egress: Egress,
    },
    /// A slot is no longer needed: neither it nor any connection of it is left.
    Remove {
        /// Which.
        slot: u32,
    },
    /// Who answers when guests ask for names.
    Resolve {
        /// Its address.
        server: Ipv4Addr,
    },
}

/// What may pass a slot each way. What is beyond is dropped: a `vmm` that keeps to less by itself never meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// For ever. Not zero.
    pub bytes_per_second: u64,
    /// At once, beside a second's worth of the rate, when nothing did before: nftables counts bytes so. Not zero.
    pub burst_bytes: u32,
}

/// A packet that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Neither longer nor shorter will do.
    #[error("a request of {0} bytes")]
    Length(usize),
    /// Another protocol, or another version of this one.
    #[error("a request that does not begin with TBG2")]
    Magic,
    /// A kind that there is not.
    #[error("a request of kind {0}")]
    Kind(u32),
    /// A slot that there cannot be.
    #[error("slot {0}, not one below {NUMBERS}")]
    Slot(u32),
    /// A rate at which nothing passes.
    #[error("a rate of {} bytes in a second and {} at once", .0.bytes_per_second, .0.burst_bytes)]
    Rate(Rate),
    /// A reach that there is not, or one that goes with no such list.
    #[error("reach {0} with {1} prefixes")]
    Reach(u32, usize),
    /// One of the prefixes.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// All of them together.
    #[error(transparent)]
    Egress(#[from] EgressError),
}

impl Request {
    /// As it is sent.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        let (kind, slot, words) = match self {
            Self::Make { rate } => (MAKE, 0, rate.to_words().to_vec()),
            Self::Remove { slot } => (REMOVE, *slot, Vec::new()),
            Self::Resolve { server } => (RESOLVE, 0, vec![u32::from(*server)]),
            Self::Permit { slot, egress } => (PERMIT, *slot, reach(egress)),
        };
        let words = [kind, slot].into_iter().chain(words);
        MAGIC.into_iter().chain(words.flat_map(u32::to_le_bytes)).collect()
    }

    /// As it is received.
    ///
    /// # Errors
    /// Whatever is not exactly a request.
    pub fn from_packet(packet: &[u8]) -> Result<Self, RequestError> {
        let length = RequestError::Length(packet.len());
        let (words, []) = packet.as_chunks::<4>() else { return Err(length) };
        let [magic, rest @ ..] = words else { return Err(length) };
        if *magic != MAGIC {
            return Err(RequestError::Magic);
        }
        let words: Vec<u32> = rest.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let &[kind, slot, ref rest @ ..] = &words[..] else { return Err(length) };
        if slot >= NUMBERS {
            return Err(RequestError::Slot(slot));
        }
        match (kind, slot, rest) {
            (MAKE, 0, &[low, high, burst]) => Ok(Self::Make { rate: Rate::of_words([low, high, burst])? }),
            (REMOVE, _, []) => Ok(Self::Remove { slot }),
            (RESOLVE, 0, [server]) => Ok(Self::Resolve { server: Ipv4Addr::from(*server) }),
            (PERMIT, _, [reach, prefixes @ ..]) => {
                Ok(Self::Permit { slot, egress: reached(*reach, prefixes, length)? })
            }
            (MAKE | PERMIT | REMOVE | RESOLVE, ..) => Err(length),
            _ => Err(RequestError::Kind(kind)),
        }
    }
}

impl Rate {
    fn to_words(self) -> [u32; 3] {
        let Self { bytes_per_second, burst_bytes } = self;
        // Its halves.
        [bytes_per_second as u32, (bytes_per_second >> 32) as u32, burst_bytes]
    }

    fn of_words([low, high, burst_bytes]: [u32; 3]) -> Result<Self, RequestError> {
        let rate = Self { bytes_per_second: u64::from(high) << 32 | u64::from(low), burst_bytes };
        if rate.bytes_per_second == 0 || burst_bytes == 0 { Err(RequestError::Rate(rate)) } else { Ok(rate) }
    }
}

fn reach(egress: &Egress) -> Vec<u32> {
    match egress {
        Egress::Nowhere => vec![NOWHERE],
        Egress::Internet => vec![INTERNET],
        Egress::Only(prefixes) => {
            let words = prefixes.iter().flat_map(|prefix| [prefix.address().into(), prefix.len().into()]);
            [LISTED].into_iter().chain(words).collect()
        }
    }
}

fn reached(reach: u32, words: &[u32], length: RequestError) -> Result<Egress, RequestError> {
    let (pairs, []) = words.as_chunks::<2>() else { return Err(length) };
    match (reach, pairs) {
        (NOWHERE, []) => Ok(Egress::Nowhere),
        (INTERNET, []) => Ok(Egress::Internet),
        (LISTED, pairs) => {
            let prefix = |[address, len]: &[u32; 2]| {
                Prefix::new(Ipv4Addr::from(*address), u8::try_from(*len).unwrap_or(u8::MAX))
            };
            Ok(Egress::only(pairs.iter().map(prefix).collect::<Result<_, _>>()?)?)
        }
        (reach, pairs) => Err(RequestError::Reach(reach, pairs.len())),
    }
}

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is a slot. The descriptor beside this is its tap (`IFF_TAP | IFF_NO_PI`, not blocking); the slot is gone with the last
    /// copy of that.
    Made {
        /// Its number.
        slot: u32,
    },
    /// What was asked for is so.
    Done,
    /// It is not.
    Failed {
        /// The step that failed, and why.
        text: String,
    },
}

/// A packet that is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's answer of {0} bytes is none")]
pub struct AnswerError(pub usize);

impl Answer {
    /// As it is sent.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        match self {
            Self::Made { slot } => [&[MADE][..], &slot.to_le_bytes()].concat(),
            Self::Done => vec![DONE],
            Self::Failed { text } => {
                let mut packet = [&[FAILED], text.as_bytes()].concat();
                packet.truncate(MAX_ANSWER_LEN);
                packet
            }
        }
    }

    /// As it is received.
    ///
    /// # Errors
    /// Bytes that no gateway sends.
    pub fn from_packet(packet: &[u8]) -> Result<Self, AnswerError> {
        match packet {
            [MADE, slot @ ..] => {
                let slot = slot.try_into().map_err(|_| AnswerError(packet.len()))?;
                Ok(Self::Made { slot: u32::from_le_bytes(slot) })
            }
            [DONE] => Ok(Self::Done),
            [FAILED, text @ ..] => Ok(Self::Failed { text: String::from_utf8_lossy(text).into_owned() }),
            _ => Err(AnswerError(packet.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &[&str]) -> Egress {
        Egress::only(text.iter().map(|text| text.parse().expect("a prefix")).collect()).expect("a list")
    }

    fn requests() -> Vec<Request> {
        let many: Vec<String> = (0..MAX_PREFIXES).map(|number| format!("10.{number}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let permit = |egress| Request::Permit { slot: 7, egress };
        vec![
            Request::Make { rate: Rate { bytes_per_second: 10_000_000_000, burst_bytes: 7 } },
            Request::Make { rate: Rate { bytes_per_second: 1, burst_bytes: u32::MAX } },
            Request::Remove { slot: NUMBERS - 1 },
            Request::Resolve { server: Ipv4Addr::new(9, 9, 9, 9) },
            permit(Egress::Nowhere),
            permit(Egress::Internet),
            permit(listed(&["10.1.0.0/16", "192.0.2.7/32"])),
            permit(listed(&many)),
        ]
    }

    #[test]
    fn a_request_survives_the_wire() {
        for request in requests() {
            let packet = request.to_packet();
            assert!(packet.len() <= MAX_REQUEST_LEN);
            assert_eq!(Request::from_packet(&packet), Ok(request));
        }
    }

    #[test]
    fn only_an_exact_request_is_one() {
        for request in requests() {
            let packet = request.to_packet();
            for len in (0..packet.len()).filter(|len| (packet.len() - len) % PREFIX_LEN != 0) {
                assert!(Request::from_packet(&packet[..len]).is_err(), "{request:?} of {len} bytes");
            }
            assert!(Request::from_packet(&[&packet[..], &[0]].concat()).is_err());
            assert!(Request::from_packet(&[&packet[..], &[0; 4]].concat()).is_err());
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        let packet = |words: &[u32]| -> Vec<u8> {
            MAGIC.into_iter().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
        };
        for (words, problem) in [
            (&[0, 0][..], RequestError::Kind(0)),
            (&[5, 0], RequestError::Kind(5)),
            (&[REMOVE, NUMBERS], RequestError::Slot(NUMBERS)),
            (&[PERMIT, 1, 3], RequestError::Reach(3, 0)),
            (&[PERMIT, 1, INTERNET, 0, 0], RequestError::Reach(INTERNET, 1)),
            (&[PERMIT, 1, LISTED], EgressError::Empty.into()),
            (&[MAKE, 1], RequestError::Length(12)),
            (&[MAKE, 0], RequestError::Length(12)),
            (&[MAKE, 0, 0, 0, 1], RequestError::Rate(Rate { bytes_per_second: 0, burst_bytes: 1 })),
            (&[MAKE, 0, 1, 0, 0], RequestError::Rate(Rate { bytes_per_second: 1, burst_bytes: 0 })),
        ] {
            assert_eq!(Request::from_packet(&packet(words)), Err(problem));
        }
        for (address, len) in [(0x0a00_0000, 33), (0x0a00_0001, 8), (0x0a00_0000, 264)] {
            let refused = Request::from_packet(&packet(&[PERMIT, 1, LISTED, address, len]));
            assert!(matches!(refused, Err(RequestError::Prefix(_))), "{refused:?}");
        }
        assert_eq!(Request::from_packet(b"TBL1\x01\0\0\0\0\0\0\0"), Err(RequestError::Magic));
    }

    #[test]
    fn answers_survive_the_wire_and_long_ones_are_cut() {
        for answer in [Answer::Made { slot: 700 }, Answer::Done, Answer::Failed { text: "no: EBUSY".into() }]
        {
            assert_eq!(Answer::from_packet(&answer.to_packet()), Ok(answer));
        }
        let long = Answer::Failed { text: "x".repeat(MAX_ANSWER_LEN) };
        assert_eq!(long.to_packet().len(), MAX_ANSWER_LEN);
        for wrong in [&b""[..], b"S", b"S123", b"S12345", b"D1", b"X1234"] {
            assert_eq!(Answer::from_packet(wrong), Err(AnswerError(wrong.len())));
        }
    }
}
