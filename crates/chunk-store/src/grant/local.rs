//! A content that is one process's own, with keys of its own: no manifest, no agent, nothing to ask. For whoever drives a `vmm`
//! by hand, tests and benchmarks among them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Whence, lseek};

use super::table::{Place, Table, TableError};
use crate::handed::for_reading;
use crate::local::{LocalError, LocalKey};
use crate::manifest::{Content, Kind};
use crate::secret::Secret;
use crate::size::ChunkSize;

/// Why a file is no content.
#[derive(Debug, thiserror::Error)]
pub enum LocalContentError {
    /// A file.
    #[error("cut a file into chunks")]
    File(#[from] io::Error),
    /// No random numbers.
    #[error("make a key")]
    Key(#[from] getrandom::Error),
    /// A chunk.
    #[error("seal a chunk")]
    Seal(#[from] LocalError),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A sealed file and how it is read.
#[derive(Debug)]
pub struct LocalContent {
    /// For all who read it.
    pub table: Table,
    /// The copies.
    pub slots: File,
}

impl LocalContent {
    /// Cuts `file` into chunks and writes their copies to `slots`, an empty file that is open for reading and writing. Holes are
    /// not read: a guest's memory is mostly those.
    ///
    /// # Errors
    /// A file, or the lack of memory.
    pub fn seal(
        file: &File,
        kind: Kind,
        chunk_size: ChunkSize,
        slots: File,
    ) -> Result<Self, LocalContentError> {
        let content = Content { kind, len: file.metadata()?.len(), chunk_size, salt: [0; 16] };
        let chunks = chunk_size.count(content.len).ok_or(TableError::Invalid("too long"))?;
        let mut known = Vec::with_capacity(chunks as usize);
        let (mut at, mut data_at) = (0, 0);
        for index in 0..chunks {
            let start = u64::from(index) << chunk_size.log2();
            let end = start + chunk_size.len_of(index, content.len) as u64;
            if data_at < start {
                data_at = data_from(file, start)?;
            }
            if data_at >= end {
                known.push(None);
                continue;
            }
            let mut plaintext = vec![0; chunk_size.len_of(index, content.len)];
            file.read_exact_at(&mut plaintext, start)?;
            if plaintext.iter().all(|byte| *byte == 0) {
                known.push(None);
                continue;
            }
            let key = LocalKey::new(Secret::random()?);
            plaintext.truncate(LocalKey::copy_len(&plaintext));
            let (tag, len) = (key.seal_copy(&mut plaintext)?, plaintext.len() as u32);
            slots.write_all_at(&plaintext, at)?;
            known.push(Some((key, Some(Place { at, len, tag }))));
            at += chunk_size.bytes() as u64;
        }
        Ok(Self { table: Table::new(content, known.into_iter())?, slots })
    }

    /// What one process is given of it: table, copies, and a socket at whose other end nobody is.
    ///
    /// # Errors
    /// There are no descriptors.
    pub fn handed(&self) -> io::Result<[OwnedFd; 3]> {
        let (asks, _nobody) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok([self.table.handed()?, for_reading(&self.slots)?, asks])
    }
}

/// Where the next byte is that is in no hole, from `at` on; nowhere near when there is none.
fn data_from(file: &File, at: u64) -> io::Result<u64> {
    match lseek(file, at.cast_signed(), Whence::SeekData) {
        Err(Errno::ENXIO) => Ok(u64::MAX),
        found => Ok(found?.cast_unsigned()),
    }
}
