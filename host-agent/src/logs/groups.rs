//! All groups of a node, and what they may take of its disk together.
//!
//! Whoever has most gives way: when all groups together are at their bound, the largest loses its oldest segment, so that a function
//! that prints a lot forgets its own lines and nobody else's.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};

use super::{
    LogsError,
    group::{DAY_MS, Group, GroupName, Line},
    view::View,
};
use crate::{code::hex, sandbox::describe};

/// Groups of a node, at most: each is a folder.
pub(super) const MAX_GROUPS: usize = 1024;

/// Of those, groups that were made before they had a line: the others are left to functions.
pub(super) const MAX_MADE: usize = MAX_GROUPS / 2;

/// Streams whose entries are in memory, at most, of all segments that grow: some 200 bytes each.
const MAX_STREAMS: usize = 65_536;

/// Segments of a full group: what is forgotten at once is one of them.
const SEGMENTS: u64 = 16;

/// Of a folder that is being removed.
const GONE: &str = "gone";

/// What groups may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all.
    pub(crate) total: u64,
    /// Bytes of one.
    pub(crate) group: u64,
    /// Retention of those that have none of their own; none: as long as there is room.
    pub(crate) retention_days: Option<u32>,
}

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupInfo {
    pub(crate) id: GroupName,
    pub(crate) created_ms: u64,
    /// In force: its own, or the node's.
    pub(crate) retention_days: Option<u32>,
    pub(crate) stored_bytes: u64,
}

/// The groups.
#[derive(Debug)]
pub(super) struct Groups {
    dir: PathBuf,
    limits: Limits,
    groups: BTreeMap<GroupName, Group>,
}

