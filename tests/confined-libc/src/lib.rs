//! What libc and the standard library call of themselves, now and then: a heap that grows another way, an abort, a clock that the
//! kernel has to read, a wait that goes on after a stop. A program's own tests hardly ever see it, so here it is made to happen, in a process
//! of its own that has one thread under the filter in question. A call that the filter lacks ends that process by `SIGSYS`.
//!
//! glibc alone: its allocator has one heap for the process, grown by `brk`, and others for threads, which are mappings.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;

use jail::{CompiledFilter, SyscallFilter};
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Bytes of a block that lies in a heap: less than what glibc maps by itself.
const BLOCK_LEN: usize = 96 << 10;
/// More of them than a thread's heap has room for, 64 MiB, so that the thread takes another one.
const BLOCKS: usize = 800;
/// Bytes of a block that is mapped by itself, whatever the process has freed before: it is longer than what glibc would rather have in
/// a heap, which is 32 MiB at most, and than any gap that [`use_heap`] can have left in one that was not given back.
const LARGE_LEN: usize = 96 << 20;
/// How long [`wait`] waits, milliseconds: whoever stops it has to come in that time.
const WAIT_MS: u16 = 2000;
/// What a process ends with whose thread has panicked.
const PANICKED: i32 = 101;
/// How many threads are made until one has the heap that is wanted. glibc has eight heaps for each processor.
const MAX_THREADS: usize = 4096;

/// Which of glibc's heaps a thread has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heap {
    /// The one that grows by `brk`: the first thread's, and others' when there are many.
    Process,
    /// A mapping.
    Thread,
}

/// How a thread's work is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The thread ends, and its process after it without the filter.
    Thread,
    /// It ends its process.
    Process,
}

/// A thread under a filter, in a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct Confined<'a> {
    /// What it may call.
    pub filter: &'a SyscallFilter,
    /// Which heap it has.
    pub heap: Heap,
    /// How it ends.
    pub end: End,
}

impl Confined<'_> {
    /// Does `work` there and waits for the process.
    ///
    /// # Panics
    /// `work` panicked, or the process ended by a signal: one of the filter's, it made a call that it may not.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.assert_well(self.ended(work));
    }

    /// The same with an abort.
    ///
    /// # Panics
    /// The process ended, but not by `SIGABRT`.
    pub fn abort(&self) {
        self.abort_after(|| ());
    }

    /// The same with an abort, and something before it in the process, without the filter.
    ///
    /// # Panics
    /// As there.
    pub fn abort_after(&self, prepare: fn()) {
        let ended = waitpid(self.start(prepare, || std::process::abort()), None).expect("a child");
        assert!(
            matches!(ended, WaitStatus::Signaled(_, Signal::SIGABRT, _)),
            "{}, {:?}: {ended:?}",
            self.filter.name,
            self.heap
        );
    }

    /// The same as [`run`](Self::run), with [`wait`], in the middle of which the process is stopped and goes on.
    ///
    /// # Panics
    /// As there; the process was over before it could be stopped.
    pub fn stop(&self) {
        let child = self.start(|| (), wait);
        while !is_in(child, nix::libc::SYS_poll) {
            let state = waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("a child");
            assert_eq!(state, WaitStatus::StillAlive, "{}: it has not waited", self.filter.name);
            thread::yield_now();
        }
        kill(child, Signal::SIGSTOP).expect("a child");
        let stopped = waitpid(child, Some(WaitPidFlag::WUNTRACED)).expect("a child");
        assert_eq!(stopped, WaitStatus::Stopped(child, Signal::SIGSTOP), "{}", self.filter.name);
        kill(child, Signal::SIGCONT).expect("a child");
        self.assert_well(waitpid(child, None).expect("a child"));
    }

    fn assert_well(&self, ended: WaitStatus) {
        assert!(
            matches!(ended, WaitStatus::Exited(_, 0)),
            "{}, {:?}: {ended:?}",
            self.filter.name,
            self.heap
        );
    }

    fn ended(&self, work: impl FnOnce() + Send + 'static) -> WaitStatus {
        waitpid(self.start(|| (), work), None).expect("a child")
    }

    #[expect(unsafe_code, reason = "a process with the filter has to be this one's copy")]
    fn start(&self, prepare: fn(), work: impl FnOnce() + Send + 'static) -> Pid {
        let (heap, end) = (self.heap, self.end);
        let filter = Arc::new(self.filter.compile().expect("it compiles"));
        // SAFETY: the child allocates and makes threads, which glibc allows after a fork, whatever other threads were doing; it takes no lock of
        // this process's other threads, and never returns from here.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                // An abort leaves no file behind.
                let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
                prepare();
                let work = move || {
                    work();
                    if end == End::Process {
                        std::process::exit(0);
                    }
                };
                let status = if on_heap(heap, filter, MAX_THREADS, Box::new(work)) { 0 } else { PANICKED };
                // SAFETY: it ends the process, and nothing that this process had to do at its end is the child's.
                unsafe { libc::_exit(status) }
            }
        }
    }
}

