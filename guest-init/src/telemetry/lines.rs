//! What a process prints, cut into lines.

use super::{Category, Telemetry};

/// Longest line that is told in one piece, bytes: what a pipe holds by default.
const MAX_LINE_LEN: usize = 64 * 1024;

/// Takes what one process prints.
pub struct Tap {
    telemetry: Telemetry,
    category: Category,
    begun: Vec<u8>,
}

impl Tap {
    pub(super) fn new(telemetry: Telemetry, category: Category) -> Self {
        Self { telemetry, category, begun: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        if !self.telemetry.is_heard() {
            self.begun = Vec::new();
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            self.append(line);
            self.tell();
            rest = behind.get(1..).unwrap_or_default();
        }
        self.append(rest);
    }

    /// What was printed so far is told, though its line has not ended.
    pub fn flush(&mut self) {
        if !self.begun.is_empty() {
            self.tell();
        }
    }

    fn append(&mut self, mut piece: &[u8]) {
        while self.begun.len() + piece.len() > MAX_LINE_LEN {
            let (fits, behind) = piece.split_at(MAX_LINE_LEN - self.begun.len());
            self.begun.extend_from_slice(fits);
            self.tell();
            piece = behind;
        }
        self.begun.extend_from_slice(piece);
    }

    fn tell(&mut self) {
        self.telemetry.line(self.category, &self.begun);
        self.begun.clear();
    }
}
