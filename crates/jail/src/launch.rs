//! What the agent asks the launcher for and what it is answered: one packet each way, of fields at fixed places. No I/O.
//!
//! ```text
//!  request   "TBL1"  memory_mib  cpu_weight  cpu_percent      u32 each, least byte first
//!            descriptors: the process's control socket, the pipe that is its standard error
//!  answer    'S' slot (u32)                                   descriptors: end, status, quota (see `Answer::Started`)
//!            'F' text                                         which step failed, and why
//! ```
//!
//! The launcher has capabilities and reads what the agent wrote, so there is nothing to parse: a packet of another length, or a
//! number out of bounds, is refused whole.

use std::fmt;

/// Where the launcher listens.
pub const SOCKET: &str = "/run/tinderbox-launcher.sock";

/// Bytes of a request.
pub const REQUEST_LEN: usize = 16;

/// Descriptors beside a request.
pub const REQUEST_FDS: usize = 2;

/// Descriptors beside the answer that a process was started; one less where no processors are counted.
pub const ANSWER_FDS: usize = 3;

/// Longest answer, bytes; text beyond is cut off.
pub const MAX_ANSWER_LEN: usize = 512;

/// First bytes of a request: what it is, and in which version.
const MAGIC: [u8; 4] = *b"TBL1";

const STARTED: u8 = b'S';
const FAILED: u8 = b'F';

/// Less memory than any machine takes.
pub const MIN_MEMORY_MIB: u32 = 32;

/// The largest function has 10,240 MiB; the rest is its machine's.
pub const MAX_MEMORY_MIB: u32 = 12 * 1024;

/// cgroup v2's own bound.
pub const MAX_CPU_WEIGHT: u32 = 10_000;

/// Six vCPUs, and as much again for who serves them.
pub const MAX_CPU_PERCENT: u32 = 1_200;

/// What a process may have of the node, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allotment {
    /// Memory of every kind that is charged to it, MiB.
    pub memory_mib: u32,
    /// Its part of the processors when there are not enough of them: 100 is what everything else has.
    pub cpu_weight: u32,
    /// What it may use when there are, at first: 100 is one processor.
    pub cpu_percent: u32,
}

/// A packet that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Neither longer nor shorter will do.
    #[error("a request of {0} bytes, not of {REQUEST_LEN}")]
    Length(usize),
    /// Another protocol, or another version of this one.
    #[error("a request that does not begin with TBL1")]
    Magic,
    /// A number that no sandbox has.
    #[error("{field} of {value}, not of {least} to {most}")]
    Bounds {
        /// Which.
        field: &'static str,
        /// What was asked for.
        value: u32,
        /// The lower bound.
        least: u32,
        /// The upper bound.
        most: u32,
    },
}

impl Allotment {
    /// As it is sent.
    #[must_use]
    pub fn to_request(self) -> [u8; REQUEST_LEN] {
        let mut packet = [0; REQUEST_LEN];
        let fields = [MAGIC, self.memory_mib.to_le_bytes(), self.cpu_weight.to_le_bytes()];
        let fields = fields.into_iter().chain([self.cpu_percent.to_le_bytes()]);
        for (place, field) in packet.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field);
        }
        packet
    }

    /// As it is received.
    ///
    /// # Errors
    /// Whatever is not exactly a request.
    pub fn from_request(packet: &[u8]) -> Result<Self, RequestError> {
        let packet: &[u8; REQUEST_LEN] = packet.try_into().map_err(|_| RequestError::Length(packet.len()))?;
        let (words, _) = packet.as_chunks::<4>();
        let [magic, memory, weight, percent] = *words else { return Err(RequestError::Length(packet.len())) };
        if magic != MAGIC {
            return Err(RequestError::Magic);
        }
        let bounded = |field, bytes, least, most| {
            let value = u32::from_le_bytes(bytes);
            let is_sane = (least..=most).contains(&value);
            is_sane.then_some(value).ok_or(RequestError::Bounds { field, value, least, most })
        };
        Ok(Self {
            memory_mib: bounded("memory", memory, MIN_MEMORY_MIB, MAX_MEMORY_MIB)?,
            cpu_weight: bounded("CPU weight", weight, 1, MAX_CPU_WEIGHT)?,
            cpu_percent: bounded("CPU quota", percent, 1, MAX_CPU_PERCENT)?,
        })
    }
}

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The program runs in its room. The first descriptor beside this ends it, whatever it is doing, when a `1` is written
    /// there; the second one is a pipe from which its wait status is read (an `i32`, least byte first) once it has ended and
    /// its memory is free, and nothing if the launcher ended before; to the third one another [`CpuQuota`](crate::CpuQuota) is
    /// written, in place of the one that it was started with.
    Started {
        /// Which of the reserved users it has; no other process of the node has it.
        slot: u32,
    },
    /// Nothing runs.
    Failed {
        /// The step that failed, and why.
        text: String,
    },
}