/// Does the work in a thread that has such a heap: each thread that has another one keeps that and makes the next thread. Whether it
/// came to its end.
fn on_heap(heap: Heap, filter: Arc<CompiledFilter>, threads: usize, work: Box<dyn FnOnce() + Send>) -> bool {
    let thread = thread::spawn(move || {
        if heap_of_this_thread() != heap {
            return threads > 0 && on_heap(heap, filter, threads - 1, work);
        }
        filter.apply().expect("the kernel takes it");
        work();
        true
    });
    thread.join().unwrap_or(false)
}

#[expect(unsafe_code, reason = "where the process's heap ends, libc alone knows")]
fn heap_of_this_thread() -> Heap {
    // A small one could be what another thread had and this one freed.
    let block: Vec<u8> = black_box(Vec::with_capacity(BLOCK_LEN));
    // SAFETY: nothing is changed, and nothing read.
    let end = unsafe { libc::sbrk(0) };
    // Mappings are above it.
    if block.as_ptr().addr() < end.addr() { Heap::Process } else { Heap::Thread }
}

/// Fills the heap, empties it, and has a block mapped, enlarged and given back.
pub fn use_heap() {
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| black_box(Vec::with_capacity(BLOCK_LEN))).collect();
    drop(black_box(blocks));
    enlarge();
}

/// By libc itself: a program's own allocator, such as one that counts, may copy instead.
#[expect(unsafe_code, reason = "libc's allocator without another one around it")]
fn enlarge() {
    // SAFETY: any length may be asked for.
    let block = unsafe { libc::malloc(LARGE_LEN) };
    assert!(!block.is_null(), "no memory");
    // SAFETY: the block is libc's, and nobody else knows it.
    let larger = unsafe { libc::realloc(black_box(block), 2 * LARGE_LEN) };
    assert!(!larger.is_null(), "no memory");
    // SAFETY: so is this one, which has taken the other's place.
    unsafe { libc::free(black_box(larger)) };
}

/// Reads the clock as libc does where the kernel has given the processor's counter up.
#[expect(unsafe_code, reason = "libc has no way around the vDSO")]
pub fn read_clock() {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is there.
    let read = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(Errno::result(read), Ok(0));
}

/// The same of the day's time.
#[expect(unsafe_code, reason = "libc has no way around the vDSO")]
pub fn read_time_of_day() {
    let mut now = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let no_zone = std::ptr::null::<libc::c_void>();
    // SAFETY: the kernel writes one timeval, which is there, and no time zone.
    let read = unsafe { libc::syscall(libc::SYS_gettimeofday, &raw mut now, no_zone) };
    assert_eq!(Errno::result(read), Ok(0));
}

/// From now on this process ignores what an abort raises, so that libc has to take that back.
///
/// # Panics
/// The kernel refuses it.
#[expect(unsafe_code, reason = "signal handlers are the process's")]
pub fn ignore_aborts() {
    // SAFETY: no handler runs.
    unsafe { signal(Signal::SIGABRT, SigHandler::SigIgn) }.expect("a signal that can be ignored");
}

/// Makes a thread and waits for its end, as a program in C does, whose runtime asks the thread nothing.
///
/// # Panics
/// There is none.
#[expect(unsafe_code, reason = "the standard library's threads do more")]
pub fn make_thread() {
    extern "C" fn nothing(_: *mut libc::c_void) -> *mut libc::c_void {
        std::ptr::null_mut()
    }
    let mut thread = 0;
    // SAFETY: libc writes the thread's name to where there is room for it; the thread touches nothing.
    let made =
        unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), nothing, std::ptr::null_mut()) };
    assert_eq!(made, 0, "no thread");
    // SAFETY: it was made just now, and nobody else waits for it.
    assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0, "no end");
}

/// Waits for nothing, for two seconds.
pub fn wait() {
    assert_eq!(poll(&mut [], PollTimeout::from(WAIT_MS)), Ok(0));
}

/// Whether one of the process's threads is in that system call.
fn is_in(process: Pid, call: i64) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut calls = threads.filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    calls.any(|text| text.split(' ').next() == Some(&call.to_string()))
}

#[cfg(test)]
mod tests {
    use jail::allow;

