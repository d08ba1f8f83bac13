//! What holds a drive's bytes. A file does, with no buffer between it and guest memory; `vmm` brings what else there is.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;

use crate::guest_io;
use crate::virtio::segments::Segments;

/// The bytes of a drive, for one thread. What it is asked for lies inside of its length; after an error the request fails and
/// nothing is known of what has moved.
pub trait Storage: fmt::Debug + Send {
    /// Bytes there are. Asked once.
    ///
    /// # Errors
    /// It cannot be known.
    fn length(&mut self) -> io::Result<u64>;

    /// Fills all of `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// They cannot be had.
    fn read(&mut self, offset: u64, into: Segments<'_>) -> io::Result<()>;

    /// Puts all of `from` where `offset` is.
    ///
    /// # Errors
    /// They cannot be kept.
    fn write(&mut self, offset: u64, from: Segments<'_>) -> io::Result<()>;

    /// Returns when what was written is durable.
    ///
    /// # Errors
    /// It may not be.
    fn flush(&mut self) -> io::Result<()>;
}

impl Storage for File {
    /// Of a block device, too, whose metadata has none.
    fn length(&mut self) -> io::Result<u64> {
        self.seek(SeekFrom::End(0))
    }

    fn read(&mut self, offset: u64, into: Segments<'_>) -> io::Result<()> {
        guest_io::read_exact_at(self.as_fd(), offset, into.pieces())
    }

    fn write(&mut self, offset: u64, from: Segments<'_>) -> io::Result<()> {
        guest_io::write_all_at(self.as_fd(), offset, from.pieces())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
