//! A segment: a file of records that only grows.
//!
//! ```text
//! magic (8) ─ record*          record: length u32 │ crc32 of the payload u32 │ payload
//! payload of a stream: 1 │ created, ms u64 │ name             its number is how many came before it
//! payload of an event: 2 │ stream u32 │ at, ms u64 │ kept, ms u64 │ message
//! ```
//!
//! A record that was being written when the agent ended fails its checksum: the segment ends before it. Nobody looks for records
//! behind that, and records are told by length alone, so no message of a function's is ever taken for one.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    path::Path,
};

/// First bytes of a segment; the last one is its version.
pub(super) const MAGIC: [u8; 8] = *b"tb-logs\x01";

/// Longest message of an event: AWS's 1 MiB.
pub(crate) const MAX_MESSAGE_LEN: usize = 1024 * 1024;

const HEAD_LEN: usize = 8;
const MAX_PAYLOAD_LEN: usize = MAX_MESSAGE_LEN + 1024;
const STREAM: u8 = 1;
const EVENT: u8 = 2;

/// One read from a segment.
const READ_LEN: usize = 64 * 1024;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A stream that has events in this segment.
    Stream {
        /// When its first event came.
        created_ms: u64,
        /// Its name.
        name: &'a str,
    },
    /// A line.
    Event {
        /// Which of the segment's streams.
        stream: u32,
        /// When it was printed.
        at_ms: u64,
        /// When it was written.
        kept_ms: u64,
        /// It, with its newline.
        message: &'a [u8],
    },
}

impl Record<'_> {
    /// Appends the record's bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend([0; HEAD_LEN]);
        match self {
            Self::Stream { created_ms, name } => {
                out.push(STREAM);
                out.extend(created_ms.to_le_bytes());
                out.extend(name.as_bytes());
            }
            Self::Event { stream, at_ms, kept_ms, message } => {
                out.push(EVENT);
                out.extend(stream.to_le_bytes());
                out.extend(at_ms.to_le_bytes());
                out.extend(kept_ms.to_le_bytes());
                out.extend(*message);
            }
        }
        let payload = &out[begin + HEAD_LEN..];
        // Messages and names are bounded far below 4 GiB.
        let (len, crc) = (payload.len() as u32, crc32fast::hash(payload));
        out[begin..begin + 4].copy_from_slice(&len.to_le_bytes());
        out[begin + 4..begin + HEAD_LEN].copy_from_slice(&crc.to_le_bytes());
    }
}

fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let (kind, rest) = payload.split_first()?;
    match *kind {
        STREAM => {
            let (created, name) = rest.split_first_chunk()?;
            let name = std::str::from_utf8(name).ok()?;
            Some(Record::Stream { created_ms: u64::from_le_bytes(*created), name })
        }
        EVENT => {
            let (stream, rest) = rest.split_first_chunk()?;
            let (at, rest) = rest.split_first_chunk()?;
            let (kept, message) = rest.split_first_chunk()?;
            let (at_ms, kept_ms) = (u64::from_le_bytes(*at), u64::from_le_bytes(*kept));
            Some(Record::Event { stream: u32::from_le_bytes(*stream), at_ms, kept_ms, message })
        }
        _ => None,
    }
}

/// Reads a segment's records, one after another, in bounded memory.
#[derive(Debug)]
pub(super) struct Scan {
    file: BufReader<io::Take<File>>,
    at: u64,
    payload: Vec<u8>,
}

impl Scan {
    /// From `from`, where a record begins, to `end` at most.
    pub(super) fn open(path: &Path, from: u64, end: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0; MAGIC.len()];
        let has_magic = file.read_exact(&mut magic).is_ok() && magic == MAGIC;
        let at = from.max(MAGIC.len() as u64);
        file.seek(SeekFrom::Start(at))?;
        let len = if has_magic { end.saturating_sub(at) } else { 0 };
        let at = if has_magic { at } else { 0 };
        Ok(Self { file: BufReader::with_capacity(READ_LEN, file.take(len)), at, payload: Vec::new() })
    }

    /// Where the next record begins; after the last one, where the segment's good part ends.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next record and where it begins; none at the end, or where what follows is no whole record.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Record<'_>)>> {
        let mut head = [0; HEAD_LEN];
        if !read_all(&mut self.file, &mut head)? {
            return Ok(None);
        }
        let [a, b, c, d, crc @ ..] = head;
        let (len, crc) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes(crc));
        if len == 0 || len > MAX_PAYLOAD_LEN {
            return Ok(None);
        }
        self.payload.resize(len, 0);
        if !read_all(&mut self.file, &mut self.payload)? || crc32fast::hash(&self.payload) != crc {
            return Ok(None);
        }
        let begin = self.at;
        let record = decode(&self.payload);
        if record.is_some() {
            self.at += (HEAD_LEN + len) as u64;
        }
        Ok(record.map(|record| (begin, record)))
    }
}

/// Whether there was as much.
fn read_all(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> (Vec<(u64, Vec<u8>)>, u64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut scan = Scan::open(file.path(), 0, u64::MAX).unwrap();
        let mut messages = Vec::new();
        while let Some((at, record)) = scan.next().unwrap() {
            if let Record::Event { message, .. } = record {
                messages.push((at, message.to_vec()));
            }
        }
        (messages, scan.at())
    }

    fn segment(messages: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = MAGIC.to_vec();
        let mut ends = vec![bytes.len()];
        for message in messages {
            Record::Event { stream: 7, at_ms: 1, kept_ms: 2, message }.encode(&mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn whatever_of_a_tail_was_written_the_records_before_it_are_read(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..4)
        ) {
            let (bytes, ends) = segment(&messages);
            for cut in MAGIC.len()..=bytes.len() {
                let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
                let (found, end) = read(&bytes[..cut]);
                prop_assert_eq!(found.into_iter().map(|(_, message)| message).collect::<Vec<_>>(), &messages[..whole]);
                prop_assert_eq!(end, ends[whole] as u64);
            }
        }

        #[test]
        fn a_changed_byte_ends_the_segment_before_its_record(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..4), at in 0usize..60, by in 1u8..
        ) {
            let (mut bytes, ends) = segment(&messages);
            let at = MAGIC.len() + at % (bytes.len() - MAGIC.len());
            bytes[at] ^= by;
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            let (found, _) = read(&bytes);
            prop_assert_eq!(found.into_iter().map(|(_, message)| message).collect::<Vec<_>>(), &messages[..whole]);
        }
    }

    #[test]
    fn zeros_behind_the_last_record_are_none() {
        let (mut bytes, ends) = segment(&[b"a".to_vec()]);
        bytes.extend([0; 100]);
        assert_eq!(read(&bytes), (vec![(8, b"a".to_vec())], ends[1] as u64));
        assert_eq!(read(b"something"), (vec![], 0));
        assert_eq!(read(b""), (vec![], 0));
    }
}
