//! A group as it was at a moment, read without holding anybody up: segments only grow or go, and what goes meanwhile is as if it
//! had gone before.

use std::{io, path::PathBuf};

use super::{
    group::{Deleted, Group, index_in, segment_in},
    segment::Scan,
    table::{Entry, Table},
};

/// A place in a group's segments, between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Bytes before it.
    pub(crate) offset: u64,
}

impl Position {
    /// Before everything.
    pub(crate) const FIRST: Self = Self { segment: 0, offset: 0 };
    /// Behind everything.
    pub(crate) const LAST: Self = Self { segment: u64::MAX, offset: u64::MAX };
}

/// The group.
#[derive(Debug)]
pub(super) struct View {
    dir: PathBuf,
    parts: Vec<Part>,
    deleted: Vec<Deleted>,
    /// What is older is not shown.
    pub(super) oldest_ms: u64,
}

/// One of its segments.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) len: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// Of the one that grows.
    table: Option<Table>,
}

impl View {
    /// Of a group now.
    pub(super) fn of(group: &Group, oldest_ms: u64) -> Self {
        let sealed = group.sealed.iter().map(|sealed| Part {
            number: sealed.number,
            len: sealed.len,
            first_ms: sealed.first_ms,
            last_ms: sealed.last_ms,
            table: None,
        });
        let active = group.active.iter().map(|active| Part {
            number: active.number,
            len: active.table.len,
            first_ms: active.table.first_ms,
            last_ms: active.table.last_ms,
            table: Some(active.table.clone()),
        });
        let parts = sealed.chain(active).collect();
        Self { dir: group.dir.clone(), parts, deleted: group.kept.deleted.clone(), oldest_ms }
    }

    /// Its segments, the oldest first.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Behind its last record.
    pub(super) fn end(&self) -> Position {
        self.parts.last().map_or(Position::FIRST, |part| Position { segment: part.number, offset: part.len })
    }

    /// The streams of a segment by their numbers; none for those that were deleted. Nothing when it has gone meanwhile.
    pub(super) fn streams(&self, part: &Part) -> io::Result<Vec<Option<Entry>>> {
        let table = match &part.table {
            Some(table) => table.clone(),
            None => match Table::read(&index_in(&self.dir, part.number)) {
                Some(table) => table,
                None => {
                    gone(Table::of_segment(&segment_in(&self.dir, part.number)))?.unwrap_or_else(Table::new)
                }
            },
        };
        let is_deleted = |entry: &Entry| {
            let mut deleted = self.deleted.iter();
            deleted.any(|deleted| deleted.stream == entry.name && part.number < deleted.before)
        };
        Ok(table.streams.into_iter().map(|entry| (!is_deleted(&entry)).then_some(entry)).collect())
    }

    /// Reads a segment; nothing when it has gone meanwhile.
    pub(super) fn scan(&self, part: &Part, from: u64, end: u64) -> io::Result<Option<Scan>> {
        gone(Scan::open(&segment_in(&self.dir, part.number), from, end.min(part.len)))
    }
}

fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
