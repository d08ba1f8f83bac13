//! A file read at a position of its own. A client hands the same kernel to many machines, and descriptors that travel
//! over a socket share one file offset: reading through it would race.

#![expect(unsafe_code, reason = "pread straight into guest memory, without a copy of a kernel's size")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

pub(super) struct PositionedFile<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> PositionedFile<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }
}

impl Read for PositionedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for PositionedFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.file.metadata()?.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl ReadVolatile for PositionedFile<'_> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let position = i64::try_from(self.position)
            .map_err(|_| VolatileMemoryError::IOError(io::ErrorKind::InvalidInput.into()))?;
        let guard = buffer.ptr_guard_mut();
        let fd = self.file.as_raw_fd();
        // SAFETY: pread writes at most `buffer.len()` bytes; the guard keeps exactly that many mapped and writable.
        // Nothing in this process holds a Rust reference into guest memory.
        let count = unsafe { libc::pread(fd, guard.as_ptr().cast(), buffer.len(), position) };
        let count =
            usize::try_from(count).map_err(|_| VolatileMemoryError::IOError(io::Error::last_os_error()))?;
        buffer.bitmap().mark_dirty(0, count);
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn readers_of_one_descriptor_do_not_move_each_other() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"0123456789").expect("write");
        let (mut first, mut second) = (PositionedFile::new(&file), PositionedFile::new(&file));
        let mut bytes = [0; 4];
        first.read_exact(&mut bytes).expect("read");
        assert_eq!(&bytes, b"0123");
        second.seek(SeekFrom::End(-2)).expect("seek");
        let mut volatile = [0; 2];
        second.read_exact_volatile(&mut VolatileSlice::from(&mut volatile[..])).expect("read");
        assert_eq!(&volatile, b"89");
        first.read_exact(&mut bytes).expect("read");
        assert_eq!(&bytes, b"4567");
        assert!(first.seek(SeekFrom::Current(-100)).is_err());
    }
}
