//! One log group: a folder with its record and its segments, the last of which grows.
//!
//! ```text
//! logs/HASH/group.json         which group this is, its retention, streams that were deleted
//!           00000007.log       a segment; 00000007.index: its table, once it no longer grows
//! ```

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    LogsError,
    segment::{MAGIC, Record},
    table::Table,
};

/// Streams of one segment: its table is in memory while it grows.
const MAX_STREAMS: usize = 512;

/// Oldest first event of a segment that still grows: what is older than its group's retention goes by segments.
const MAX_SEGMENT_AGE_MS: u64 = DAY_MS;

/// What a stream counts for in a segment, beside its bytes: its entry in the table.
const STREAM_COST: u64 = 256;

/// What a segment counts for at least, as a file has blocks: who deletes streams again and again makes small ones.
const LEAST_COST: u64 = 4096;

/// Deleted streams whose events are still in segments: the record names each.
const MAX_DELETED: usize = 1000;

pub(super) const DAY_MS: u64 = 86_400_000;

const RECORD: &str = "group.json";

/// Which group: its name is unique in its region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct GroupName {
    /// Region of the functions that write to it.
    pub(crate) region: String,
    /// `/aws/lambda/NAME`, or as configured.
    pub(crate) name: String,
}

/// What is kept of a group beside its events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) id: GroupName,
    pub(super) created_ms: u64,
    /// None: the node's.
    pub(super) retention_days: Option<u32>,
    /// Somebody made it, before it had a line.
    #[serde(default)]
    pub(super) is_made: bool,
    #[serde(default)]
    pub(super) deleted: Vec<Deleted>,
}

/// A stream that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deleted {
    pub(super) stream: String,
    /// Its events in segments before this one are not shown.
    pub(super) before: u64,
}

/// A segment that no longer grows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) len: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    cost: u64,
}

/// The segment that grows.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) table: Table,
    file: File,
    /// Not flushed.
    is_dirty: bool,
    /// Half a write may lie behind its end: another one there could make records of its rest.
    is_broken: bool,
}

/// A line that shall be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) stream: &'a str,
    pub(super) at_ms: u64,
    pub(super) message: &'a [u8],
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) dir: PathBuf,
    pub(super) kept: Kept,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) active: Option<Active>,
    next: u64,
}

impl Group {
    /// A new one in `dir`, which is made.
    pub(super) fn create(dir: PathBuf, id: GroupName, is_made: bool, now_ms: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let kept = Kept { id, created_ms: now_ms, retention_days: None, is_made, deleted: Vec::new() };
        let group = Self { dir, kept, sealed: VecDeque::new(), active: None, next: 1 };
        group.write_record()?;
        Ok(group)
    }

