//! Buffers and lines, within their bounds.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::buffer::{Bounds, Buffer};
use super::*;

const BOUNDS: Bounds = Bounds { max_bytes: 1000, max_items: 4, timeout: Duration::from_secs(1) };

fn event(len: usize) -> Bytes {
    vec![b'x'; len].into()
}

#[test]
fn a_delivery_is_due_when_there_is_enough_or_its_time_is_up() {
    let now = Instant::now();
    let mut buffer = Buffer::new(BOUNDS);
    assert_eq!((buffer.due(now), buffer.take(now, "")), (None, None));
    buffer.push(event(10), now);
    assert_eq!(buffer.due(now), Some(now + BOUNDS.timeout));
    for _ in 1..BOUNDS.max_items {
        buffer.push(event(10), now);
    }
    assert_eq!(buffer.due(now), Some(now), "so many");
    assert_eq!(buffer.take(now, "").unwrap().len(), BOUNDS.max_items);
    buffer.push(event(990), now);
    assert_eq!(buffer.due(now), Some(now), "so much");
    assert_eq!(buffer.take(now, "").unwrap().len(), 1);
    assert_eq!(buffer.due(now), None);
}

#[test]
fn what_has_no_room_is_dropped_counted_and_told_of_first() {
    let now = Instant::now();
    let mut buffer = Buffer::new(BOUNDS);
    for _ in 0..100 {
        buffer.push(event(100), now);
    }
    let first = buffer.take(now, "then").unwrap();
    let told: Value = serde_json::from_slice(&first[0]).unwrap();
    assert_eq!((&told["type"], &told["time"]), (&"platform.logsDropped".into(), &"then".into()));
    let kept = first.len() - 1 + buffer.take(now, "").unwrap().len();
    assert_eq!(kept, 8, "two deliveries of as many as may be");
    assert_eq!(told["record"]["droppedRecords"], 100 - kept);
    assert_eq!(told["record"]["droppedBytes"], (100 - kept) * 100);
    assert_eq!(buffer.take(now, ""), None);
}

#[test]
fn an_init_that_prints_without_end_is_kept_up_to_a_bound() {
    let telemetry = Telemetry::new(LogFormat::Text);
    let mut tap = telemetry.tap(Category::Function);
    tap.write(&vec![b'x'; 10 * EARLY_LEN]);
    tap.write(&b"\n".repeat(EARLY_LEN));
    let hub = telemetry.0.borrow();
    assert!(hub.early_len <= EARLY_LEN && hub.early.len() < 2000, "{}", hub.early.len());
}
