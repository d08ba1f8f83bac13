//! What a sandbox writes its log with: cuts what comes into lines, and hands them to the writer or drops them. Never waits.
//!
//! A group has a rate and a share of what waits for the writer, so that one that prints a lot costs nobody else anything. What is
//! dropped is counted, and the stream says so with its next line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    time::Instant,
};

use guest_protocol::{LogChunk, LogFormat, LogSource};
use serde_json::json;

use super::{
    group::GroupName,
    segment::MAX_MESSAGE_LEN,
    share::{LINE_COST, Share},
    writer::Job,
};
use crate::functions::now_ms;

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

/// One sandbox's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) share: Arc<Share>,
    /// What was dropped and not said yet.
    lost_lines: AtomicU64,
    lost_bytes: AtomicU64,
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    lines: u64,
    bytes: u64,
}

/// Lines of a stream that came together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) stream: Arc<Stream>,
    pub(super) at_ms: u64,
    pub(super) text: Vec<u8>,
    /// Where each line ends.
    pub(super) ends: Vec<usize>,
    /// What is lost with it: its lines, and in place of the one that says what was dropped before, that.
    lost: Lost,
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

impl Stream {
    pub(super) fn new(id: StreamId, share: Arc<Share>) -> Self {
        Self { id, share, lost_lines: AtomicU64::new(0), lost_bytes: AtomicU64::new(0) }
    }

    /// Counts what is dropped.
    fn lose(&self, Lost { lines, bytes }: Lost) {
        self.lost_lines.fetch_add(lines, Ordering::Relaxed);
        self.lost_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much was dropped, and what says so, if something was.
    fn notice(&self) -> Option<(Lost, String)> {
        let lines = self.lost_lines.swap(0, Ordering::Relaxed);
        let bytes = self.lost_bytes.swap(0, Ordering::Relaxed);
        if lines == 0 {
            return None;
        }
        let lost = Lost { lines, bytes };
        let reason = "the function prints more than its log group may take, or the node has no room";
        let said = match self.id.format {
            LogFormat::Text => {
                format!("LOGS_DROPPED Lines: {lines}\tBytes: {bytes}\tReason: {reason}\n")
            }
            LogFormat::Json(_) => {
                let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let record = json!({ "droppedRecords": lines, "droppedBytes": bytes, "reason": reason });
                format!("{}\n", json!({ "time": time, "type": "platform.logsDropped", "record": record }))
            }
        };
        Some((lost, said))
    }
}

impl Batch {
    fn new(stream: &Arc<Stream>) -> Self {
        let at_ms = u64::try_from(now_ms()).unwrap_or(0);
        Self { stream: Arc::clone(stream), at_ms, text: Vec::new(), ends: Vec::new(), lost: Lost::default() }
    }

    fn push(&mut self, line: &[u8]) {
        self.add(line, Lost { lines: 1, bytes: line.len() as u64 });
    }

    /// Says what was dropped before, if something was.
    fn tell(&mut self) {
        if let Some((lost, said)) = self.stream.notice() {
            self.add(said.as_bytes(), lost);
        }
    }

    fn add(&mut self, line: &[u8], Lost { lines, bytes }: Lost) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
        self.lost.lines += lines;
        self.lost.bytes += bytes;
    }

    /// Counts it as dropped.
    pub(super) fn lose(&self) {
        self.stream.lose(self.lost);
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
            batch.tell();
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
            return self.stream.lose(Lost { lines: 1, bytes: line.len() as u64 });
        }
        if batch.ends.is_empty() {
            batch.tell();
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
        let lost = batch.lost;
        // A batch is bounded by what a guest says at once.
        let fits = of_group <= MAX_WAITING && of_all <= MAX_WAITING_IN_ALL;
        if !fits || self.writer.try_send(Job::Lines(batch)).is_err() {
            share.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.waiting.fetch_sub(cost, Ordering::Relaxed);
            self.stream.lose(lost);
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
    use std::sync::mpsc;

    use super::{super::share::BURST_S, *};

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
        source.stream.lose(Lost { lines: 3, bytes: 300 });
        source.flush();
        let said: serde_json::Value = serde_json::from_str(&sent(&jobs)[0]).unwrap();
        assert_eq!(
            (&said["type"], &said["record"]["droppedRecords"]),
            (&"platform.logsDropped".into(), &3.into())
        );
        source.flush();
        assert!(sent(&jobs).is_empty());
    }
}
