//! System calls that move bytes between a descriptor and pieces of guest memory, without a copy in between.
//!
//! The only module of this crate with unsafe code. Called by block (files) and vsock (sockets).

#![expect(unsafe_code, reason = "preadv, pwritev, sendmsg and readv over guest memory have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::Bitmap;

use crate::Slice;

/// Pieces handed to one system call; Linux takes 1,024 (IOV_MAX), this keeps the array small on the stack.
const BATCH: usize = 128;

/// Reads at `offset` of a file until every piece is full.
pub(crate) fn read_exact_at(file: BorrowedFd<'_>, offset: u64, pieces: &[Slice<'_>]) -> io::Result<()> {
    // Whatever comes of it: a page too many in a snapshot is no harm.
    mark_dirty(pieces);
    transfer(offset, pieces, io::ErrorKind::UnexpectedEof, |iovecs, offset| {
        // SAFETY: preadv needs an open descriptor (borrowed, so it is) and `iovcnt` iovecs that are writable for
        // their length: each was made from a Slice, which keeps its mapping alive for the whole call, and
        // guest memory may change under the kernel's hands without harm.
        unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs), offset) }
    })
}

/// Writes every piece at `offset` of a file.
pub(crate) fn write_all_at(file: BorrowedFd<'_>, offset: u64, pieces: &[Slice<'_>]) -> io::Result<()> {
    transfer(offset, pieces, io::ErrorKind::WriteZero, |iovecs, offset| {
        // SAFETY: as for preadv above, with iovecs that only have to be readable.
        unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs), offset) }
    })
}

/// Sends from the pieces without waiting; returns how much the socket took.
pub(crate) fn send(socket: BorrowedFd<'_>, pieces: &[Slice<'_>]) -> io::Result<usize> {
    let (mut iovecs, used) = iovecs(pieces, 0);
    // SAFETY: msghdr is plain data for which all zeros (no address, no control data) is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = used;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| {
        // SAFETY: sendmsg needs an open socket (borrowed) and a message whose `msg_iovlen` iovecs are readable: they
        // are the first `used` of `iovecs`, which outlives the call, each made from a Slice of live memory.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
    })
}

/// Receives into the pieces without waiting; returns how much came, 0 at the end of the stream.
pub(crate) fn receive(socket: BorrowedFd<'_>, pieces: &[Slice<'_>]) -> io::Result<usize> {
    mark_dirty(pieces);
    let (mut iovecs, used) = iovecs(pieces, 0);
    // SAFETY: msghdr is plain data for which all zeros (no address, no control data) is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = used;
    let received = retry(|| {
        // SAFETY: recvmsg needs an open socket (borrowed) and a message whose `msg_iovlen` iovecs are writable: they
        // are the first `used` of `iovecs`, which outlives the call, each made from a Slice of live memory.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) }
    })?;
    Ok(received)
}

/// Fills `bytes` from the kernel's random number generator and returns how much: all of up to 256 bytes, perhaps less of
/// more. Asked directly: the library that everyone
/// uses looks for the call at run time, does not find it in a static program, and opens a device file instead, which
/// a confined process cannot.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: getrandom writes at most `bytes.len()` bytes to `bytes`, which is exclusively borrowed.
    retry(|| unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })
}

/// Calls until all bytes of all pieces have moved.
fn transfer(
    mut offset: u64,
    pieces: &[Slice<'_>],
    early_end: io::ErrorKind,
    mut call: impl FnMut(&[libc::iovec], libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut pieces = pieces;
    let mut done_of_first = 0;
    while !pieces.is_empty() {
        let (iovecs, used) = iovecs(pieces, done_of_first);
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut moved = retry(|| call(iovecs.get(..used).unwrap_or_default(), at))?;
        if moved == 0 {
            return Err(early_end.into());
        }
        offset += moved as u64;
        while let Some((first, rest)) = pieces.split_first() {
            let left = first.len() - done_of_first;
            if moved < left {
                done_of_first += moved;
                break;
            }
            moved -= left;
            done_of_first = 0;
            pieces = rest;
        }
    }
    Ok(())
}

/// Remembers that the kernel writes to `pieces`, which [`Memory`](crate::Memory) does not see.
fn mark_dirty(pieces: &[Slice<'_>]) {
    for piece in pieces {
        piece.bitmap().mark_dirty(0, piece.len());
    }
}

/// The first pieces as iovecs, without the first `skip` bytes of the first; and how many.
fn iovecs(pieces: &[Slice<'_>], skip: usize) -> ([libc::iovec; BATCH], usize) {
    let mut iovecs = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let mut used = 0;
    let mut skip = skip;
    for (iovec, piece) in iovecs.iter_mut().zip(pieces) {
        let skipped = skip.min(piece.len());
        iovec.iov_base = piece.ptr_guard_mut().as_ptr().wrapping_add(skipped).cast();
        iovec.iov_len = piece.len() - skipped;
        skip = 0;
        used += 1;
    }
    (iovecs, used)
}

fn count(iovecs: &[libc::iovec]) -> libc::c_int {
    // At most BATCH.
    iovecs.len() as libc::c_int
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;
    use crate::Memory;

    /// Which of eight pages a call on the third and on half of the fifth and sixth marks.
    fn marked(call: impl FnOnce(&[Slice<'_>])) -> Vec<usize> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 8 << 12)]).unwrap();
        let piece = |at, len| memory.get_slice(GuestAddress(at), len).unwrap();
        call(&[piece(2 << 12, 1 << 12), piece((4 << 12) + 2048, 1 << 12)]);
        let region = memory.find_region(GuestAddress(0)).unwrap();
        (0..8).filter(|page| region.bitmap().dirty_at(page << 12)).collect()
    }

    #[test]
    fn what_the_kernel_writes_to_guest_memory_is_remembered() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        assert_eq!(marked(|pieces| read_exact_at(file.as_fd(), 0, pieces).unwrap()), [2, 4, 5]);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[1; 2 << 12]).unwrap();
        let received = |pieces: &[Slice<'_>]| assert_eq!(receive(ours.as_fd(), pieces).unwrap(), 2 << 12);
        assert_eq!(marked(received), [2, 4, 5]);
    }

    #[test]
    fn what_it_reads_is_not() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(marked(|pieces| write_all_at(file.as_fd(), 0, pieces).unwrap()), [0; 0]);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(marked(|pieces| assert!(send(ours.as_fd(), pieces).unwrap() > 0)), [0; 0]);
    }
}
