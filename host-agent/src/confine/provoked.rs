//! What libc and the standard library do of themselves, or where a host is another than the tests', in the agent and its helpers: they
//! may.

use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use confined_libc::{Confined, End, Heap, make_thread, read_clock, read_time_of_day, use_heap};
use jail::Verdict;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, copy_file_range};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile64;
use nix::sys::signal::Signal;
use nix::sys::stat::fstatat;
use nix::sys::uio::readv;
use nix::time::{ClockId, clock_nanosleep};
use nix::unistd::{SysconfVar, sysconf};
use tokio::process::Command;

use super::*;
use crate::registry;

/// Shorter than anybody waits for.
const MOMENT_NS: i64 = 1;
/// Bytes of a file.
const COPIED: u64 = 70_000;

/// Copies one file's rest into another: how many bytes.
type Copy = fn(File, File) -> u64;

fn agent() -> (SyscallFilter, End) {
    (filter(), End::Thread)
}

fn unzip() -> (SyscallFilter, End) {
    let [unzip, _] = confined::filters();
    (unzip, End::Process)
}

fn pack() -> (SyscallFilter, End) {
    let [_, pack] = confined::filters();
    (pack, End::Process)
}

fn pull() -> (SyscallFilter, End) {
    (registry::filter(), End::Process)
}

fn under(filters: &[(SyscallFilter, End)], heap: Heap, what: impl Fn(Confined<'_>)) {
    for (filter, end) in filters {
        what(Confined { filter, heap, end: *end });
    }
}

/// The same where nothing depends on the heap.
fn under_each(filters: &[(SyscallFilter, End)], what: impl Fn(Confined<'_>)) {
    under(filters, Heap::Process, what);
}

#[test]
fn heaps_grow_and_shrink() {
    under(&[agent(), unzip(), pack(), pull()], Heap::Process, |thread| thread.run(use_heap));
    under(&[agent(), pull()], Heap::Thread, |thread| thread.run(use_heap));
}

#[test]
fn clocks_are_read_without_the_vdso() {
    under_each(&[agent(), pack(), pull()], |thread| {
        thread.run(read_clock);
        thread.run(read_time_of_day);
    });
}

#[test]
fn a_wait_goes_on_after_a_stop() {
    under_each(&[agent(), pull()], |thread| thread.stop());
}

#[test]
fn a_thread_waits_for_a_moment_and_gives_way() {
    under_each(&[agent()], |thread| {
        thread.run(|| {
            let moment = nix::libc::timespec { tv_sec: 0, tv_nsec: MOMENT_NS }.into();
            clock_nanosleep(ClockId::CLOCK_MONOTONIC, nix::time::ClockNanosleepFlags::empty(), &moment)
                .unwrap();
        });
        thread.run(std::thread::yield_now);
    });
}

#[test]
fn an_abort_ends_the_process_by_its_own_signal() {
    under_each(&[agent()], |thread| thread.abort());
    under_each(&[agent()], |thread| thread.abort_after(confined_libc::ignore_aborts));
}

#[test]
fn a_panic_says_where() {
    under_each(&[agent()], |thread| {
        thread.run(|| {
            let said = std::backtrace::Backtrace::force_capture().to_string();
            assert!(said.contains("provoked"), "{said}");
        });
    });
}

#[test]
fn libc_asks_how_much_memory_there_is() {
    under_each(&[agent(), pull()], |thread| {
        thread.run(|| assert!(sysconf(SysconfVar::_PHYS_PAGES).unwrap() > Some(0)));
    });
}

#[test]
fn the_resolver_reads_into_several_buffers() {
    under_each(&[agent(), pull()], |thread| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"both").unwrap();
        thread.run(move || {
            let (mut one, mut other) = ([0; 2], [0; 2]);
            readv(reader, &mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut other)]).unwrap();
            assert_eq!([one, other].concat(), b"both");
        });
    });
}

/// A range is copied within one file system only; shared memory is one of its own. What the standard library does then, and mkfs.erofs.
#[test]
fn a_file_is_copied_to_another_file_system() {
    let copy = |mut from: File, mut to: File| io::copy(&mut from, &mut to).unwrap();
    let send = |from: File, to: File| {
        let ranged = copy_file_range(&from, None, &to, None, COPIED as usize);
        assert_eq!(ranged, Err(Errno::EXDEV));
        sendfile64(to, from, None, COPIED as usize).unwrap() as u64
    };
    let ways: [(_, Copy); 2] = [(agent(), copy), (pack(), send)];
    for (filter, way) in ways {
        let mut from = File::from(memfd_create("from", MFdFlags::empty()).unwrap());
        let to = tempfile::tempfile().unwrap();
        from.write_all(&[7; COPIED as usize]).unwrap();
        from.rewind().unwrap();
        let mut copied = to.try_clone().unwrap();
        under_each(&[filter], move |thread| {
            let [from, to] = [&from, &to].map(|file| file.try_clone().unwrap());
            thread.run(move || assert_eq!(way(from, to), COPIED));
        });
        copied.rewind().unwrap();
        let mut content = Vec::new();
        copied.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; COPIED as usize]);
    }
}

#[test]
fn an_older_libc_asks_for_lengths_by_paths() {
    under_each(&[pack()], |thread| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"seven b").unwrap();
        thread.run(move || {
            assert_eq!(fstatat(file.as_fd(), "", AtFlags::AT_EMPTY_PATH).unwrap().st_size, 7);
        });
    });
}

/// systemd's filter for namespaces answers so, and the helpers inherit it.
#[test]
fn a_thread_is_made_where_there_is_no_clone3() {
    let (pack, end) = pack();
    let mut units = SyscallFilter { name: "unit", rules: pack.rules.clone() };
    units.rules.push(allow!(SYS_clone, arg 0 without libc::CLONE_NEWUSER, "whatever was left out"));
    units.rules.push(allow!(SYS_prctl, "the next filter is put on"));
    units.rules.push(allow!(SYS_seccomp, "the next filter is put on"));
    let mut known = std::collections::HashSet::new();
    units.rules.retain(|rule| known.insert(rule.number));
    let clone3 = units.rules.iter_mut().find(|rule| rule.number == libc::SYS_clone3).unwrap();
    clone3.verdict = Verdict::Absent;
    let pack = pack.compile().unwrap();
    Confined { filter: &units, heap: Heap::Process, end }.run(move || {
        pack.apply().unwrap();
        make_thread();
    });
}

#[test]
fn a_helper_that_takes_too_long_is_ended() {
    under_each(&[agent()], |thread| {
        thread.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let status = runtime.block_on(async {
                let mut helper = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
                helper.start_kill().unwrap();
                helper.wait().await.unwrap()
            });
            assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        });
    });
}
