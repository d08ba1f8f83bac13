//! The generation page, `/run/tinderbox/generation`: one page that any process may map read-only (`MAP_SHARED`), and
//! whose file any process may watch with inotify (`IN_MODIFY`).
//!
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `TNDRGEN1` |
//! | 8 | u32 | sequence: odd while the rest is being written |
//! | 12 | u32 | zero |
//! | 16 | u64 | counter: 0 in a guest that was booted, another number after every resume |
//! | 24 | 16 bytes | generation id |
//! | 40 | u64 | wall clock at the resume, nanoseconds since the Unix epoch |
//!
//! Little-endian; the rest is zero. The counter is one aligned word, so reading it alone needs no sequence; who reads more
//! than one field reads the sequence before and after. No process of the function runs while the page is written.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Length of the file: what maps it maps pages.
pub const PAGE_LEN: u64 = 4096;

const MAGIC: &[u8; 8] = b"TNDRGEN1";
const SEQUENCE_AT: u64 = 8;
const COUNTER_AT: u64 = 16;

/// Bytes from the counter on that a resume writes.
const CONTENT_LEN: usize = 32;

/// The page, as its only writer has it.
#[derive(Debug)]
pub struct GenerationPage {
    file: fs::File,
    sequence: u32,
}

impl GenerationPage {
    /// Makes the page of a guest that was booted.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.set_len(PAGE_LEN)?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Self { file, sequence: 0 })
    }

    /// Publishes a generation. Each write wakes who waits for `IN_MODIFY`; all of them are frozen until the last is done.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&mut self, id: [u8; 16], counter: u64, unix_ns: u64) -> io::Result<()> {
        let mut content = [0; CONTENT_LEN];
        content[..8].copy_from_slice(&counter.to_le_bytes());
        content[8..24].copy_from_slice(&id);
        content[24..].copy_from_slice(&unix_ns.to_le_bytes());
        self.raise()?;
        self.file.write_all_at(&content, COUNTER_AT)?;
        self.raise()
    }

    fn raise(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.file.write_all_at(&self.sequence.to_le_bytes(), SEQUENCE_AT)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    #[test]
    fn the_page_has_the_documented_layout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        let mut page = GenerationPage::create(&path).unwrap();
        let booted = fs::read(&path).unwrap();
        assert_eq!((booted.len(), &booted[..8]), (4096, &b"TNDRGEN1"[..]));
        assert!(booted[8..].iter().all(|byte| *byte == 0));
        page.publish([7; 16], 0x0102, 5).unwrap();
        let resumed = fs::read(&path).unwrap();
        assert_eq!(resumed[8..16], [2, 0, 0, 0, 0, 0, 0, 0], "even again");
        assert_eq!(resumed[16..24], 0x0102_u64.to_le_bytes());
        assert_eq!((&resumed[24..40], &resumed[40..48]), (&[7; 16][..], &5_u64.to_le_bytes()[..]));
        assert!(resumed[48..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn who_watches_the_file_is_told_of_every_resume() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation");
        let mut page = GenerationPage::create(&path).unwrap();
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(&path, AddWatchFlags::IN_MODIFY).unwrap();
        for counter in 1..=2 {
            assert_eq!(watch.read_events().unwrap_err(), Errno::EAGAIN);
            page.publish([7; 16], counter, 5).unwrap();
            assert!(!watch.read_events().unwrap().is_empty());
        }
    }
}
