//! Which streams a segment has, and when: in memory for the one that grows, in a file beside every other one.
//!
//! The file is worth nothing without its segment, from which it is made again when it is missing or damaged.

use std::{collections::HashMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::segment::{MAGIC, Record, Scan};

/// A stream in one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// When its first event came, in whichever segment.
    pub(super) created_ms: u64,
    /// First and last event here.
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// When the last one was written.
    pub(super) kept_ms: u64,
    /// Bytes of its messages here.
    pub(super) bytes: u64,
    /// Where its first record is.
    pub(super) first_at: u64,
}

/// What a segment has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    /// By their numbers.
    pub(super) streams: Vec<Entry>,
    /// Times of events; the first is above the last when there are none.
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// Length of the segment's good part.
    pub(super) len: u64,
    #[serde(skip)]
    numbers: HashMap<String, u32>,
}

impl Table {
    /// Of an empty segment.
    pub(super) fn new() -> Self {
        let (streams, numbers) = (Vec::new(), HashMap::new());
        Self { streams, first_ms: u64::MAX, last_ms: 0, len: MAGIC.len() as u64, numbers }
    }

    /// The number of a stream that is in the segment.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Takes note of a record at `at`.
    pub(super) fn note(&mut self, at: u64, record: Record<'_>) {
        match record {
            Record::Stream { created_ms, name } => {
                // As many as a segment may have.
                self.numbers.insert(name.to_owned(), self.streams.len() as u32);
                self.streams.push(Entry {
                    name: name.to_owned(),
                    created_ms,
                    first_ms: u64::MAX,
                    last_ms: 0,
                    kept_ms: 0,
                    bytes: 0,
                    first_at: at,
                });
            }
            Record::Event { stream, at_ms, kept_ms, message } => {
                let Some(entry) = self.streams.get_mut(stream as usize) else { return };
                entry.first_ms = entry.first_ms.min(at_ms);
                entry.last_ms = entry.last_ms.max(at_ms);
                entry.kept_ms = entry.kept_ms.max(kept_ms);
                entry.bytes += message.len() as u64;
                self.first_ms = self.first_ms.min(at_ms);
                self.last_ms = self.last_ms.max(at_ms);
            }
        }
    }

    /// Reads it off a segment, up to its first record that is not whole.
    pub(super) fn of_segment(path: &Path) -> io::Result<Self> {
        let mut table = Self::new();
        let mut scan = Scan::open(path, 0, u64::MAX)?;
        while let Some((at, record)) = scan.next()? {
            table.note(at, record);
        }
        table.len = scan.at();
        Ok(table)
    }

    /// Writes it beside its segment. Not flushed: it is made again if it is lost.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let document = serde_json::to_vec(self)?;
        let head = format!("{:08x}\n", crc32fast::hash(&document));
        let new = path.with_extension("new");
        fs::write(&new, [head.into_bytes(), document].concat())?;
        fs::rename(&new, path)
    }

    /// Reads what was written; none if that is not whole.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let (head, document) = bytes.split_at_checked(9)?;
        let crc =
            std::str::from_utf8(head).ok().and_then(|head| u32::from_str_radix(head.trim_end(), 16).ok())?;
        if crc32fast::hash(document) != crc {
            return None;
        }
        serde_json::from_slice(document).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_what_its_segment_says_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (segment, index) = (dir.path().join("1.log"), dir.path().join("1.index"));
        let mut bytes = MAGIC.to_vec();
        Record::Stream { created_ms: 4, name: "a" }.encode(&mut bytes);
        for at_ms in [5, 9, 7] {
            Record::Event { stream: 0, at_ms, kept_ms: at_ms + 1, message: b"x\n" }.encode(&mut bytes);
        }
        fs::write(&segment, &bytes).unwrap();
        let table = Table::of_segment(&segment).unwrap();
        let entry = &table.streams[0];
        assert_eq!((entry.first_ms, entry.last_ms, entry.kept_ms, entry.bytes), (5, 9, 10, 6));
        assert_eq!((table.number("a"), table.number("b"), table.len), (Some(0), None, bytes.len() as u64));
        table.write(&index).unwrap();
        let read = Table::read(&index).unwrap();
        assert_eq!((&read.streams, read.len), (&table.streams, table.len));
        let written = fs::read(&index).unwrap();
        for at in 0..written.len() {
            let mut damaged = written.clone();
            damaged[at] ^= 1;
            fs::write(&index, &damaged).unwrap();
            assert!(Table::read(&index).is_none_or(|found| found.streams == table.streams), "byte {at}");
            fs::write(&index, &written[..at]).unwrap();
            assert_eq!(Table::read(&index), None, "cut at {at}");
        }
    }
}
