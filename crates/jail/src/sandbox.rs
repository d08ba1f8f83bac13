//! What every sandbox's process may call, from its room on: what a `vmm` needs to come to its own filters (`vmm/src/confine.rs`), which
//! allow much less, and then what those allow. It bounds what a `vmm` could do that forgot them.
//!
//! A launcher puts this on a sandbox and its own filter, which allows all of it, on itself: filters are inherited. The tests of `vmm`
//! start it under this one, so that each rule is one that a `vmm` misses.

use crate::{SyscallFilter, SyscallRule, absent, allow};

/// Every namespace that a process can be made with.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// For the process that becomes a sandbox's program.
#[must_use]
pub fn sandbox_filter() -> SyscallFilter {
    let mut rules = sandbox_rules();
    rules.extend([
        absent!(SYS_clone3, "its flags are out of a filter's sight; libc makes threads by clone then"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_PDEATHSIG, "the process ends with the launcher"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_NAME, "the process is called after its program"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_DUMPABLE, "nobody reads the process's memory"),
        allow!(SYS_prctl, arg 0 = libc::PR_SET_NO_NEW_PRIVS, "filters and landlock ask for it again"),
    ]);
    SyscallFilter::new("sandbox", rules)
}

/// Those of its rules that are a launcher's, too, as they are: a launcher may make processes and may call all of `prctl`.
#[must_use]
pub fn sandbox_rules() -> Vec<SyscallRule> {
    [beginning_rules(), running_rules()].concat()
}

/// Up to a `vmm`'s own filters.
fn beginning_rules() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_execveat, "the process becomes the program"),
        allow!(SYS_arch_prctl, "libc's thread-local storage"),
        allow!(SYS_set_tid_address, "libc's start of the first thread"),
        allow!(SYS_set_robust_list, "libc's start of a thread"),
        allow!(SYS_rseq, "libc's start of a thread"),
        allow!(SYS_prlimit64, "limits; libc asks for the stack's size"),
        allow!(SYS_readlink, "libc looks for where its program is"),
        allow!(SYS_openat, "its own process's directory; libc and landlock look for what is not there"),
        allow!(SYS_rt_sigaction, "handlers of the standard library; that of the kick signal"),
        allow!(SYS_sched_getaffinity, "libc looks for the first thread's stack"),
        allow!(SYS_clone, arg 0 without NAMESPACES, "libc makes a thread"),
        allow!(SYS_seccomp, "a thread's own filter"),
        allow!(SYS_landlock_create_ruleset, "the process closes all paths"),
        allow!(SYS_landlock_restrict_self, "the process closes all paths"),
    ]
}

/// What a `vmm`'s own filters allow, mostly on fewer conditions; `vmm/src/confine.rs` says more of each.
fn running_rules() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_read, "files, sockets and eventfds"),
        allow!(SYS_write, "files, eventfds, the last line"),
        allow!(SYS_pread64, "chunks and snapshots"),
        allow!(SYS_preadv2, "what of a content is in the page cache"),
        allow!(SYS_pwrite64, "snapshots are written"),
        allow!(SYS_preadv, "drives are read"),
        allow!(SYS_pwritev, "drives are written"),
        allow!(SYS_fdatasync, "drives are flushed"),
        allow!(SYS_ftruncate, "snapshots are cut to length"),
        allow!(SYS_lseek, "the memory map, lengths of drives"),
        allow!(SYS_statx, "what descriptors are"),
        allow!(SYS_fcntl, "what descriptors may be used for"),
        allow!(SYS_close, "descriptors are closed"),
        allow!(SYS_ioctl, "KVM and userfaultfd; which ones is its own filters' matter"),
        allow!(SYS_poll, "a thread waits"),
        allow!(SYS_epoll_create1, "the I/O thread waits"),
        allow!(SYS_timerfd_create, "the alarm of a network device"),
        allow!(SYS_timerfd_settime, "frames wait because their rate is used up"),
        allow!(SYS_epoll_ctl, "the I/O thread waits"),
        allow!(SYS_epoll_wait, "the I/O thread waits"),
        allow!(SYS_eventfd2, "interrupts and notifications of devices"),
        allow!(SYS_recvmsg, "the control socket, vsock"),
        allow!(SYS_sendmsg, "the control socket, vsock"),
        allow!(SYS_sendto, "vsock data that waited"),
        allow!(SYS_shutdown, "vsock half-close"),
        allow!(SYS_socketpair, arg 0 = libc::AF_UNIX, "a vsock connection of the guest's"),
        allow!(SYS_getsockopt, "what its sockets are"),
        allow!(SYS_brk, "the allocator's heap"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "guest memory and the allocator's"),
        allow!(SYS_mprotect, arg 2 without libc::PROT_EXEC, "stacks and heaps"),
        allow!(SYS_munmap, "the allocator gives back"),
        allow!(SYS_mremap, "the allocator grows a block"),
        allow!(SYS_madvise, "guest memory in small pages"),
        allow!(SYS_futex, "locks and channels"),
        allow!(SYS_clock_gettime, "where the clock cannot be read without the kernel"),
        allow!(SYS_getrandom, "entropy, hash tables"),
        allow!(SYS_sched_yield, "contended channels"),
        allow!(SYS_rt_sigprocmask, "threads begin and end with signals blocked"),
        allow!(SYS_rt_sigreturn, "the end of a handler"),
        allow!(SYS_sigaltstack, "the standard library's stack guard"),
        allow!(SYS_gettid, "abort raises a signal"),
        allow!(SYS_getpid, "abort raises a signal"),
        allow!(SYS_tgkill, "abort; kicking a vCPU"),
        allow!(SYS_exit, "the end of a thread"),
        allow!(SYS_exit_group, "the end of the process"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        sandbox_filter().compile().expect("compiles");
    }

    #[test]
    fn a_sandbox_makes_no_namespace_no_mount_and_traces_nobody() {
        let forbidden = [
            "mount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "fsopen",
            "unshare",
            "setns",
            "bpf",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "keyctl",
            "add_key",
            "request_key",
            "perf_event_open",
            "io_uring_setup",
            "userfaultfd",
            "socket",
            "kill",
            "pidfd_open",
            "pidfd_send_signal",
            "pidfd_getfd",
            "init_module",
            "finit_module",
            "kexec_load",
            "chroot",
            "mknod",
            "setuid",
            "setresuid",
            "capset",
            "swapon",
            "reboot",
        ];
        for rule in sandbox_filter().rules {
            let name = rule.name.trim_start_matches("SYS_");
            assert!(!forbidden.contains(&name), "{name} is allowed");
        }
    }
}
