//! What this process may still do once a guest can run: the jail's plan and one system call filter a thread kind.
//!
//! Everything is open by then: files, sockets, KVM. So no path, no new program, no new thread, no new VM. A rule is here
//! because the tests need it; the reason says for what.

use std::sync::Arc;

use jail::{CompiledFilter, FilterError, JailPlan, Limit, Resource, SyscallFilter, SyscallRule, allow};
use vmm_sys_util::signal::SIGRTMIN;

/// ioctl numbers of `linux/kvm.h` (x86-64) for the two requests that a vCPU thread makes.
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;

/// Descriptors that a VMM may have open: devices and vCPUs take under 100, the rest are vsock connections.
const MAX_OPEN_FILES: u64 = 1024;

/// The filters, ready to apply.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    pub(crate) vcpu: Arc<CompiledFilter>,
    pub(crate) io: Arc<CompiledFilter>,
}

/// Compiled while the process is still free to allocate as it likes.
pub(crate) fn filters() -> Result<Filters, FilterError> {
    Ok(Filters { vcpu: Arc::new(vcpu_filter().compile()?), io: Arc::new(io_filter().compile()?) })
}

/// For the whole process.
pub(crate) fn plan() -> JailPlan {
    let limit = |resource, value, reason| Limit { resource, value, reason };
    JailPlan {
        limits: vec![
            limit(Resource::RLIMIT_CORE, 0, "guest memory must not reach a disk"),
            limit(
                Resource::RLIMIT_NOFILE,
                MAX_OPEN_FILES,
                "bounds vsock connections, whatever the device thinks",
            ),
            limit(Resource::RLIMIT_MEMLOCK, 0, "nothing here locks memory"),
        ],
        paths: Vec::new(),
    }
}

/// Both kinds of thread: the allocator, locks, waking each other, the end.
fn common_rules() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_read, "eventfds; files and sockets of devices"),
        allow!(SYS_write, "eventfds; serial output; the log line before the end"),
        allow!(SYS_poll, "whether serial output has room; the last line is written by the I/O thread"),
        allow!(SYS_close, "drop descriptors"),
        allow!(SYS_fcntl, arg 1 = libc::F_GETFD, "debug builds look whether a descriptor is open before they close it"),
        allow!(SYS_futex, "locks and channels between threads"),
        allow!(SYS_brk, "the allocator grows the heap"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "the allocator maps memory"),
        allow!(SYS_mprotect, arg 2 without libc::PROT_EXEC, "the allocator extends a thread's heap"),
        allow!(SYS_munmap, "the allocator and ending threads unmap memory"),
        allow!(SYS_mremap, "the allocator grows a large block"),
        allow!(SYS_madvise, "the allocator gives memory back"),
        allow!(SYS_rt_sigreturn, "return from the kick signal's handler"),
        allow!(SYS_rt_sigprocmask, "abort and thread exit block signals"),
        allow!(SYS_sigaltstack, "the standard library's stack guard of an ending thread"),
        allow!(SYS_sched_yield, "contended channels"),
        allow!(SYS_gettid, "abort raises a signal in its own thread"),
        allow!(SYS_getpid, "abort raises a signal in its own process"),
        allow!(SYS_tgkill, arg 2 = libc::SIGABRT, "abort on a broken invariant"),
        allow!(SYS_exit, "the end of a thread"),
        allow!(SYS_exit_group, "the end of the process"),
    ]
}

fn vcpu_filter() -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_ioctl, arg 1 = KVM_RUN, "run the guest"),
        allow!(SYS_epoll_ctl, arg 1 = libc::EPOLL_CTL_DEL, "a driver resets the socket device: its connections are dropped at once"),
        allow!(SYS_ioctl, arg 1 = KVM_KVMCLOCK_CTRL, "tell kvm-clock that the vCPU was paused"),
    ]);
    SyscallFilter { name: "vcpu", rules }
}

fn io_filter() -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_epoll_wait, "wait for something to do"),
        allow!(SYS_epoll_ctl, "watch vsock connections; stop watching devices while paused"),
        allow!(SYS_preadv, "block devices read, straight into guest memory"),
        allow!(SYS_pwritev, "block devices write, straight from guest memory"),
        allow!(SYS_fdatasync, "block devices flush"),
        allow!(SYS_lseek, "read the process's memory map again for metrics"),
        allow!(SYS_getrandom, "entropy device"),
        allow!(SYS_recvmsg, "control requests; vsock connections from the broker; vsock data from the host"),
        allow!(SYS_sendmsg, "control answers; vsock connections to the broker; vsock data to the host"),
        allow!(SYS_sendto, "vsock data that waited for the host to read"),
        allow!(SYS_shutdown, "vsock half-close"),
        allow!(SYS_socketpair, arg 0 = libc::AF_UNIX, "a vsock connection that the guest opens"),
        allow!(SYS_tgkill, arg 2 = SIGRTMIN(), "kick a vCPU thread out of the guest"),
    ]);
    SyscallFilter { name: "io", rules }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_every_rule_has_a_reason() {
        filters().expect("compile");
        for rule in vcpu_filter().rules.iter().chain(&io_filter().rules) {
            assert!(rule.reason.len() > 10, "{} needs a reason", rule.name);
        }
    }

    #[test]
    fn no_thread_can_open_run_or_trace_anything() {
        let forbidden = [
            "open", "openat", "openat2", "execve", "execveat", "clone", "clone3", "fork", "ptrace", "socket",
        ];
        for rule in vcpu_filter().rules.iter().chain(&io_filter().rules) {
            let name = rule.name.trim_start_matches("SYS_");
            assert!(!forbidden.contains(&name), "{name} is allowed");
        }
    }
}
