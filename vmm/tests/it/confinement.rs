//! The jail, seen from outside: what /proc says about a VMM that runs a guest.

#![expect(unsafe_code, reason = "the kernel is asked for its landlock")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use vmm_api::{Request, Response};

use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::user::User;

/// Budget for private memory beside the guest's. A static program of a debug build has its libc's pages for itself.
pub(crate) const MAX_OVERHEAD_BYTES: u64 =
    if cfg!(target_feature = "crt-static") { 6 << 20 } else { 4 << 20 };

/// What a VMM asks for at most (`crates/jail/src/paths.rs`).
const NEWEST_LANDLOCK: u32 = 6;

/// `linux/landlock.h`: LANDLOCK_CREATE_RULESET_VERSION.
const VERSION: u32 = 1;

/// Nobody's user.
const USER: User = User { number: 2_000_000_123, capabilities: 0 };

fn status_of(pid: u32, thread: &str, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim_start_matches(':').trim().to_owned()
}

/// Guest memory of [`machine`], bytes.
pub(crate) const MEMORY_LEN: u64 = 128 << 20;

/// The same of a file of a machine that has no disk and is not saved: its console or its log.
pub(crate) const LOG_LEN: u64 = 64 << 20;

/// How long a file may become that a process writes, bytes.
pub(crate) fn longest_file(vmm: &Vmm) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{}/limits", vmm.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file size")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "it could be raised");
    words[0].parse().unwrap()
}

#[test]
fn every_thread_is_filtered_and_cannot_gain_rights() {
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().spin(), &[]);
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", vmm.pid()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // Newer kernels list a thread of KVM's own (kvm-nx-lpage-recovery) among the process's.
        .filter(|thread| !status_of(vmm.pid(), thread, "Name").starts_with("kvm"))
        .collect();
    assert_eq!(threads.len(), 2, "one I/O thread and one vCPU");
    for thread in threads {
        assert_eq!(status_of(vmm.pid(), &thread, "Seccomp"), "2", "filter mode");
        assert_eq!(status_of(vmm.pid(), &thread, "NoNewPrivs"), "1");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", vmm.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    // Its memory, as a snapshot: it has no disk.
    assert_eq!(longest_file(&vmm), MEMORY_LEN);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}

/// It is closed before it takes its first request, so before anything of a customer's is in it.
#[test]
fn another_process_of_its_user_gets_nothing_of_one_that_has_no_machine_yet() {
    let vmm = Vmm::spawn_as(USER.number);
    vmm.metrics();
    USER.gets_nothing_of(vmm.pid());
    vmm.stop();
}

/// The newest version of landlock that the kernel has.
fn kernels_landlock() -> u32 {
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with LANDLOCK_CREATE_RULESET_VERSION the call reads nothing and makes nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    Errno::result(version).expect("these tests need landlock").try_into().unwrap()
}

#[test]
fn a_machine_says_which_landlock_confines_it_once_it_is_confined() {
    let blank = Vmm::spawn();
    assert_eq!(blank.metrics().landlock, None);
    blank.stop();
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().spin(), &[]);
    assert_eq!(vmm.metrics().landlock, Some(kernels_landlock().min(NEWEST_LANDLOCK)));
    vmm.stop();
}

#[test]
fn a_machine_costs_little_beside_its_guest() {
    let (vmm, _console) = Vmm::run(machine(), &Guest::new().spin(), &[]);
    let overhead = vmm.metrics().overhead_bytes;
    assert!((1..=MAX_OVERHEAD_BYTES).contains(&overhead), "{overhead} bytes");
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
}

#[test]
fn a_resident_machine_has_one_vcpu_and_no_rights() {
    let mut process =
        Command::new(env!("CARGO_BIN_EXE_vmm")).arg("--resident").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("stays"), "{line}");
    let pid = process.id();
    assert_eq!(status_of(pid, &pid.to_string(), "Seccomp"), "2", "filter mode");
    let machines: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().contains("kvm-v"))
        .collect();
    assert_eq!(machines.len(), 2, "a VM and its vCPU: {machines:?}");
    // It waits, until somebody ends it.
    while !status_of(pid, &pid.to_string(), "State").starts_with('S') {
        assert_eq!(process.try_wait().unwrap(), None);
    }
    process.kill().unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
}
