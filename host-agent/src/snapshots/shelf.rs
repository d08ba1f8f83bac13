//! How much of the disk snapshots of runtimes may take: they are a cache, so there are few of them, and whatever else needs
//! the room has it.

use std::sync::Arc;

use super::{Snapshot, SnapshotStore};
use crate::disk::{Disk, DiskError};

/// Most snapshots of runtimes: a node has a handful of runtimes, and most of its functions the same few sizes of memory.
pub(crate) const MAX_SNAPSHOTS: usize = 8;

/// What they may take of the disk together, bytes. One of Python takes some 60 MiB, whatever its functions' memory: pages
/// that nothing has touched are holes.
const MAX_LEN: u64 = 2 << 30;

/// A snapshot as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    used_ms: i64,
    len: u64,
}

/// How many of `items`, the least recently used first, have to go so that the rest is within the bounds.
fn surplus(items: &[Item], (max_count, max_len): (usize, u64)) -> usize {
    let fits = |kept: &[Item]| {
        kept.len() <= max_count && kept.iter().map(|item| item.len).fold(0, u64::saturating_add) <= max_len
    };
    (0..items.len()).find(|gone| fits(&items[*gone..])).unwrap_or(items.len())
}

impl SnapshotStore {
    /// Deletes the least recently used snapshots of runtimes beyond the bounds; all when there are to be none.
    pub(crate) async fn shed(self: &Arc<Self>, max_count: usize) {
        let by_age = self.runtimes_by_age();
        let item = |snapshot: &Arc<Snapshot>| Item { used_ms: snapshot.used_ms(), len: snapshot.disk_len() };
        let items: Vec<_> = by_age.iter().map(item).collect();
        for snapshot in &by_age[..surplus(&items, (max_count, MAX_LEN))] {
            self.discard_now(snapshot).await;
        }
    }

    /// Finds room for `len` bytes; snapshots of runtimes make it, the least recently used first.
    ///
    /// # Errors
    /// [`DiskError::Full`] when there is none even without them.
    pub(crate) async fn make_room(self: &Arc<Self>, disk: &Disk, len: u64) -> Result<(), DiskError> {
        for oldest in self.runtimes_by_age() {
            match disk.check(len) {
                Err(DiskError::Full { .. }) => {}
                other => return other,
            }
            tracing::info!(owner = ?oldest.owner(), "a runtime's snapshot makes room on the disk");
            self.discard_now(&oldest).await;
        }
        disk.check(len)
    }

    fn runtimes_by_age(&self) -> Vec<Arc<Snapshot>> {
        let mut snapshots = self.of_runtimes();
        snapshots.sort_by_key(|snapshot| snapshot.used_ms());
        snapshots
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_most_recently_used_stay_as_far_as_they_fit(
            lens in prop::collection::vec(0..100u64, 0..20), max_count in 0..10usize, max_len in 0..400u64,
        ) {
            let items: Vec<_> = (0..).zip(&lens).map(|(used_ms, len)| Item { used_ms, len: *len }).collect();
            let gone = surplus(&items, (max_count, max_len));
            let sum = |items: &[Item]| items.iter().map(|item| item.len).sum::<u64>();
            prop_assert!(items.len() - gone <= max_count && sum(&items[gone..]) <= max_len);
            if gone > 0 {
                let one_more = &items[gone - 1..];
                prop_assert!(one_more.len() > max_count || sum(one_more) > max_len, "it could have stayed");
            }
        }
    }
}
