//! What a function and its platform print: the tail that an invoker may ask for, the lines that are kept (`crate::logs`), and bounded
//! lines for the node's own log.
//!
//! Bytes come from the guest and are only copied, cut and escaped here, never interpreted.

use std::collections::VecDeque;

use guest_protocol::{LogChunk, LogFormat, LogSource, timed_out_message};
use serde_json::json;

use super::SandboxId;
use crate::logs::Source;

/// `X-Amz-Log-Result` carries the last 4 KB.
pub(crate) const TAIL_LEN: usize = 4096;

/// Longest line in the node's log; longer ones are split. One screen, and well below what the journal takes.
const MAX_LINE_LEN: usize = 4096;

/// What one invocation may put into the node's log, so that a function which prints in a loop costs neither the
/// journal's space nor the agent's time. The tail is kept regardless.
const MAX_FORWARDED: usize = 256 * 1024;

/// Platform lines of one invocation in the node's log. guest-init writes about five; this many are a guest that is no
/// longer itself. They are counted apart, so that a REPORT is seen whatever the function printed before it.
const MAX_PLATFORM_LINES: usize = 64;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    /// Appends, forgetting what is older than [`TAIL_LEN`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_LEN)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_LEN);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The bytes; the tail is empty then.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).into()
    }

    /// A copy, as text.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}

/// Cuts a stream into lines and stops at a budget.
#[derive(Debug)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    budget: usize,
    dropped: usize,
}

impl Lines {
    /// Lines of at most `budget` bytes altogether.
    pub(crate) fn new(budget: usize) -> Self {
        Self { partial: Vec::new(), budget, dropped: 0 }
    }

    /// Appends bytes and hands each finished line to `emit`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        let taken = bytes.len().min(self.budget);
        self.budget -= taken;
        self.dropped += bytes.len() - taken;
        for piece in bytes[..taken].split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while self.partial.len() + piece.len() > MAX_LINE_LEN {
                let (head, rest) = piece.split_at(MAX_LINE_LEN - self.partial.len());
                self.partial.extend_from_slice(head);
                self.finish(&mut emit);
                piece = rest;
            }
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.finish(&mut emit);
            }
        }
    }

    /// Hands over an unfinished line and says how many bytes went over the budget.
    pub(crate) fn flush(&mut self, mut emit: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.finish(&mut emit);
        }
        if self.dropped > 0 {
            emit(&format!("({} more bytes are not kept)", self.dropped));
            self.dropped = 0;
        }
    }

    fn finish(&mut self, emit: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.partial);
        emit(text(&line).trim_end_matches(['\n', '\r']));
    }
}

/// Bytes as text of which the journal makes no more lines than it has: a line ends at a zero byte there, and the next one
/// would begin with the priority that the guest chose.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

/// Log of one sandbox.
#[derive(Debug)]
pub(crate) struct Logs {
    sandbox: SandboxId,
    function: String,
    tail: Tail,
    lines: Lines,
    platform_lines_left: usize,
    /// Where they are kept; nobody's are not.
    kept: Option<Source>,
}

impl Logs {
    /// The log of a function's sandbox. What init prints belongs to the first invocation.
    pub(crate) fn new(sandbox: SandboxId, function: String, kept: Option<Source>) -> Self {
        Self {
            sandbox,
            function,
            tail: Tail::default(),
            lines: Lines::new(MAX_FORWARDED),
            platform_lines_left: MAX_PLATFORM_LINES,
            kept,
        }
    }

    /// The guest sent a piece.
    pub(crate) fn write(&mut self, chunk: &LogChunk) {
        self.tail.push(&chunk.bytes);
        if let Some(kept) = &mut self.kept {
            kept.write(chunk);
        }
        let Self { sandbox, function, lines, platform_lines_left, .. } = self;
        match chunk.source {
            LogSource::Platform => {
                let text = text(&chunk.bytes[..chunk.bytes.len().min(MAX_LINE_LEN)]);
                for line in text.lines().take(*platform_lines_left) {
                    forward(*sandbox, function, line);
                    *platform_lines_left -= 1;
                }
            }
            LogSource::Function => lines.push(&chunk.bytes, |line| forward(*sandbox, function, line)),
        }
    }

    /// The stream that lines are kept in; nobody's has none.
    pub(crate) fn stream(&self) -> Option<&str> {
        self.kept.as_ref().map(Source::stream)
    }

    /// What the agent writes itself, because the guest no longer can: an invocation's time was up.
    pub(crate) fn timed_out(&mut self, request_id: &str, timeout_ms: u32) {
        match self.kept.as_ref().map(Source::format) {
            Some(LogFormat::Json(_)) => {
                let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let record = json!({ "requestId": request_id, "status": "timeout" });
                let line = json!({ "time": time, "type": "platform.runtimeDone", "record": record });
                self.platform(&line.to_string());
            }
            Some(LogFormat::Text) | None => {
                self.platform(&format!("{request_id} {}", timed_out_message(timeout_ms)));
            }
        }
    }

    fn platform(&mut self, line: &str) {
        self.write(&LogChunk { source: LogSource::Platform, bytes: format!("{line}\n").into_bytes() });
    }

    /// An invocation has ended: its tail, and a fresh budget for the next.
    pub(crate) fn end_invocation(&mut self) -> Vec<u8> {
        let Self { sandbox, function, lines, .. } = self;
        lines.flush(|line| forward(*sandbox, function, line));
        self.lines = Lines::new(MAX_FORWARDED);
        self.platform_lines_left = MAX_PLATFORM_LINES;
        if let Some(kept) = &mut self.kept {
            kept.flush();
        }
        self.tail.take()
    }
}

fn forward(sandbox: SandboxId, function: &str, line: &str) {
    tracing::info!(target: "function", %sandbox, function, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(budget: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::new(budget);
        for piece in pieces {
            lines.push(piece, |line| out.push(line.to_owned()));
        }
        lines.flush(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn the_tail_is_the_last_4096_bytes_however_they_arrive() {
        let all: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_le_bytes()).collect();
        for piece in [1, 7, 4095, 4096, 4097, 50_000] {
            let mut tail = Tail::default();
            all.chunks(piece).for_each(|bytes| tail.push(bytes));
            assert_eq!(tail.take(), all[all.len() - TAIL_LEN..], "pieces of {piece}");
            assert_eq!(tail.take(), b"");
        }
    }

    #[test]
    fn lines_are_joined_and_cut() {
        assert_eq!(lines(100, &[b"a", b"b\nc", b"\r\nd"]), ["ab", "c", "d"]);
        assert_eq!(lines(100, &[b"a\0<2>b\n"]), ["a\u{fffd}<2>b"], "no line of its own in the journal");
        let long = vec![b'x'; MAX_LINE_LEN + 1];
        let cut = lines(10_000, &[&long]);
        assert_eq!((cut[0].len(), cut[1].len()), (MAX_LINE_LEN, 1));
    }

    #[test]
    fn the_budget_holds_and_says_so() {
        assert_eq!(lines(4, &[b"one\ntwo\n", b"three\n"]), ["one", "(10 more bytes are not kept)"]);
    }

    #[test]
    fn a_tail_belongs_to_its_invocation() {
        let mut logs = Logs::new(SandboxId(1), "f".into(), None);
        logs.write(&LogChunk { source: LogSource::Function, bytes: b"init\n".to_vec() });
        logs.platform("START");
        assert_eq!(logs.end_invocation(), b"init\nSTART\n");
        assert_eq!(logs.end_invocation(), b"");
    }
}
