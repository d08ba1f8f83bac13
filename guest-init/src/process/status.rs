//! What the keeper and the runtime's process tell guest-init through the status pipe: fixed records. Pure.

use crate::lifecycle::Exit;
use nix::errno::Errno;

/// A record: one byte of kind, then a little-endian `i32`.
const RECORD_LEN: usize = 5;

/// Most bytes there can be: one record of the runtime's process, one of the keeper.
pub(super) const MAX_LEN: u64 = 2 * RECORD_LEN as u64;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The sandbox around the runtime could not be set up: `errno`.
    Setup(i32),
    /// `execve` failed: `errno`.
    Exec(i32),
    /// The runtime ended: wait status.
    Ended(i32),
}

impl Record {
    pub(super) fn to_bytes(self) -> [u8; RECORD_LEN] {
        let (kind, value) = match self {
            Self::Setup(errno) => (0, errno),
            Self::Exec(errno) => (1, errno),
            Self::Ended(status) => (2, status),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [kind, a, b, c, d]
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, value) = bytes.split_first()?;
        let value = i32::from_le_bytes(value.try_into().ok()?);
        match kind {
            0 => Some(Self::Setup(value)),
            1 => Some(Self::Exec(value)),
            2 => Some(Self::Ended(value)),
            _ => None,
        }
    }
}

/// How the runtime ended, from all that was told. The first record counts: the second only says how the process that
/// told of its failure went. None: the keeper was killed before it could tell.
pub(super) fn exit_of(records: &[u8], program: &str) -> Exit {
    match records.chunks(RECORD_LEN).next().and_then(Record::from_bytes) {
        None => Exit::Signal(libc::SIGKILL),
        Some(Record::Setup(errno)) => Exit::NotStarted(format!("sandbox of {program}: {}", reason(errno))),
        Some(Record::Exec(errno)) => Exit::NotStarted(format!("fork/exec {program}: {}", reason(errno))),
        Some(Record::Ended(status)) if libc::WIFSIGNALED(status) => Exit::Signal(libc::WTERMSIG(status)),
        Some(Record::Ended(status)) => Exit::Code(libc::WEXITSTATUS(status)),
    }
}

/// As Go words it, which is how Lambda's messages read: `permission denied`.
fn reason(errno: i32) -> String {
    Errno::from_raw(errno).desc().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(records: &[Record], exit: Exit) {
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
        assert_eq!(exit_of(&bytes, "/var/task/bootstrap"), exit);
    }

    #[test]
    fn records_become_exits() {
        check(&[], Exit::Signal(libc::SIGKILL));
        check(&[Record::Ended(0)], Exit::Code(0));
        check(&[Record::Ended(3 << 8)], Exit::Code(3));
        check(&[Record::Ended(libc::SIGSEGV)], Exit::Signal(libc::SIGSEGV));
        check(
            &[Record::Exec(libc::EACCES), Record::Ended(127 << 8)],
            Exit::NotStarted("fork/exec /var/task/bootstrap: permission denied".into()),
        );
        check(
            &[Record::Exec(libc::ENOEXEC)],
            Exit::NotStarted("fork/exec /var/task/bootstrap: exec format error".into()),
        );
    }
}
