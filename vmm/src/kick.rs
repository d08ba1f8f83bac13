//! Gets a vCPU thread out of `KVM_RUN`: sets `immediate_exit` in the page that it shares with KVM, then sends a signal.
//! The signal ends a `KVM_RUN` under way; the flag ends one that begins between the two.

#![expect(
    unsafe_code,
    reason = "the flag is in a page shared with the kernel, and pthread_kill takes a raw thread"
)]

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// A vCPU that could not be made interruptible.
#[derive(Debug, thiserror::Error)]
pub enum KickerError {
    /// The page that it shares with KVM.
    #[error("map the vCPU's run page")]
    Map(#[source] std::io::Error),
    /// The signal.
    #[error("install the handler of the kick signal")]
    Handler(#[source] vmm_sys_util::errno::Error),
}

/// A mapping of a vCPU's `kvm_run`, beside the one that the vCPU thread has, and the thread to signal.
pub(crate) struct Kicker {
    page: NonNull<libc::c_void>,
    len: usize,
    thread: Option<JoinHandle<()>>,
}

extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Kicker {
    pub(crate) fn new(vcpu: &VcpuFd, run_size: usize) -> Result<Self, KickerError> {
        register_signal_handler(SIGRTMIN(), interrupt).map_err(KickerError::Handler)?;
        let (fd, protection) = (vcpu.as_raw_fd(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: mmap of a new range touches no existing memory; `fd` is an open vCPU, whose first `run_size` bytes
        // KVM lets be mapped any number of times.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), run_size, protection, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self { page, len: run_size, thread: None }),
            _ => Err(KickerError::Map(std::io::Error::last_os_error())),
        }
    }

    /// The thread that runs the vCPU.
    pub(crate) fn with_thread(mut self, thread: JoinHandle<()>) -> Self {
        self.thread = Some(thread);
        self
    }

    /// Makes the current or the next `KVM_RUN` return `EINTR`.
    pub(crate) fn kick(&self) {
        let flag = self.page.as_ptr().wrapping_byte_add(offset_of!(kvm_run, immediate_exit)).cast::<u8>();
        // SAFETY: `flag` is inside the mapping, which lives as long as `self`; a byte needs no alignment. Every other
        // access by this process goes through the vCPU thread's own mapping, and KVM reads it once.
        let flag = unsafe { AtomicU8::from_ptr(flag) };
        flag.store(1, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            // SAFETY: a joinable thread that nobody has joined keeps its pthread_t valid, ended or not; the signal
            // has a handler.
            let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
        }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no reference into it outlives a call of `kick`.
        let _ = unsafe { libc::munmap(self.page.as_ptr(), self.len) };
    }
}