    use super::*;

    fn is_refused(ended: WaitStatus) -> bool {
        matches!(ended, WaitStatus::Signaled(_, Signal::SIGSYS, _))
    }

    fn filter(names: &[&str]) -> SyscallFilter {
        let rules = vec![
            allow!(SYS_brk, "a heap grows and shrinks"),
            allow!(SYS_mmap, "a heap grows and shrinks"),
            allow!(SYS_munmap, "a heap grows and shrinks"),
            allow!(SYS_mprotect, "a heap grows and shrinks"),
            allow!(SYS_mremap, "a heap grows and shrinks"),
            allow!(SYS_madvise, "a heap grows and shrinks"),
            allow!(SYS_openat, "a heap grows and shrinks"),
            allow!(SYS_read, "a heap grows and shrinks"),
            allow!(SYS_close, "a heap grows and shrinks"),
            allow!(SYS_clock_gettime, "without the vDSO"),
            allow!(SYS_gettimeofday, "without the vDSO"),
            allow!(SYS_poll, "waits, and goes on"),
            allow!(SYS_restart_syscall, "waits, and goes on"),
            allow!(SYS_rt_sigprocmask, "a thread's or a process's end"),
            allow!(SYS_sigaltstack, "a thread's or a process's end"),
            allow!(SYS_gettid, "raises its signal"),
            allow!(SYS_getpid, "raises its signal"),
            allow!(SYS_tgkill, "raises its signal"),
            allow!(SYS_futex, "what unwinds is found once"),
            allow!(SYS_exit, "a thread's or a process's end"),
            allow!(SYS_exit_group, "a thread's or a process's end"),
        ];
        let rules = rules.into_iter().filter(|rule| !names.contains(&rule.name)).collect();
        SyscallFilter::new("test", rules)
    }

    /// How work ends that lacks this call.
    fn without(name: &str, heap: Heap, end: End, work: fn()) -> WaitStatus {
        Confined { filter: &filter(&[name]), heap, end }.ended(work)
    }

    #[test]
    fn each_heap_grows_and_shrinks_by_its_calls() {
        for (heap, calls) in [
            (Heap::Process, ["SYS_brk", "SYS_mmap", "SYS_mremap", "SYS_munmap"].as_slice()),
            // The first thread whose heap shrinks asks how memory is overcommitted.
            (
                Heap::Thread,
                &["SYS_mmap", "SYS_mprotect", "SYS_mremap", "SYS_munmap", "SYS_madvise", "SYS_openat"],
            ),
        ] {
            for name in calls {
                let ended = without(name, heap, End::Process, use_heap);
                assert!(is_refused(ended), "{heap:?} without {name}: {ended:?}");
            }
            Confined { filter: &filter(&[]), heap, end: End::Process }.run(use_heap);
        }
    }

    #[test]
    fn an_abort_a_clock_and_an_end_need_their_calls() {
        let [thread, process] = [End::Thread, End::Process];
        for (name, end, work) in [
            ("SYS_gettid", thread, (|| std::process::abort()) as fn()),
            ("SYS_getpid", thread, || std::process::abort()),
            ("SYS_tgkill", thread, || std::process::abort()),
            ("SYS_rt_sigprocmask", thread, || std::process::abort()),
            ("SYS_clock_gettime", thread, read_clock),
            ("SYS_gettimeofday", thread, read_time_of_day),
            ("SYS_exit", thread, || ()),
            ("SYS_sigaltstack", thread, || ()),
            ("SYS_exit_group", process, || ()),
        ] {
            assert!(is_refused(without(name, Heap::Thread, end, work)), "{name}");
        }
        let all = filter(&[]);
        Confined { filter: &all, heap: Heap::Thread, end: End::Thread }.run(read_clock);
        Confined { filter: &all, heap: Heap::Thread, end: End::Thread }.abort();
    }

    #[test]
    fn a_wait_that_was_stopped_goes_on_by_a_call_of_its_own() {
        Confined { filter: &filter(&[]), heap: Heap::Thread, end: End::Thread }.stop();
        let filter = filter(&["SYS_restart_syscall"]);
        let stopped = || Confined { filter: &filter, heap: Heap::Thread, end: End::Thread }.stop();
        assert!(std::panic::catch_unwind(stopped).is_err());
    }

    #[test]
    #[should_panic(expected = "Exited")]
    fn work_that_panics_is_told() {
        let filter = filter(&[]);
        let panics = || std::panic::resume_unwind(Box::new(()));
        Confined { filter: &filter, heap: Heap::Thread, end: End::Thread }.run(panics);
    }
}
