//! userfaultfd as far as the pager needs it: a descriptor, ranges that wait for their pages, pages put in place.
//!
//! `linux/userfaultfd.h` by hand: five requests over plain integers are less to trust than a crate that runs a C parser
//! at build time. `/dev/userfaultfd` is asked first: whoever may open it handles faults that happen in the kernel, as KVM's
//! do, so that no sysctl has to allow that to every process of the host.

#![expect(unsafe_code, reason = "ioctls over addresses have no safe wrapper")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::host_files::HostFiles;
use crate::requests::{
    UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE, USERFAULTFD_IOC_NEW,
};

/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFD_EVENT_PAGEFAULT`, the only event of a descriptor without extra features.
const EVENT_PAGEFAULT: u8 = 0x12;
/// Faults read at once: one of each vCPU and the I/O thread's.
pub(super) const BATCH: usize = 17;

/// `struct uffd_msg` with the fields of a page fault.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// `struct uffdio_copy` and, as far as it goes, `struct uffdio_zeropage`: there `source` is the mode and `len` what was done.
#[repr(C)]
struct Copy {
    target: u64,
    source: u64,
    len: u64,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct Zero {
    start: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// The descriptor.
#[derive(Debug)]
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// Before the process is confined.
    pub(crate) fn open(files: &HostFiles) -> io::Result<Self> {
        let fd = match files.userfaultfd() {
            Ok(device) => {
                // SAFETY: USERFAULTFD_IOC_NEW takes flags by value and touches no memory.
                unsafe {
                    libc::ioctl(
                        device.as_raw_fd(),
                        USERFAULTFD_IOC_NEW.into(),
                        libc::O_CLOEXEC | libc::O_NONBLOCK,
                    )
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // A kernel older than the device.
            Err(_) => {
                // SAFETY: the call takes flags by value and touches no memory.
                let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
                fd as libc::c_int
            }
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let uffd = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut api = [API, 0, 0];
        uffd.ioctl(UFFDIO_API, &mut api)?;
        Ok(uffd)
    }

    /// From now on whoever touches a page of `range` that is not there waits.
    pub(super) fn register(&self, range: &Range<usize>) -> io::Result<()> {
        let mut request = [range.start as u64, range.len() as u64, MODE_MISSING, 0];
        self.ioctl(UFFDIO_REGISTER, &mut request)
    }

    /// Waits for faults; their addresses.
    pub(super) fn wait(&self, addresses: &mut Vec<usize>) -> io::Result<()> {
        let mut waits = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `waits` is one structure, exclusively borrowed for the call.
        if unsafe { libc::poll(&raw mut waits, 1, -1) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        self.take(addresses)
    }

    /// Addresses of the faults that there are, if any.
    pub(super) fn take(&self, addresses: &mut Vec<usize>) -> io::Result<()> {
        let mut messages = [Message::default(); BATCH];
        let room = size_of_val(&messages);
        // SAFETY: read writes at most `room` bytes into `messages`, an array of plain integers that is exclusively ours.
        let len = unsafe { libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), room) };
        let Ok(len) = usize::try_from(len) else {
            let error = io::Error::last_os_error();
            let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if none { Ok(()) } else { Err(error) };
        };
        let read = messages.iter().take(len / size_of::<Message>());
        addresses.extend(read.filter(|m| m.event == EVENT_PAGEFAULT).map(|m| m.address as usize));
        Ok(())
    }

    /// Puts `pages` at `target`, which waits for them, and wakes who waits. A page that is there already is left alone.
    pub(super) fn copy(&self, target: usize, pages: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while let Some(rest) = pages.get(at..).filter(|rest| !rest.is_empty()) {
            let mut request = Copy {
                target: (target + at) as u64,
                source: rest.as_ptr() as u64,
                len: rest.len() as u64,
                mode: 0,
                done: 0,
            };
            let result = self.ioctl(UFFDIO_COPY, &mut request);
            at += self.progress(result, request.done, target + at)?;
        }
        Ok(())
    }

    /// Lets the pages of `range` read as zeros and wakes who waits.
    pub(super) fn zero(&self, range: Range<usize>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let mut request = Zero { start: at as u64, len: (range.end - at) as u64, mode: 0, done: 0 };
            let result = self.ioctl(UFFDIO_ZEROPAGE, &mut request);
            at += self.progress(result, request.done, at)?;
        }
        Ok(())
    }

    /// Wakes whoever waits for a page of `range`.
    pub(super) fn wake(&self, range: &Range<usize>) -> io::Result<()> {
        let mut request = [range.start as u64, range.len() as u64];
        self.ioctl(UFFDIO_WAKE, &mut request)
    }

    /// Who waits and has not been told of to [`take`](Self::take) yet.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        let info = info.expect("what the kernel says of a descriptor");
        let pending = info.lines().find_map(|line| line.strip_prefix("pending:"));
        pending.and_then(|number| number.trim().parse().ok()).expect("a number")
    }

    /// Bytes to go on after: what was done, or the one page that was in the way.
    fn progress(&self, result: io::Result<()>, done: i64, at: usize) -> io::Result<usize> {
        // A negative number repeats the error.
        let done = usize::try_from(done).unwrap_or(0);
        match result {
            Ok(()) => Ok(done),
            // Cut short, or another thread changes mappings (a stack ends).
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(done),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let page = at + done..at + done + snapshot::PAGE_LEN;
                self.wake(&page)?;
                Ok(done + snapshot::PAGE_LEN)
            }
            Err(error) => Err(error),
        }
    }

    fn ioctl<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: every request here is built from the structure that it takes, `argument` is that structure (see
        // `requests`) and exclusively borrowed. What UFFDIO_COPY reads is a live slice of `copy`'s caller; what it and
        // UFFDIO_ZEROPAGE write are pages that were registered, hence guest memory, and that nobody has seen yet.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), std::ptr::from_mut(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn a_thread_waits_for_its_page_and_finds_what_was_put_there() {
        use vm_memory::{Bytes, GuestAddress};
        let memory = memory::create(1 << 20).expect("memory");
        let host = memory::host_ranges(&memory).expect("addresses").remove(0);
        let uffd = Userfault::open(&HostFiles::Paths).expect("userfaultfd is needed to run the tests");
        uffd.register(&host).expect("register");
        let reader = {
            let memory = memory.clone();
            std::thread::spawn(move || {
                let read = |at| memory.read_obj::<u64>(GuestAddress(at)).expect("read");
                (read(0x2008), read(0x5000))
            })
        };
        let mut faults = Vec::new();
        while faults.len() < 2 {
            let known = faults.len();
            uffd.wait(&mut faults).expect("wait");
            for &address in &faults[known..] {
                if address == host.start + 0x2000 {
                    // The page before is there already when the copy reaches it.
                    uffd.zero(host.start + 0x3000..host.start + 0x4000).expect("zero");
                    uffd.copy(address, &[0x11; 3 * snapshot::PAGE_LEN]).expect("copy");
                } else {
                    uffd.zero(address..address + snapshot::PAGE_LEN).expect("zero");
                }
            }
        }
        assert_eq!(reader.join().expect("thread"), (0x1111_1111_1111_1111, 0));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x3000)).expect("read"), 0);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x4fff)).expect("read"), 0x11);
    }
}
