//! Queues of this node: files below its state directory, one JSON document a line, named by the ARNs of queues that AWS would have
//! (`arn:aws:sqs:REGION:ACCOUNT:NAME`). What was taken is on the disk; what does not fit is not taken.
//!
//! ```text
//! queues/REGION.NAME.jsonl
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::record::MAX_PAYLOAD_LEN;
use crate::config::is_region;

/// Queues of a node, at most: each is a file.
const MAX_QUEUES: usize = 256;

/// Longest name of a queue: AWS's.
const MAX_NAME_LEN: usize = 80;

/// What is read of a queue at a time, in bytes: whole lines, which are shorter. Who has taken those away reads what is behind them, so
/// that a queue may be long and a reader costs no more than this.
pub(crate) const MAX_READ_LEN: usize = 4 * 1024 * 1024;

const _: () = assert!(MAX_PAYLOAD_LEN < MAX_READ_LEN, "any line is read");

/// What a file is searched backwards by for the end of its last whole line.
const STEP: usize = 64 * 1024;

/// Why a queue did not take or give something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// It would be longer than it may be.
    #[error("the queue {0} has no room")]
    Full(String),
    /// Its first lines are others.
    #[error("the queue {0} has other lines than were read")]
    Changed(String),
    /// There are as many as may be.
    #[error("this node has {MAX_QUEUES} queues, and no room for {0}")]
    TooMany(String),
    /// Its file could not be read or written.
    #[error("use the file of the queue {name}")]
    Io {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A queue of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueName {
    region: String,
    name: String,
}

impl QueueName {
    /// The queue that an ARN names, if it is one of this account.
    pub(crate) fn of_arn(arn: &str, account_id: &str) -> Option<Self> {
        let parts: Vec<_> = arn.split(':').collect();
        let ["arn", partition, "sqs", region, account, name] = parts[..] else { return None };
        (partition.starts_with("aws") && account == account_id).then(|| Self::new(region, name))?
    }

    /// The queue of that name.
    pub(crate) fn new(region: &str, name: &str) -> Option<Self> {
        let plain = name.strip_suffix(".fifo").unwrap_or(name);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let good = is_region(region) && !plain.is_empty() && name.len() <= MAX_NAME_LEN;
        (good && plain.bytes().all(is_plain)).then(|| Self { region: region.into(), name: name.into() })
    }

    fn file(&self) -> String {
        format!("{}.{}.jsonl", self.region, self.name)
    }

    fn failed(&self, source: io::Error) -> QueueError {
        QueueError::Io { name: self.name.clone(), source }
    }
}

/// The queues.
#[derive(Debug)]
pub(crate) struct Queues {
    dir: PathBuf,
    max_len: u64,
    /// One change at a time.
    turn: Mutex<()>,
}

impl Queues {
    /// In a directory, which is made when it does not exist.
    pub(crate) fn open(dir: PathBuf, max_len: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir, max_len, turn: Mutex::default() })
    }

    /// Appends a line: on the disk when this returns. Blocks.
    pub(crate) fn append(&self, queue: &QueueName, line: &[u8]) -> Result<(), QueueError> {
        let _turn = self.turn();
        let path = self.dir.join(queue.file());
        let failed = |source| queue.failed(source);
        let fresh = !path.exists();
        if fresh && fs::read_dir(&self.dir).map_err(failed)?.count() >= MAX_QUEUES {
            return Err(QueueError::TooMany(queue.name.clone()));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(failed)?;
        let len = whole_len(&mut file).map_err(failed)?;
        if len + line.len() as u64 + 1 > self.max_len {
            return Err(QueueError::Full(queue.name.clone()));
        }
        write(&mut file, len, line).map_err(failed)?;
        if fresh { sync_dir(&self.dir).map_err(failed) } else { Ok(()) }
    }

    /// Its first whole lines, [`MAX_READ_LEN`] bytes at most. Blocks.
    pub(crate) fn read(&self, queue: &QueueName) -> Result<Lines, QueueError> {
        let _turn = self.turn();
        let failed = |source| queue.failed(source);
        let Some(mut file) = self.file(queue)? else { return Ok(Lines::of(Vec::new(), 0)) };
        let len = whole_len(&mut file).map_err(failed)?;
        let mut lines = first(&mut file, len.min(MAX_READ_LEN as u64)).map_err(failed)?;
        lines.truncate(lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
        let left = len - lines.len() as u64;
        Ok(Lines::of(lines, left))
    }

    /// Takes away the lines that were read with a tag; what has come since stays. Blocks.
    ///
    /// # Errors
    /// [`QueueError::Changed`] when they are not its first: somebody has taken them away.
    pub(crate) fn drop_first(&self, queue: &QueueName, read: &str) -> Result<(), QueueError> {
        let _turn = self.turn();
        let failed = |source| queue.failed(source);
        let changed = || QueueError::Changed(queue.name.clone());
        let len = read.split_once('-').and_then(|(len, _)| len.parse().ok());
        let len = len.filter(|len| *len <= MAX_READ_LEN as u64).ok_or_else(changed)?;
        let file = self.file(queue)?;
        let Some(mut file) = file else {
            return if tag(&[]) == read { Ok(()) } else { Err(changed()) };
        };
        let end = whole_len(&mut file).map_err(failed)?;
        if len > end || tag(&first(&mut file, len).map_err(failed)?) != read {
            return Err(changed());
        }
        if len == 0 {
            return Ok(());
        }
        let path = self.dir.join(queue.file());
        // The file is where the first lines end.
        let replace = || -> io::Result<()> {
            if len == end {
                fs::remove_file(&path)?;
            } else {
                let new = path.with_extension("new");
                let mut rest = File::create(&new)?;
                io::copy(&mut file.take(end - len), &mut rest)?;
                rest.sync_all()?;
                fs::rename(&new, &path)?;
            }
            sync_dir(&self.dir)
        };
        replace().map_err(failed)
    }

    /// Its file, if there is one.
    fn file(&self, queue: &QueueName) -> Result<Option<File>, QueueError> {
        match File::open(self.dir.join(queue.file())) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(queue.failed(error)),
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // A file is as good as its last whole line, whoever panicked.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was read of a queue.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Whole lines, with their ends.
    pub(crate) lines: Vec<u8>,
    /// By which they are taken away.
    pub(crate) tag: String,
    /// Bytes of the lines behind them.
    pub(crate) left: u64,
}

impl Lines {
    fn of(lines: Vec<u8>, left: u64) -> Self {
        Self { tag: tag(&lines), lines, left }
    }
}

/// The first bytes of a file, which is left where they end.
fn first(file: &mut File, len: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    // At most MAX_READ_LEN.
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Tells lines from others: how long they are, and a hash.
fn tag(lines: &[u8]) -> String {
    let hash = crate::code::hex(&Sha256::digest(lines));
    format!("{}-{hash}", lines.len())
}

/// How long a file is up to the end of its last whole line: what is behind that was being written when the agent ended.
fn whole_len(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut bytes = [0; STEP];
    while end > 0 {
        let begin = end.saturating_sub(STEP as u64);
        // At most STEP.
        let part = &mut bytes[..(end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(part)?;
        if let Some(last) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

fn write(file: &mut File, at: u64, line: &[u8]) -> io::Result<()> {
    file.set_len(at)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[line, b"\n"].concat())?;
    file.sync_data()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(max_len: u64) -> (tempfile::TempDir, Queues, QueueName) {
        let dir = tempfile::tempdir().unwrap();
        let queues = Queues::open(dir.path().join("queues"), max_len).unwrap();
        (dir, queues, QueueName::new("us-east-1", "q").unwrap())
    }

    #[test]
    fn an_arn_names_a_queue_of_this_account_and_never_a_path() {
        let of_arn = |arn: &str| QueueName::of_arn(arn, "000000000000").map(|queue| queue.file());
        assert_eq!(
            of_arn("arn:aws:sqs:us-east-1:000000000000:my-q_1").as_deref(),
            Some("us-east-1.my-q_1.jsonl")
        );
        assert!(of_arn("arn:aws:sqs:us-east-1:000000000000:q.fifo").is_some());
        for wrong in [
            "arn:aws:sqs:us-east-1:111111111111:q",
            "arn:aws:sns:us-east-1:000000000000:q",
            "arn:aws:sqs:us-east-1:000000000000:../q",
            "arn:aws:sqs:../x:000000000000:q",
            "arn:aws:sqs:us-east-1:000000000000:.fifo",
            "arn:aws:sqs:us-east-1:000000000000:q:r",
            "arn:aws:sqs:us-east-1:000000000000:",
        ] {
            assert_eq!(of_arn(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lines_are_kept_and_taken_away_once() {
        let (dir, queues, queue) = queues(100);
        let lines = |expected: &str| {
            let Lines { lines, tag, left } = queues.read(&queue).unwrap();
            assert_eq!(left, 0);
            assert_eq!(String::from_utf8(lines).unwrap(), expected);
            tag
        };
        let nothing = lines("");
        queues.drop_first(&queue, &nothing).unwrap();
        queues.append(&queue, b"{\"a\":1}").unwrap();
        queues.append(&queue, b"2").unwrap();
        let read = lines("{\"a\":1}\n2\n");
        queues.append(&queue, b"3").unwrap();
        queues.drop_first(&queue, &read).unwrap();
        let rest = lines("3\n");
        for wrong in [&*read, "", "1", "2-", "18446744073709551615-x", "3-abc"] {
            assert!(matches!(queues.drop_first(&queue, wrong), Err(QueueError::Changed(_))), "{wrong}");
        }
        queues.drop_first(&queue, &rest).unwrap();
        lines("");
        assert_eq!(fs::read_dir(dir.path().join("queues")).unwrap().count(), 0);
    }

    #[test]
    fn a_long_queue_is_read_in_parts_and_no_line_is_lost_between_them() {
        let (dir, queues, queue) = queues(1 << 30);
        let path = dir.path().join("queues/us-east-1.q.jsonl");
        let line = |number: usize| format!("{number:0>width$}\n", width = 1000 + number % 77);
        let all: String = (0..10_000).map(line).collect();
        // Something is being written behind them.
        fs::write(&path, format!("{all}half")).unwrap();
        let (mut seen, mut parts) = (String::new(), 0);
        loop {
            let Lines { lines, tag, left } = queues.read(&queue).unwrap();
            if lines.is_empty() {
                break;
            }
            assert!(lines.len() <= MAX_READ_LEN && lines.ends_with(b"\n"));
            assert_eq!(left as usize, all.len() - seen.len() - lines.len());
            seen += std::str::from_utf8(&lines).unwrap();
            queues.drop_first(&queue, &tag).unwrap();
            assert!(matches!(queues.drop_first(&queue, &tag), Err(QueueError::Changed(_))), "once");
            parts += 1;
        }
        assert!(seen == all);
        assert_eq!(parts, all.len().div_ceil(MAX_READ_LEN));
    }

    #[test]
    fn half_a_line_is_none() {
        let (dir, queues, queue) = queues(1 << 20);
        queues.append(&queue, b"1").unwrap();
        let path = dir.path().join("queues/us-east-1.q.jsonl");
        let half = [b"1\n".to_vec(), vec![b'x'; 3 * STEP]].concat();
        fs::write(&path, half).unwrap();
        assert_eq!(queues.read(&queue).unwrap().lines, b"1\n");
        queues.append(&queue, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n");
    }

    #[test]
    fn a_full_queue_takes_nothing_until_there_is_room() {
        let (_dir, queues, queue) = queues(10);
        queues.append(&queue, b"12345678").unwrap();
        assert!(matches!(queues.append(&queue, b"1"), Err(QueueError::Full(_))));
        let read = queues.read(&queue).unwrap().tag;
        queues.drop_first(&queue, &read).unwrap();
        queues.append(&queue, b"1").unwrap();
    }

    #[test]
    fn there_are_not_more_queues_than_may_be() {
        let (_dir, queues, queue) = queues(10);
        for number in 0..MAX_QUEUES {
            queues.append(&QueueName::new("r", &format!("q{number}")).unwrap(), b"1").unwrap();
        }
        assert!(matches!(queues.append(&queue, b"1"), Err(QueueError::TooMany(_))));
    }
}
