//! What a sandbox writes its log with: cuts what comes into lines, and hands them to the writer or drops them. Never waits.
//!
//! A group has a rate and a share of what waits for the writer, so that one that prints a lot costs nobody else anything. What is
//! dropped is counted, and the stream says so with its next line.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    time::Instant,
};

use guest_protocol::{LogChunk, LogFormat, LogSource};
use serde_json::json;

use super::{group::GroupName, segment::MAX_MESSAGE_LEN, writer::Job};
use crate::functions::now_ms;

/// What a line costs beside its bytes: its record, and what is done for it.
const LINE_COST: u64 = 64;

/// Seconds of its rate that a group that was silent may print at once.
const BURST_S: u64 = 4;

/// What the platform's lines may take beyond a group's rate: they are few and short, and tell what became of an invocation.
const RESERVE: i64 = 64 * 1024;

/// Bytes of a group that wait for the writer.
const MAX_WAITING: usize = 2 * 1024 * 1024;

/// Bytes of all groups that do.
const MAX_WAITING_IN_ALL: usize = 16 * 1024 * 1024;

/// What is kept of a line, with room for the words that say how much more it was.
const MAX_LINE_LEN: usize = MAX_MESSAGE_LEN - 64;

/// Where a sandbox's lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamId {
    /// The group.
    pub(crate) group: GroupName,
    /// The stream: one for each sandbox.
    pub(crate) stream: String,
    /// How the platform's lines look.
    pub(crate) format: LogFormat,
}

/// What all sandboxes of a group have together.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) waiting: AtomicUsize,
    bucket: Mutex<Bucket>,
}

/// Bytes that may be printed: they come back with time.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    left: i64,
    at: Instant,
}

/// One sandbox's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) share: Arc<Share>,
    /// What was dropped and not said yet.
    lost_lines: AtomicU64,
    lost_bytes: AtomicU64,
}

/// Lines of a stream that came together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) stream: Arc<Stream>,
    pub(super) at_ms: u64,
    pub(super) text: Vec<u8>,
    /// Where each line ends.
    pub(super) ends: Vec<usize>,
}

/// A sandbox's end of the log.
#[derive(Debug)]
pub(crate) struct Source {
    stream: Arc<Stream>,
    writer: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    /// A line that has not come to its end.
    partial: Vec<u8>,
    /// Bytes of it that are not kept.
    cut: u64,
}

impl Share {
    /// With bytes a second.
    pub(super) fn new(rate: u64) -> Self {
        let left = i64::try_from(rate * BURST_S).unwrap_or(i64::MAX);
        Self { waiting: AtomicUsize::new(0), bucket: Mutex::new(Bucket { rate, left, at: Instant::now() }) }
    }

    fn admits(&self, source: LogSource, len: usize, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(source, len as u64 + LINE_COST, now)
    }
}

impl Bucket {
    fn take(&mut self, source: LogSource, cost: u64, now: Instant) -> bool {
        let passed_us = u64::try_from(now.saturating_duration_since(self.at).as_micros()).unwrap_or(u64::MAX);
        let back = i64::try_from(self.rate.saturating_mul(passed_us) / 1_000_000).unwrap_or(i64::MAX);
        if back > 0 {
            let most = i64::try_from(self.rate * BURST_S).unwrap_or(i64::MAX);
            (self.left, self.at) = (self.left.saturating_add(back).min(most), now);
        }
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        let least = match source {
            LogSource::Function => 0,
            LogSource::Platform => -RESERVE,
        };
        // A line may be longer than what a slow group is given at once: it waits until that is full.
        let enough = self.left - cost >= least || (self.left > 0 && cost > self.left && self.is_full());
        if enough {
            self.left -= cost;
        }
        enough
    }

    fn is_full(&self) -> bool {
        self.left >= i64::try_from(self.rate * BURST_S).unwrap_or(i64::MAX)
    }
}

impl Stream {
    pub(super) fn new(id: StreamId, share: Arc<Share>) -> Self {
        Self { id, share, lost_lines: AtomicU64::new(0), lost_bytes: AtomicU64::new(0) }
    }

