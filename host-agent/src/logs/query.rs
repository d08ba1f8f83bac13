//! Reading a group: events in order, a stream forwards and backwards, its streams. Each answer reads and holds no more than it may,
//! and says where the next one goes on.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::RangeInclusive,
};

use super::{
    pattern::Pattern,
    segment::Record,
    table::Entry,
    view::{Part, Position, View},
};

/// Bytes of messages in an answer: AWS's 1 MiB.
const MAX_ANSWER_LEN: usize = 1024 * 1024;

/// Bytes of segments that are read for one answer: a tenth of a second or so.
const MAX_SCANNED: u64 = 32 * 1024 * 1024;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its stream.
    pub(crate) stream: String,
    /// When it was printed.
    pub(crate) at_ms: u64,
    /// When it was written.
    pub(crate) kept_ms: u64,
    /// The line, with its newline.
    pub(crate) message: String,
    /// Where it is.
    pub(crate) position: Position,
}

/// Which streams are meant.
#[derive(Clone, Debug)]
pub(crate) enum Streams {
    /// All.
    All,
    /// Those that are named.
    Named(Vec<String>),
    /// Those whose names begin so.
    Prefixed(String),
}

impl Streams {
    fn mean(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|named| named == name),
            Self::Prefixed(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

/// Which events are meant.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// Of these streams.
    pub(crate) streams: Streams,
    /// Printed then.
    pub(crate) times: RangeInclusive<u64>,
    /// That match.
    pub(crate) pattern: Pattern,
    /// As many at most.
    pub(crate) limit: usize,
}

/// Some events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// In the order in which they were written.
    pub(crate) events: Vec<Found>,
    /// Where there may be more, if this is not all.
    pub(crate) next: Option<Position>,
    /// Where the first begins; without one, where the search began.
    pub(crate) begin: Position,
    /// Behind the last one; without one, where the search began.
    pub(crate) end: Position,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) kept_ms: u64,
}

/// The streams of a group, by name.
pub(super) fn streams(view: &View) -> io::Result<Vec<StreamInfo>> {
    let mut streams: BTreeMap<String, StreamInfo> = BTreeMap::new();
    for part in view.parts().iter().filter(|part| part.last_ms >= view.oldest_ms) {
        for entry in view.streams(part)?.into_iter().flatten().filter(|entry| entry.last_ms >= view.oldest_ms)
        {
            let Entry { name, created_ms, first_ms, last_ms, kept_ms, .. } = entry;
            let first_ms = first_ms.max(view.oldest_ms);
            let stream = StreamInfo { name: name.clone(), created_ms, first_ms, last_ms, kept_ms };
            let known = streams.entry(name).or_insert(stream);
            known.created_ms = known.created_ms.min(created_ms);
            known.first_ms = known.first_ms.min(first_ms);
            known.last_ms = known.last_ms.max(last_ms);
            known.kept_ms = known.kept_ms.max(kept_ms);
        }
    }
    Ok(streams.into_values().collect())
}