    /// What an earlier agent left, however it ended: the last segment ends where its last whole record does.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let kept: Kept = serde_json::from_slice(&fs::read(dir.join(RECORD))?)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            match (extension, number) {
                (Some("new"), _) => fs::remove_file(&path)?,
                (Some("log"), Some(number)) => numbers.push(number),
                _ => {}
            }
        }
        numbers.sort_unstable();
        let last = numbers.last().copied();
        let next = last.map_or(1, |last: u64| last + 1);
        let mut group = Self { dir, kept, sealed: VecDeque::new(), active: None, next };
        for number in numbers {
            group.adopt(number, last == Some(number))?;
        }
        Ok(group)
    }

    fn adopt(&mut self, number: u64, is_last: bool) -> io::Result<()> {
        if let Some(table) = Table::read(&self.index(number)) {
            self.sealed.push_back(sealed(number, &table));
            return Ok(());
        }
        let path = self.segment(number);
        let table = Table::of_segment(&path)?;
        if table.len < MAGIC.len() as u64 {
            tracing::warn!("{} is no segment of a log and is removed", path.display());
            return fs::remove_file(path);
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.set_len(table.len)?;
        if is_last {
            self.active = Some(Active { number, table, file, is_dirty: true, is_broken: false });
        } else {
            table.write(&self.index(number))?;
            self.sealed.push_back(sealed(number, &table));
        }
        Ok(())
    }

    /// What it takes of the disk, about.
    pub(super) fn cost(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| cost(&active.table));
        self.sealed.iter().map(|segment| segment.cost).sum::<u64>() + active
    }

    /// Bytes of its events' records.
    pub(super) fn len(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.len).sum::<u64>()
            + self.active.as_ref().map_or(0, |active| active.table.len)
    }

    /// Appends lines, in as many segments of `segment_len` bytes as that takes. After a failure the lines up to some are kept, whole.
    pub(super) fn append(&mut self, lines: &[Line<'_>], segment_len: u64, now_ms: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut rest = lines;
        while !rest.is_empty() {
            self.seal_if_full(segment_len, now_ms)?;
            let active = match &mut self.active {
                Some(active) => active,
                None => self.begin()?,
            };
            bytes.clear();
            rest = active.take(rest, &mut bytes, segment_len, now_ms)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<&mut Active> {
        let path = self.segment(self.next);
        // Of a segment that an agent was about to remove when it ended: its number may come again, and its table is not this one's.
        remove(&self.index(self.next))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&MAGIC, 0)?;
        let (number, table) = (self.next, Table::new());
        self.next += 1;
        Ok(self.active.insert(Active { number, table, file, is_dirty: true, is_broken: false }))
    }

    fn seal_if_full(&mut self, segment_len: u64, now_ms: u64) -> io::Result<()> {
        let is_full = self.active.as_ref().is_some_and(|Active { table, is_broken, .. }| {
            *is_broken
                || table.len >= segment_len
                || table.streams.len() >= MAX_STREAMS
                || table.first_ms.saturating_add(MAX_SEGMENT_AGE_MS) < now_ms
        });
        if is_full { self.seal() } else { Ok(()) }
    }

    /// Lets the segment that grows grow no more.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        let Some(active) = self.active.take() else { return Ok(()) };
        self.sealed.push_back(sealed(active.number, &active.table));
        active.file.sync_data()?;
        active.table.write(&self.index(active.number))
    }

    /// Streams in the table that is in memory.
    pub(super) fn streams_in_memory(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.table.streams.len())
    }

    /// Removes its oldest segment; whether there was one.
    pub(super) fn drop_oldest(&mut self) -> io::Result<bool> {
        if self.sealed.is_empty() {
            self.seal()?;
        }
        let Some(segment) = self.sealed.pop_front() else { return Ok(false) };
        remove(&self.segment(segment.number))?;
        remove(&self.index(segment.number))?;
        Ok(true)
    }

    /// Removes segments all of whose events are older than that.
    pub(super) fn expire(&mut self, oldest_ms: u64) -> io::Result<()> {
        if self.active.as_ref().is_some_and(|active| active.table.last_ms < oldest_ms) {
            self.seal()?;
        }
        while self.sealed.front().is_some_and(|segment| segment.last_ms < oldest_ms) {
            self.drop_oldest()?;
        }
        Ok(())
    }

    /// A handle of what is not flushed.
    pub(super) fn dirty(&mut self) -> Option<File> {
        let active = self.active.as_mut().filter(|active| active.is_dirty)?;
        active.is_dirty = false;
        active.file.try_clone().ok()
    }

    /// Changes its retention: durable when this returns.
    pub(super) fn set_retention(&mut self, days: Option<u32>) -> io::Result<()> {
        let before = std::mem::replace(&mut self.kept.retention_days, days);
        self.write_record().inspect_err(|_| self.kept.retention_days = before)
    }

    /// Shows nothing of a stream any more that it has now: durable when this returns.
    pub(super) fn delete_stream(&mut self, stream: &str) -> Result<(), LogsError> {
        self.seal()?;
        let first = self.sealed.front().map_or(self.next, |segment| segment.number);
        let mut deleted = self.kept.deleted.clone();
        deleted.retain(|deleted| deleted.before > first && deleted.stream != stream);
        if deleted.len() >= MAX_DELETED {
            return Err(LogsError::TooManyDeleted);
        }
        deleted.push(Deleted { stream: stream.into(), before: self.next });
        let before = std::mem::replace(&mut self.kept.deleted, deleted);
        self.write_record().inspect_err(|_| self.kept.deleted = before)?;
        Ok(())
    }

    /// Where a segment is.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        segment_in(&self.dir, number)
    }

    fn index(&self, number: u64) -> PathBuf {
        index_in(&self.dir, number)
    }

    fn write_record(&self) -> io::Result<()> {
        let (path, new) = (self.dir.join(RECORD), self.dir.join("group.new"));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&self.kept)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.dir)?.sync_all()
    }
}

impl Active {
    /// Writes as many of the lines as fit, at once, and returns the others.
    fn take<'a, 'b>(
        &mut self,
        lines: &'a [Line<'b>],
        bytes: &mut Vec<u8>,
        segment_len: u64,
        now_ms: u64,
    ) -> io::Result<&'a [Line<'b>]> {
        let (mut taken, mut fresh) = (0, Vec::<(&Line<'_>, u64)>::new());
        let known = self.table.streams.len();
        for line in lines {
            let at = self.table.len + bytes.len() as u64;
            let found = fresh.iter().position(|(of, _)| of.stream == line.stream);
            // As many as a segment may have.
            let found = found.map(|place| (known + place) as u32).or_else(|| self.table.number(line.stream));
            let is_full = at >= segment_len || (found.is_none() && known + fresh.len() >= MAX_STREAMS);
            // One line at least: that the segment has room was seen to before.
            if is_full && taken > 0 {
                break;
            }
            let stream = found.unwrap_or_else(|| {
                Record::Stream { created_ms: line.at_ms, name: line.stream }.encode(bytes);
                fresh.push((line, at));
                (known + fresh.len() - 1) as u32
            });
            let Line { at_ms, message, .. } = *line;
            Record::Event { stream, at_ms, kept_ms: now_ms, message }.encode(bytes);
            taken += 1;
        }
        let begin = self.table.len;
        if let Err(error) = self.file.write_all_at(bytes, begin) {
            self.is_broken = self.file.set_len(begin).is_err();
            return Err(error);
        }
        for (line, at) in fresh {
            self.table.note(at, Record::Stream { created_ms: line.at_ms, name: line.stream });
        }
        for Line { stream, at_ms, message } in &lines[..taken] {
            let stream = self.table.number(stream).unwrap_or(u32::MAX);
            self.table.note(begin, Record::Event { stream, at_ms: *at_ms, kept_ms: now_ms, message });
        }
        self.table.len = begin + bytes.len() as u64;
        self.is_dirty = true;
        Ok(&lines[taken..])
    }
}

/// Where a segment of the group in `dir` is.
pub(super) fn segment_in(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// Where its table is.
pub(super) fn index_in(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.index"))
}

fn sealed(number: u64, table: &Table) -> Sealed {
    let Table { first_ms, last_ms, len, .. } = *table;
    Sealed { number, len, first_ms, last_ms, cost: cost(table) }
}

fn cost(table: &Table) -> u64 {
    (table.len + table.streams.len() as u64 * STREAM_COST).max(LEAST_COST)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