    /// Counts what is dropped.
    pub(super) fn lose(&self, lines: usize, bytes: usize) {
        self.lost_lines.fetch_add(lines as u64, Ordering::Relaxed);
        self.lost_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What says how much was dropped, if something was.
    fn notice(&self) -> Option<String> {
        let lines = self.lost_lines.swap(0, Ordering::Relaxed);
        let bytes = self.lost_bytes.swap(0, Ordering::Relaxed);
        if lines == 0 {
            return None;
        }
        let reason = "the function prints more than its log group may take, or the node has no room";
        Some(match self.id.format {
            LogFormat::Text => {
                format!("LOGS_DROPPED Lines: {lines}\tBytes: {bytes}\tReason: {reason}\n")
            }
            LogFormat::Json(_) => {
                let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let record = json!({ "droppedRecords": lines, "droppedBytes": bytes, "reason": reason });
                format!("{}\n", json!({ "time": time, "type": "platform.logsDropped", "record": record }))
            }
        })
    }
}

impl Batch {
    fn new(stream: &Arc<Stream>) -> Self {
        let at_ms = u64::try_from(now_ms()).unwrap_or(0);
        Self { stream: Arc::clone(stream), at_ms, text: Vec::new(), ends: Vec::new() }
    }

    fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
    }

    /// What it has of the memory while it waits.
    pub(super) fn cost(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<usize>()
    }

    /// What it takes of the disk, about.
    pub(super) fn kept_len(&self) -> u64 {
        self.text.len() as u64 + self.ends.len() as u64 * LINE_COST
    }

    /// Its lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).filter_map(|(begin, end)| self.text.get(begin..*end))
    }
}

impl Source {
    pub(super) fn new(stream: Arc<Stream>, writer: SyncSender<Job>, waiting: Arc<AtomicUsize>) -> Self {
        Self { stream, writer, waiting, partial: Vec::new(), cut: 0 }
    }

    /// The stream's name.
    pub(crate) fn stream(&self) -> &str {
        &self.stream.id.stream
    }

    /// How the platform's lines look.
    pub(crate) fn format(&self) -> LogFormat {
        self.stream.id.format
    }