impl Groups {
    /// Those in a directory, which is made when it does not exist. A group that cannot be read is left alone and not shown.
    pub(super) fn open(dir: PathBuf, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut groups = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == GONE) {
                fs::remove_dir_all(&path)?;
                continue;
            }
            match Group::open(path.clone()) {
                Ok(group) => drop(groups.insert(group.kept.id.clone(), group)),
                Err(error) => tracing::warn!("a log in {} cannot be read: {error}", path.display()),
            }
        }
        Ok(Self { dir, limits, groups })
    }

    /// Appends lines to a group, which is made when it does not exist. What has to go for that goes.
    pub(super) fn append(
        &mut self,
        id: &GroupName,
        lines: &[Line<'_>],
        now_ms: u64,
    ) -> Result<(), LogsError> {
        if !self.groups.contains_key(id) {
            self.begin(id, false, now_ms)?;
        }
        let segment_len = self.limits.group / SEGMENTS;
        if let Some(group) = self.groups.get_mut(id) {
            group.append(lines, segment_len, now_ms)?;
            while group.cost() > self.limits.group && group.drop_oldest()? {}
        }
        self.keep_within_bounds()
    }

    /// Makes a group that has no line yet, and stays without one: durable when this returns.
    pub(super) fn create(&mut self, id: &GroupName, now_ms: u64) -> Result<(), LogsError> {
        if self.groups.contains_key(id) {
            return Err(LogsError::GroupExists);
        }
        if self.groups.values().filter(|group| group.kept.is_made).count() >= MAX_MADE {
            return Err(LogsError::TooManyGroups);
        }
        self.begin(id, true, now_ms)
    }

    fn begin(&mut self, id: &GroupName, is_made: bool, now_ms: u64) -> Result<(), LogsError> {
        if self.groups.len() >= MAX_GROUPS {
            self.forget_empty()?;
        }
        let group = Group::create(self.dir.join(folder(id)), id.clone(), is_made, now_ms)?;
        File::open(&self.dir)?.sync_all()?;
        self.groups.insert(id.clone(), group);
        Ok(())
    }

    /// Makes room for a group: one goes all of whose lines are gone and of which nobody has said anything. Names of functions come
    /// and go.
    fn forget_empty(&mut self) -> Result<(), LogsError> {
        let is_empty =
            |group: &&Group| group.cost() == 0 && group.kept.retention_days.is_none() && !group.kept.is_made;
        let oldest = self.groups.values().filter(is_empty).min_by_key(|group| group.kept.created_ms);
        let id = oldest.map(|group| group.kept.id.clone()).ok_or(LogsError::TooManyGroups)?;
        self.delete(&id)
    }

    fn keep_within_bounds(&mut self) -> Result<(), LogsError> {
        let mut total: u64 = self.groups.values().map(Group::cost).sum();
        while total > self.limits.total {
            let largest = self.groups.values_mut().max_by_key(|group| group.cost());
            let Some(group) = largest else { break };
            let before = group.cost();
            if !group.drop_oldest()? {
                break;
            }
            total -= before - group.cost();
        }
        while self.groups.values().map(Group::streams_in_memory).sum::<usize>() > MAX_STREAMS {
            let Some(group) = self.groups.values_mut().max_by_key(|group| group.streams_in_memory()) else {
                break;
            };
            group.seal()?;
        }
        Ok(())
    }

    /// Removes what is older than it shall become.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for group in self.groups.values_mut() {
            let days = group.kept.retention_days.or(self.limits.retention_days);
            if let Err(error) = group.expire(oldest_ms(days, now_ms)) {
                tracing::warn!("old lines of {} are left: {error}", group.kept.id.name);
            }
        }
    }

    /// Handles of what is not flushed.
    pub(super) fn dirty(&mut self) -> Vec<File> {
        self.groups.values_mut().filter_map(Group::dirty).collect()
    }

    /// What a group has now, to be read while it grows.
    pub(super) fn view(&self, id: &GroupName, now_ms: u64) -> Result<View, LogsError> {
        let group = self.groups.get(id).ok_or(LogsError::NoGroup)?;
        Ok(View::of(group, oldest_ms(self.retention_days(group), now_ms)))
    }

    /// The groups of a region whose names are to be kept, by name, those behind `after`.
    pub(super) fn list(&self, region: &str, keep: impl Fn(&str) -> bool, after: &str) -> Vec<GroupInfo> {
        let of_region = self.groups.iter().filter(|(id, _)| id.region == region && id.name.as_str() > after);
        let kept = of_region.filter(|(id, _)| keep(&id.name));
        kept.map(|(id, group)| GroupInfo {
            id: id.clone(),
            created_ms: group.kept.created_ms,
            retention_days: self.retention_days(group),
            stored_bytes: group.len(),
        })
        .collect()
    }

    fn retention_days(&self, group: &Group) -> Option<u32> {
        group.kept.retention_days.or(self.limits.retention_days)
    }

    /// Changes a group's retention: durable when this returns.
    pub(super) fn set_retention(&mut self, id: &GroupName, days: Option<u32>) -> Result<(), LogsError> {
        Ok(self.group(id)?.set_retention(days)?)
    }

    /// Removes a group: durable when this returns.
    pub(super) fn delete(&mut self, id: &GroupName) -> Result<(), LogsError> {
        let dir = self.group(id)?.dir.clone();
        let gone = dir.with_extension(GONE);
        fs::rename(&dir, &gone)?;
        self.groups.remove(id);
        File::open(&self.dir)?.sync_all()?;
        if let Err(error) = fs::remove_dir_all(&gone) {
            tracing::warn!("{} is left: {}", gone.display(), describe(&error));
        }
        Ok(())
    }

    /// Removes a stream of a group: durable when this returns.
    pub(super) fn delete_stream(&mut self, id: &GroupName, stream: &str) -> Result<(), LogsError> {
        self.group(id)?.delete_stream(stream)
    }

    fn group(&mut self, id: &GroupName) -> Result<&mut Group, LogsError> {
        self.groups.get_mut(id).ok_or(LogsError::NoGroup)
    }
}

/// The folder of a group, whose name may be longer than a file's.
fn folder(id: &GroupName) -> String {
    let hash = Sha256::digest(format!("{}\0{}", id.region, id.name));
    hex(&hash)[..32].to_owned()
}

/// When what is as old as a retention was printed.
fn oldest_ms(retention_days: Option<u32>, now_ms: u64) -> u64 {
    retention_days.map_or(0, |days| now_ms.saturating_sub(u64::from(days) * DAY_MS))
}