/// Whether a group has a stream.
pub(super) fn has_stream(view: &View, name: &str) -> io::Result<bool> {
    for part in view.parts().iter().rev().filter(|part| part.last_ms >= view.oldest_ms) {
        if view.streams(part)?.iter().flatten().any(|entry| entry.name == name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The events from a position on.
pub(super) fn forwards(view: &View, query: &Query, from: Position) -> io::Result<Page> {
    let mut page = Page { events: Vec::new(), next: None, begin: from, end: from };
    let (mut answered, mut scanned) = (0, 0);
    for part in view.parts().iter().filter(|part| part.number >= from.segment) {
        let Some(wanted) = Wanted::of(view, query, part)? else { continue };
        let offset = if part.number == from.segment { from.offset } else { 0 };
        let Some(mut scan) = view.scan(part, offset.max(wanted.begin), u64::MAX)? else { continue };
        let begun = scan.at();
        while let Some((offset, record)) = scan.next()? {
            let position = Position { segment: part.number, offset };
            if let Some(found) = wanted.take(position, record) {
                let is_full = page.events.len() >= query.limit
                    || answered + found.message.len() > MAX_ANSWER_LEN && !page.events.is_empty();
                if is_full {
                    page.next = Some(position);
                    return Ok(page);
                }
                answered += found.message.len();
                if page.events.is_empty() {
                    page.begin = position;
                }
                page.events.push(found);
                page.end = Position { segment: part.number, offset: scan.at() };
            }
            if scanned + (scan.at() - begun) > MAX_SCANNED {
                page.next = Some(Position { segment: part.number, offset: scan.at() });
                return Ok(page);
            }
        }
        scanned += scan.at() - begun;
    }
    Ok(page)
}

/// The last events before a position, in order. What is before them begins at `next`, if the search has not come to the beginning.
pub(super) fn backwards(view: &View, query: &Query, before: Position) -> io::Result<Page> {
    let before = before.min(view.end());
    let mut page = Page { events: Vec::new(), next: None, begin: before, end: before };
    let mut all: VecDeque<(Found, u64)> = VecDeque::new();
    let (mut answered, mut scanned) = (0, 0);
    for part in view.parts().iter().rev().filter(|part| part.number <= before.segment) {
        let Some(wanted) = Wanted::of(view, query, part)? else { continue };
        let end = if part.number == before.segment { before.offset } else { u64::MAX };
        let Some(mut scan) = view.scan(part, wanted.begin, end)? else { continue };
        let begun = scan.at();
        let mut here: VecDeque<(Found, u64)> = VecDeque::new();
        let mut len = 0;
        while let Some((offset, record)) = scan.next()? {
            let Some(found) = wanted.take(Position { segment: part.number, offset }, record) else {
                continue;
            };
            len += found.message.len();
            here.push_back((found, scan.at()));
            // Those that are nearest are wanted.
            while all.len() + here.len() > query.limit || (answered + len > MAX_ANSWER_LEN && here.len() > 1)
            {
                len -= here.pop_front().map_or(0, |(found, _)| found.message.len());
                page.next = Some(Position::FIRST);
            }
        }
        scanned += scan.at() - begun;
        if answered > 0 && answered + len > MAX_ANSWER_LEN {
            page.next = Some(Position::FIRST);
            break;
        }
        answered += len;
        here.append(&mut all);
        all = here;
        if page.next.is_some() || all.len() >= query.limit {
            break;
        }
        if scanned > MAX_SCANNED {
            page.next = Some(Position { segment: part.number, offset: 0 });
            break;
        }
    }
    if let (Some((first, _)), Some((last, end))) = (all.front(), all.back()) {
        page.begin = first.position;
        page.end = Position { segment: last.position.segment, offset: *end };
    } else if let Some(next) = page.next {
        page.begin = next;
    }
    page.events = all.into_iter().map(|(found, _)| found).collect();
    Ok(page)
}

/// What is wanted of one segment.
struct Wanted<'a> {
    query: &'a Query,
    /// By the streams' numbers, the names of those that are meant.
    names: Vec<Option<String>>,
    times: RangeInclusive<u64>,
    /// Before the first record that may be meant.
    begin: u64,
}

impl<'a> Wanted<'a> {
    /// Nothing if it has nothing that is meant.
    fn of(view: &View, query: &'a Query, part: &Part) -> io::Result<Option<Self>> {
        let times = *query.times.start().max(&view.oldest_ms)..=*query.times.end();
        if part.first_ms > *times.end() || part.last_ms < *times.start() {
            return Ok(None);
        }
        let mut begin = u64::MAX;
        let names = view.streams(part)?.into_iter().map(|entry| {
            let entry = entry.filter(|entry| query.streams.mean(&entry.name))?;
            begin = begin.min(entry.first_at);
            Some(entry.name)
        });
        let names: Vec<_> = names.collect();
        Ok((begin != u64::MAX).then_some(Self { query, names, times, begin }))
    }

    fn take(&self, position: Position, record: Record<'_>) -> Option<Found> {
        let Record::Event { stream, at_ms, kept_ms, message } = record else { return None };
        let name = self.names.get(stream as usize)?.as_ref()?;
        if !self.times.contains(&at_ms) {
            return None;
        }
        let message = String::from_utf8_lossy(message);
        if !self.query.pattern.matches(&message) {
            return None;
        }
        Some(Found { stream: name.clone(), at_ms, kept_ms, message: message.into_owned(), position })
    }
}
