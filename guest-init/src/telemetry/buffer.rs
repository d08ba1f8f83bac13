//! What one subscriber has not been told yet: bounded, and delivered when there is enough of it or when its time is up. Pure
//! but for the clock's values that it is handed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::event::document;

/// What keeping an event takes beside its bytes.
const EVENT_OVERHEAD: usize = 64;

/// Most bytes that are delivered at once, whatever a subscriber wants: ten subscribers that do not listen, each with one delivery
/// under way and as much that waits twice, take 15 MiB of the guest's own memory.
const MAX_BATCH_LEN: usize = 512 * 1024;

/// So many deliveries' worth may wait while one is under way.
const WAITING_BATCHES: usize = 2;

/// When a subscriber wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// When so many bytes wait, …
    pub(super) max_bytes: usize,
    /// … or so many events, …
    pub(super) max_items: usize,
    /// … or one for so long.
    pub(super) timeout: Duration,
}

/// Events, oldest first.
pub(super) type Batch = VecDeque<Bytes>;

/// Events of one subscriber.
#[derive(Debug)]
pub(super) struct Buffer {
    bounds: Bounds,
    waiting: Batch,
    len: usize,
    since: Option<Instant>,
    dropped_records: u64,
    dropped_bytes: u64,
}

impl Buffer {
    pub(super) fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { max_bytes: bounds.max_bytes.min(MAX_BATCH_LEN), ..bounds };
        let (waiting, len, since) = (VecDeque::new(), 0, None);
        Self { bounds, waiting, len, since, dropped_records: 0, dropped_bytes: 0 }
    }

    /// Takes an event, or drops it.
    pub(super) fn push(&mut self, event: Bytes, now: Instant) {
        let len = event.len() + EVENT_OVERHEAD;
        let is_full = self.len + len > self.bounds.max_bytes * WAITING_BATCHES
            || self.waiting.len() >= self.bounds.max_items * WAITING_BATCHES;
        if is_full {
            self.lost(1, event.len());
            return;
        }
        self.len += len;
        self.waiting.push_back(event);
        self.since.get_or_insert(now);
    }

    /// So much will not be told.
    pub(super) fn lost(&mut self, records: usize, bytes: usize) {
        self.dropped_records = self.dropped_records.saturating_add(records as u64);
        self.dropped_bytes = self.dropped_bytes.saturating_add(bytes as u64);
    }

    /// When something is to be delivered; never when nothing waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let since = self.since?;
        let is_enough = self.len >= self.bounds.max_bytes || self.waiting.len() >= self.bounds.max_items;
        Some(if is_enough { now } else { since + self.bounds.timeout })
    }

    /// The next delivery; none when nothing waits. It begins with what was dropped before it.
    pub(super) fn take(&mut self, now: Instant, at: &str) -> Option<Batch> {
        self.since?;
        let mut batch = VecDeque::new();
        let mut len = 0;
        while let Some(event) = self.waiting.front() {
            let next = event.len() + EVENT_OVERHEAD;
            let fits = len + next <= self.bounds.max_bytes && batch.len() < self.bounds.max_items;
            if !fits && !batch.is_empty() {
                break;
            }
            len += next;
            batch.extend(self.waiting.pop_front());
        }
        self.len -= len;
        self.since = (!self.waiting.is_empty()).then_some(now);
        if self.dropped_records > 0 {
            let record = json!({
                "reason": "Consumer seems to have fallen behind as it has not acknowledged receipt of logs.",
                "droppedRecords": std::mem::take(&mut self.dropped_records),
                "droppedBytes": std::mem::take(&mut self.dropped_bytes),
            });
            batch.push_front(document(at, "platform.logsDropped", &record));
        }
        Some(batch)
    }
}