/// A packet that is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the launcher's answer of {0} bytes is none")]
pub struct AnswerError(pub usize);

impl Answer {
    /// As it is sent.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        match self {
            Self::Started { slot } => [&[STARTED][..], &slot.to_le_bytes()].concat(),
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
    /// Bytes that no launcher sends.
    pub fn from_packet(packet: &[u8]) -> Result<Self, AnswerError> {
        match packet {
            [STARTED, slot @ ..] => {
                let slot = slot.try_into().map_err(|_| AnswerError(packet.len()))?;
                Ok(Self::Started { slot: u32::from_le_bytes(slot) })
            }
            [FAILED, text @ ..] => Ok(Self::Failed { text: String::from_utf8_lossy(text).into_owned() }),
            _ => Err(AnswerError(packet.len())),
        }
    }
}

impl fmt::Display for Allotment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_mib, cpu_weight, cpu_percent } = self;
        write!(f, "{memory_mib} MiB, CPU weight {cpu_weight}, {cpu_percent} % of a CPU")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Allotment = Allotment { memory_mib: 264, cpu_weight: 8, cpu_percent: 200 };

    #[test]
    fn a_request_survives_the_wire() {
        assert_eq!(Allotment::from_request(&SOME.to_request()), Ok(SOME));
    }

    #[test]
    fn only_an_exact_request_is_one() {
        let packet = SOME.to_request();
        for len in (0..REQUEST_LEN).chain([REQUEST_LEN + 1, 4096]) {
            let mut other = packet.to_vec();
            other.resize(len, 0);
            assert_eq!(Allotment::from_request(&other), Err(RequestError::Length(len)));
        }
        for place in 0..4 {
            let mut other = packet;
            other[place] ^= 1;
            assert_eq!(Allotment::from_request(&other), Err(RequestError::Magic));
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for wrong in [
            Allotment { memory_mib: MIN_MEMORY_MIB - 1, ..SOME },
            Allotment { memory_mib: MAX_MEMORY_MIB + 1, ..SOME },
            Allotment { cpu_weight: 0, ..SOME },
            Allotment { cpu_weight: MAX_CPU_WEIGHT + 1, ..SOME },
            Allotment { cpu_percent: 0, ..SOME },
            Allotment { cpu_percent: u32::MAX, ..SOME },
        ] {
            let refused = Allotment::from_request(&wrong.to_request());
            assert!(matches!(refused, Err(RequestError::Bounds { .. })), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn answers_survive_the_wire_and_long_ones_are_cut() {
        for answer in [Answer::Started { slot: 70_000 }, Answer::Failed { text: "no room: EBUSY".into() }] {
            assert_eq!(Answer::from_packet(&answer.to_packet()), Ok(answer));
        }
        let long = Answer::Failed { text: "x".repeat(MAX_ANSWER_LEN) };
        assert_eq!(long.to_packet().len(), MAX_ANSWER_LEN);
        for wrong in [&b""[..], b"S", b"S123", b"S12345", b"X1234"] {
            assert_eq!(Answer::from_packet(wrong), Err(AnswerError(wrong.len())));
        }
    }
}
