//! The table `[events]`: what the queue of asynchronous calls may take, and how much of the node its deliveries have.

use serde::Deserialize;

use super::{
    ConfigError, Destination,
    buckets::RawBucket,
    destinations::{self, RawWebhook},
    value,
};

/// Most events that any queue holds: twice the 64 bytes or so that each has in the index on the disk are still nothing.
const MAX_COUNT: u64 = 10_000_000;

/// Most MiB that any queue takes of a disk.
const MAX_MIB: u64 = 1024 * 1024;

/// Most deliveries at a time: each may hold an event and an answer in memory, some 8 MiB.
const MAX_DELIVERIES: usize = 1000;

/// Longest queue file in MiB: what is left of it is written anew when its first lines are taken away.
const MAX_QUEUE_MIB: u64 = 64;

/// Bounds of asynchronous calls, checked.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    /// Events that wait, at most.
    pub(crate) max_count: u64,
    /// Bytes of those.
    pub(crate) max_bytes: u64,
    /// Deliveries at a time.
    pub(crate) max_deliveries: usize,
    /// Bytes of one queue file.
    pub(crate) queue_bytes: u64,
    /// What the ARNs of buckets and topics stand for.
    pub(crate) destinations: Vec<Destination>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEvents {
    max_count: u64,
    max_mib: u64,
    max_deliveries: usize,
    queue_mib: u64,
    buckets: Vec<RawBucket>,
    webhooks: Vec<RawWebhook>,
}

impl Default for RawEvents {
    fn default() -> Self {
        Self {
            max_count: 1_000_000,
            max_mib: 1024,
            max_deliveries: 32,
            queue_mib: 16,
            buckets: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

impl RawEvents {
    pub(super) fn check(self) -> Result<Events, ConfigError> {
        let Self { max_count, max_mib, max_deliveries, queue_mib, buckets, webhooks } = self;
        let within = |field, number: u64, most: u64| match (1..=most).contains(&number) {
            true => Ok(number),
            false => Err(value(field, format!("{number} is not between 1 and {most}"))),
        };
        within("events.max_deliveries", max_deliveries as u64, MAX_DELIVERIES as u64)?;
        Ok(Events {
            max_count: within("events.max_count", max_count, MAX_COUNT)?,
            max_bytes: within("events.max_mib", max_mib, MAX_MIB)? << 20,
            max_deliveries,
            queue_bytes: within("events.queue_mib", queue_mib, MAX_QUEUE_MIB)? << 20,
            destinations: destinations::check(buckets, webhooks)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_within_bounds() {
        let check = |text: &str| toml::from_str::<RawEvents>(text).unwrap().check();
        let events = check("").unwrap();
        assert_eq!((events.max_count, events.max_bytes, events.queue_bytes), (1_000_000, 1 << 30, 16 << 20));
        for (text, names) in [
            ("max_count = 0", "events.max_count"),
            ("max_mib = 10000000", "events.max_mib"),
            ("max_deliveries = 0", "events.max_deliveries"),
            ("queue_mib = 65", "events.queue_mib"),
        ] {
            assert!(check(text).unwrap_err().to_string().contains(names), "{text}");
        }
    }
}