    /// Takes a piece. What the function had begun to print before the platform says something is a line.
    pub(crate) fn write(&mut self, chunk: &LogChunk) {
        let mut batch = Batch::new(&self.stream);
        let now = Instant::now();
        if chunk.source == LogSource::Platform {
            self.finish(&mut batch, now);
        }
        for piece in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
            match (chunk.source, piece) {
                // What stands between the platform's lines.
                (LogSource::Platform, b"\n") => {}
                (LogSource::Platform, _) => self.keep(&mut batch, chunk.source, piece, now),
                (LogSource::Function, [.., b'\n'])
                    if self.partial.is_empty() && piece.len() <= MAX_MESSAGE_LEN =>
                {
                    self.keep(&mut batch, chunk.source, piece, now);
                }
                (LogSource::Function, _) => {
                    let room = MAX_LINE_LEN.saturating_sub(self.partial.len()).min(piece.len());
                    self.partial.extend_from_slice(&piece[..room]);
                    self.cut += (piece.len() - room) as u64;
                    if piece.ends_with(b"\n") {
                        self.finish(&mut batch, now);
                    }
                }
            }
        }
        self.send(batch);
    }

    /// An invocation has ended: what was begun is a line, and what was dropped is said.
    pub(crate) fn flush(&mut self) {
        let mut batch = Batch::new(&self.stream);
        self.finish(&mut batch, Instant::now());
        if batch.ends.is_empty() {
            self.stream.notice().iter().for_each(|notice| batch.push(notice.as_bytes()));
        }
        self.send(batch);
    }

    fn finish(&mut self, batch: &mut Batch, now: Instant) {
        if self.partial.is_empty() {
            return;
        }
        let mut line = std::mem::take(&mut self.partial);
        if self.cut > 0 {
            line.extend(format!(" [cut here: {} bytes more]\n", std::mem::take(&mut self.cut)).bytes());
        }
        self.keep(batch, LogSource::Function, &line, now);
    }

    fn keep(&self, batch: &mut Batch, source: LogSource, line: &[u8], now: Instant) {
        let line = &line[..line.len().min(MAX_MESSAGE_LEN)];
        if !self.stream.share.admits(source, line.len(), now) {
            return self.stream.lose(1, line.len());
        }
        if batch.ends.is_empty() {
            self.stream.notice().iter().for_each(|notice| batch.push(notice.as_bytes()));
        }
        batch.push(line);
    }

    fn send(&self, batch: Batch) {
        if batch.ends.is_empty() {
            return;
        }
        let (cost, share) = (batch.cost(), &self.stream.share);
        let of_group = share.waiting.fetch_add(cost, Ordering::Relaxed) + cost;
        let of_all = self.waiting.fetch_add(cost, Ordering::Relaxed) + cost;
        let (lines, bytes) = (batch.ends.len(), batch.text.len());
        // A batch is bounded by what a guest says at once.
        let fits = of_group <= MAX_WAITING && of_all <= MAX_WAITING_IN_ALL;
        if !fits || self.writer.try_send(Job::Lines(batch)).is_err() {
            share.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.stream.lose(lines, bytes);
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    fn source(rate: u64, format: LogFormat) -> (Source, mpsc::Receiver<Job>) {
        let (writer, jobs) = mpsc::sync_channel(256);
        let group = GroupName { region: "r".into(), name: "g".into() };
        let id = StreamId { group, stream: "s".into(), format };
        let stream = Arc::new(Stream::new(id, Arc::new(Share::new(rate))));
        (Source::new(stream, writer, Arc::default()), jobs)
    }

    fn sent(jobs: &mpsc::Receiver<Job>) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(Job::Lines(batch)) = jobs.try_recv() {
            batch.stream.share.waiting.fetch_sub(batch.cost(), Ordering::Relaxed);
            lines.extend(batch.lines().map(|line| String::from_utf8_lossy(line).into_owned()));
        }
        lines
    }

    fn says(source: &mut Source, by: LogSource, text: &[u8]) {
        source.write(&LogChunk { source: by, bytes: text.to_vec() });
    }

    #[test]
    fn lines_are_put_together_and_end_where_the_platform_speaks() {
        let (mut source, jobs) = source(1 << 20, LogFormat::Text);
        for piece in ["a", "b\nc", "\n\nd"] {
            says(&mut source, LogSource::Function, piece.as_bytes());
        }
        says(&mut source, LogSource::Platform, b"END\n\nREPORT\n");
        says(&mut source, LogSource::Function, b"e");
        source.flush();
        assert_eq!(sent(&jobs), ["ab\n", "c\n", "\n", "d", "END\n", "REPORT\n", "e"]);
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let (mut source, jobs) = source(1 << 30, LogFormat::Text);
        for _ in 0..9 {
            says(&mut source, LogSource::Function, &vec![b'x'; 128 * 1024]);
        }
        assert!(source.partial.len() <= MAX_MESSAGE_LEN);
        says(&mut source, LogSource::Function, b"\nnext\n");
        let lines = sent(&jobs);
        assert!(lines[0].len() <= MAX_MESSAGE_LEN && lines[0].ends_with("x [cut here: 131137 bytes more]\n"));
        assert_eq!(lines[1], "next\n");
    }

    #[test]
    fn a_noisy_function_is_held_to_its_rate_and_told_what_it_lost() {
        let (mut source, jobs) = source(1000, LogFormat::Text);
        for _ in 0..100 {
            says(&mut source, LogSource::Function, &[[b'x'; 99].as_slice(), b"\n"].concat());
        }
        says(&mut source, LogSource::Platform, b"REPORT\n");
        let lines = sent(&jobs);
        let kept = lines.iter().filter(|line| line.starts_with('x')).count();
        assert!((24..40).contains(&kept), "a burst of {BURST_S} s and what came back meanwhile: {kept}");
        let [.., said, report] = &lines[..] else { panic!("{lines:?}") };
        assert!(said.starts_with(&format!("LOGS_DROPPED Lines: {}\t", 100 - kept)), "{said}");
        assert_eq!(report, "REPORT\n");
    }

    #[test]
    fn what_was_dropped_is_said_in_the_streams_format() {
        let (mut source, jobs) = source(1000, LogFormat::Json(guest_protocol::SystemLogLevel::Info));
        source.stream.lose(3, 300);
        source.flush();
        let said: serde_json::Value = serde_json::from_str(&sent(&jobs)[0]).unwrap();
        assert_eq!(
            (&said["type"], &said["record"]["droppedRecords"]),
            (&"platform.logsDropped".into(), &3.into())
        );
        source.flush();
        assert!(sent(&jobs).is_empty());
    }

    #[test]
    fn a_bucket_fills_with_time_and_the_platform_may_overdraw_it() {
        let begin = Instant::now();
        let mut bucket = Bucket { rate: 1000, left: 4000, at: begin };
        assert!(bucket.take(LogSource::Function, 4000, begin));
        assert!(!bucket.take(LogSource::Function, 1, begin));
        assert!(bucket.take(LogSource::Platform, 1000, begin));
        assert!(!bucket.take(LogSource::Platform, RESERVE as u64, begin));
        assert!(!bucket.take(LogSource::Function, 1, begin + Duration::from_secs(1)));
        assert!(bucket.take(LogSource::Function, 1000, begin + Duration::from_secs(2)));
        assert!(
            bucket.take(LogSource::Function, 5000, begin + Duration::from_secs(60)),
            "one that is longer"
        );
    }
}
