//! Extended attributes of a layer's entries. Builders write them as PAX records before an entry (`SCHILY.xattr.NAME`), whose values are bytes
//! of any kind, line ends among them; what reads the tar takes a line's end for a record's. So they are taken out on the way to it, and
//! blanks are left in their place.
//!
//! `user.*` is kept: names and values of a program's own. The others (`security.*`, `trusted.*`, `system.*`) give rights on the machine that
//! mounts them, and are dropped: a function has none to be given.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{Error, ErrorKind, Read, Result},
    rc::Rc,
};

use tar::Header;

/// How a record of an attribute begins; its name follows.
pub(super) const RECORD: &str = "SCHILY.xattr.";

/// What the names begin with that are kept.
const KEPT: &str = "user.";

/// Names and values of an entry at most, in bytes: what ext4 keeps of a file, on which most images are built.
const MAX_LEN: usize = 4096;

/// Longest name, as Linux limits it.
const MAX_NAME_LEN: usize = 255;

/// Longest records before one entry: paths, times, and attributes that are dropped.
const MAX_RECORDS_LEN: u64 = 1024 * 1024;

/// What stands in an attribute's place: a record that nobody reads.
const BLANK: &[u8] = b"comment=";

const BLOCK: usize = 512;

/// Where a block of an old GNU sparse map says that another one follows.
const IS_EXTENDED: usize = 504;

/// Attributes by their names.
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;

/// Those of the entry whose header was read last.
pub(super) type Found = Rc<RefCell<Attributes>>;

/// A tar on its way to its reader, who asks for no more than a header, or what is left of an entry, at a time.
pub(super) struct Attributed<R> {
    from: R,
    /// Read, and not given on.
    ready: Vec<u8>,
    given: usize,
    part: Part,
    /// Of the next entry, by records.
    next: Attributes,
    next_len: Option<u64>,
    found: Found,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Part {
    Header,
    /// A block of an old GNU sparse map, and behind all of them so much.
    SparseMap(u64),
    Content(u64),
    /// Nothing that has attributes: the end, or what the reader stops at.
    Rest,
}

impl<R: Read> Attributed<R> {
    /// The reader's end, and where it finds attributes.
    pub(super) fn new(from: R) -> (Self, Found) {
        let found = Found::default();
        let own = Rc::clone(&found);
        let (ready, next) = (Vec::new(), Attributes::new());
        (Self { from, ready, given: 0, part: Part::Header, next, next_len: None, found: own }, found)
    }

    /// What it was read from.
    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// Reads as much as there is of so many bytes. Returns whether that is all of them.
    fn fill(&mut self, len: usize) -> Result<bool> {
        let begin = self.ready.len();
        (&mut self.from).take(len as u64).read_to_end(&mut self.ready)?;
        Ok(self.ready.len() - begin == len)
    }

    fn header(&mut self) -> Result<Part> {
        if !self.fill(BLOCK)? || self.ready.iter().all(|byte| *byte == 0) {
            return Ok(Part::Rest);
        }
        let header = Header::from_byte_slice(&self.ready);
        let (kind, is_known) =
            (header.entry_type(), header.as_ustar().is_some() || header.as_gnu().is_some());
        let is_extended = kind.is_gnu_sparse() && header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        let Ok(len) = header.entry_size() else { return Ok(Part::Rest) };
        let is_extension = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
        if is_known && kind.is_pax_local_extensions() {
            return self.records(len);
        }
        // As the reader has it: neither is said of what stands between the records and their entry.
        let len = if is_extension || kind.is_pax_global_extensions() {
            len
        } else {
            self.next_len.take().unwrap_or(len)
        };
        if !(is_known && is_extension) {
            *self.found.borrow_mut() = std::mem::take(&mut self.next);
            self.next_len = None;
        }
        let Some(len) = len.checked_next_multiple_of(BLOCK as u64) else { return Ok(Part::Rest) };
        Ok(if is_extended { Part::SparseMap(len) } else { content(len) })
    }

    fn records(&mut self, len: u64) -> Result<Part> {
        if len > MAX_RECORDS_LEN {
            return Err(invalid("records of an entry are longer than they may be"));
        }
        let len = usize::try_from(len).map_err(Error::other)?;
        if !self.fill(len.next_multiple_of(BLOCK))? {
            return Ok(Part::Rest);
        }
        (self.next, self.next_len) = take_records(&mut self.ready[BLOCK..BLOCK + len])?;
        Ok(Part::Header)
    }
}

impl<R: Read> Read for Attributed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.given == self.ready.len() {
            self.ready.clear();
            self.given = 0;
            match self.part {
                Part::Header => self.part = self.header()?,
                Part::SparseMap(len) => {
                    let is_whole = self.fill(BLOCK)?;
                    let is_last = is_whole && self.ready[IS_EXTENDED] == 0;
                    self.part = match (is_whole, is_last) {
                        (false, _) => Part::Rest,
                        (_, true) => content(len),
                        (_, false) => self.part,
                    };
                }
                Part::Content(left) => {
                    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let len = self.from.read(&mut buffer[..want])?;
                    self.part = if len == 0 && want > 0 { Part::Rest } else { content(left - len as u64) };
                    return Ok(len);
                }
                Part::Rest => return self.from.read(buffer),
            }
        }
        let len = buffer.len().min(self.ready.len() - self.given);
        buffer[..len].copy_from_slice(&self.ready[self.given..self.given + len]);
        self.given += len;
        Ok(len)
    }
}

fn content(len: u64) -> Part {
    if len == 0 { Part::Header } else { Part::Content(len) }
}

/// The attributes that are kept, and an entry's length if it is among the records; those of attributes are blank then.
fn take_records(mut records: &mut [u8]) -> Result<(Attributes, Option<u64>)> {
    let (mut attributes, mut len, mut sum) = (Attributes::new(), None, 0);
    // Some writers fill the last block up.
    while records.first().is_some_and(|byte| *byte != 0) {
        let (record, rest) = split_record(records)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..record.len() - 1]);
        if key == b"size" && len.is_none() {
            len = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        }
        if let Some(name) = key.strip_prefix(RECORD.as_bytes()) {
            if let Some(name) = kept(name) {
                sum += name.len() + value.len();
                if sum > MAX_LEN {
                    return Err(invalid("attributes of an entry are longer than they may be"));
                }
                attributes.insert(name.to_owned(), value.to_vec());
            }
            let end = record.len() - 1;
            record[..BLANK.len()].copy_from_slice(BLANK);
            record[BLANK.len()..end].fill(b' ');
        }
        records = rest;
    }
    Ok((attributes, len))
}

/// The first record without its length, with the line's end behind it; and what follows.
fn split_record(records: &mut [u8]) -> Result<(&mut [u8], &mut [u8])> {
    let digits = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let len = std::str::from_utf8(&records[..digits]).ok().and_then(|len| len.parse::<usize>().ok());
    let len = len.filter(|len| *len > digits + 1 && *len <= records.len()).ok_or_else(malformed)?;
    let (record, rest) = records.split_at_mut(len);
    let record = &mut record[digits + 1..];
    if record.ends_with(b"\n") { Ok((record, rest)) } else { Err(malformed()) }
}

fn kept(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let fits = name.len() > KEPT.len() && name.len() <= MAX_NAME_LEN && !name.contains('\0');
    (fits && name.starts_with(KEPT)).then_some(name)
}

fn malformed() -> Error {
    invalid("a record before an entry makes no sense")
}

fn invalid(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[path = "attributes_tests.rs"]
pub(super) mod tests;
