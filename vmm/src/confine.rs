//! What this process may still do once a guest can run: the jail's plan and one system call filter a thread kind.
//!
//! Everything is open by then: files, sockets, KVM. So no path, no new program, no new thread, no new VM. A rule is here
//! because the tests need it; the reason says for what.

use std::sync::Arc;

use jail::{
    CompiledFilter, FilterError, JailError, JailPlan, Limit, Resource, SyscallFilter, SyscallRule, allow,
};
use nix::sys::{prctl, resource};
use vmm_sys_util::signal::SIGRTMIN;

use crate::requests::*;

/// Descriptors that a VMM may have open: devices and vCPUs take under 100, the rest are vsock connections.
const MAX_OPEN_FILES: u64 = 1024;

/// No machine has a longer file: 10,240 MiB of memory, as much of `/tmp`.
const MAX_FILE_LEN: u64 = 12 << 30;

/// What a confined process has still to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Run the machine that it has built.
    Boot,
    /// Become the machine of a snapshot first.
    Load,
}

/// The filters, ready to apply.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    pub(crate) vcpu: Arc<CompiledFilter>,
    pub(crate) io: Arc<CompiledFilter>,
    pub(crate) pager: Arc<CompiledFilter>,
}

/// Compiled while the process is still free to allocate as it likes.
pub(crate) fn filters(role: Role) -> Result<Filters, FilterError> {
    Ok(Filters {
        vcpu: Arc::new(vcpu_filter(role).compile()?),
        io: Arc::new(io_filter(role).compile()?),
        pager: Arc::new(pager_filter().compile()?),
    })
}

/// Nobody traces this process or reads its memory, not even a process of the same user: nothing of a customer's is in it yet.
/// The plan does it once more, with the rest.
pub(crate) fn close_to_others() -> Result<(), JailError> {
    prctl::set_dumpable(false).map_err(JailError::NonDumpable)
}

/// From now on no file becomes longer, whatever a device thinks: drives and snapshots lie on a disk that all sandboxes share. For a
/// process under [`plan`], before its guest runs.
pub(crate) fn bound_files(len: u64) -> Result<(), JailError> {
    let limit =
        Limit { resource: Resource::RLIMIT_FSIZE, value: len, reason: "the longest file of this machine" };
    resource::setrlimit(limit.resource, len, len).map_err(|source| JailError::Limit { limit, source })
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
            limit(
                Resource::RLIMIT_FSIZE,
                MAX_FILE_LEN,
                "bounds files until the machine is known, see `bound_files`",
            ),
        ],
        ..JailPlan::default()
    }
}

/// All kinds of thread: the allocator, locks, waking each other, abort.
fn common_rules() -> Vec<SyscallRule> {
    vec![
        allow!(SYS_write, "eventfds; serial output; frames of the guest; the log line before the end"),
        allow!(
            SYS_poll,
            "whether serial output has room; the last line is written by the I/O thread; an answer to who asked for a chunk"
        ),
        allow!(SYS_close, "drop descriptors"),
        allow!(SYS_fcntl, arg 1 = libc::F_GETFD, "debug builds look whether a descriptor is open before they close it"),
        allow!(SYS_futex, "locks and channels between threads"),
        allow!(
            SYS_clock_gettime,
            "where the clock cannot be read without the kernel: a host whose TSC is not to be trusted"
        ),
        allow!(SYS_brk, "the allocator grows the heap"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "the allocator maps memory"),
        allow!(SYS_munmap, "the allocator and ending threads unmap memory"),
        allow!(SYS_mremap, "the allocator grows a large block"),
        allow!(SYS_madvise, "the allocator gives memory back; guest memory in small pages"),
        allow!(SYS_rt_sigprocmask, "abort and thread exit block signals"),
        allow!(SYS_sigaltstack, "the standard library's stack guard of an ending thread"),
        allow!(SYS_sched_yield, "contended channels"),
        allow!(SYS_gettid, "abort raises a signal in its own thread"),
        allow!(SYS_getpid, "abort raises a signal in its own process"),
        allow!(SYS_tgkill, arg 2 = libc::SIGABRT, "abort on a broken invariant"),
    ]
}

fn vcpu_filter(role: Role) -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_ioctl, arg 1 = KVM_RUN, "run the guest"),
        allow!(SYS_rt_sigreturn, "return from the kick signal's handler"),
        allow!(SYS_exit, "the end of a thread"),
        allow!(SYS_epoll_ctl, arg 1 = libc::EPOLL_CTL_DEL, "a driver resets the socket device: its connections are dropped at once"),
        allow!(SYS_ioctl, arg 1 = KVM_KVMCLOCK_CTRL, "tell kvm-clock that the vCPU was paused"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_MP_STATE, "snapshot: running, halted or waiting"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_TSC_KHZ, "snapshot: the guest's TSC rate"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_REGS, "snapshot: general registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_SREGS, "snapshot: special registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_XSAVE, "snapshot: vector registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_XCRS, "snapshot: extended control registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_DEBUGREGS, "snapshot: debug registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_LAPIC, "snapshot: the local APIC"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_MSRS, "snapshot: model-specific registers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_VCPU_EVENTS, "snapshot: interrupts under way"),
    ]);
    if role == Role::Load {
        rules.extend([
            allow!(SYS_ioctl, arg 1 = KVM_SET_CPUID2, "load: features that this host has more of than the saved one"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_MP_STATE, "load: running, halted or waiting"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_TSC_KHZ, "load: the guest's TSC rate"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_REGS, "load: general registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_SREGS, "load: special registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_XSAVE, "load: vector registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_XCRS, "load: extended control registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_DEBUGREGS, "load: debug registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_LAPIC, "load: the local APIC"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_MSRS, "load: model-specific registers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_VCPU_EVENTS, "load: interrupts under way"),
        ]);
    }
    SyscallFilter::new("vcpu", rules)
}

fn io_filter(role: Role) -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_read, "eventfds; files and sockets of devices; frames for the guest"),
        allow!(SYS_exit_group, "the end of the process"),
        allow!(SYS_epoll_wait, "wait for something to do"),
        allow!(SYS_epoll_ctl, "watch vsock connections; stop watching devices while paused"),
        allow!(SYS_timerfd_settime, "frames that wait because their rate is used up"),
        allow!(SYS_preadv, "block devices read, straight into guest memory"),
        allow!(SYS_pwritev, "block devices write, straight from guest memory"),
        allow!(SYS_fdatasync, "block devices flush"),
        allow!(SYS_lseek, "read the process's memory map again for metrics; the length of a loaded drive"),
        allow!(SYS_getrandom, "entropy device; what makes a snapshot's keys its own"),
        allow!(SYS_recvmsg, "control requests; vsock connections from the broker; vsock data from the host; a chunk of a drive that was asked for"),
        allow!(SYS_sendmsg, "control answers; vsock connections to the broker; vsock data to the host; to ask for a chunk of a drive"),
        allow!(SYS_sendto, "vsock data that waited for the host to read"),
        allow!(SYS_shutdown, "vsock half-close"),
        allow!(SYS_socketpair, arg 0 = libc::AF_UNIX, "a vsock connection that the guest opens"),
        allow!(SYS_tgkill, arg 2 = SIGRTMIN(), "kick a vCPU thread out of the guest"),
        allow!(SYS_fcntl, arg 1 = libc::F_GETFL, "snapshot and load: what their descriptors may be used for"),
        allow!(SYS_statx, "snapshot and load: their descriptors are regular files of some length"),
        allow!(SYS_ftruncate, "snapshot: files are cut to their length, which leaves holes for zeros"),
        allow!(SYS_pread64, "chunks of drives; snapshot: which pages of memory exist; load: the state file, pages that are wanted first"),
        allow!(SYS_pwrite64, "snapshot: both files"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_IRQCHIP, "snapshot: interrupt controllers"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_CLOCK, "snapshot: the guest's clock"),
        allow!(SYS_ioctl, arg 1 = KVM_SET_USER_MEMORY_REGION, "snapshot and load: begin and end to log which pages change"),
        allow!(SYS_ioctl, arg 1 = KVM_GET_DIRTY_LOG, "snapshot: which pages have changed"),
    ]);
    if role == Role::Load {
        rules.extend([
            allow!(SYS_epoll_create1, "load: the descriptors of devices"),
            allow!(SYS_timerfd_create, "load: the alarm of a network device that has an uplink"),
            allow!(SYS_eventfd2, "load: interrupts and notifications of devices"),
            allow!(
                SYS_fcntl, arg 1 = libc::F_SETFL,
                "load: the socket device's broker does not block; pages that are wanted first are read past the page cache"
            ),
            allow!(SYS_preadv2, "load: whether pages that are wanted first are in the page cache"),
            allow!(SYS_fcntl, arg 1 = libc::F_DUPFD_CLOEXEC, "load: devices and registers share eventfds"),
            allow!(
                SYS_getsockopt,
                "load: the kind of the socket device's broker, and of sockets to ask for chunks"
            ),
            allow!(SYS_ioctl, arg 1 = KVM_IRQFD, "load: interrupts of devices"),
            allow!(SYS_ioctl, arg 1 = KVM_IOEVENTFD, "load: notifications of devices"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_IRQCHIP, "load: interrupt controllers"),
            allow!(SYS_ioctl, arg 1 = KVM_SET_CLOCK, "load: the guest's clock"),
            allow!(SYS_ioctl, arg 1 = UFFDIO_REGISTER, "load: the pages that the snapshot holds"),
            allow!(SYS_prlimit64, arg 1 = libc::RLIMIT_FSIZE, "load: no file becomes longer than this machine's longest"),
        ]);
    }
    SyscallFilter::new("io", rules)
}

fn pager_filter() -> SyscallFilter {
    let mut rules = common_rules();
    rules.extend([
        allow!(SYS_read, "what the guest waits for"),
        allow!(SYS_exit, "the end of a thread"),
        allow!(SYS_exit_group, "the end of the process"),
        allow!(SYS_pread64, "chunks of memory and of what is wanted first, and where they are"),
        allow!(SYS_ioctl, arg 1 = UFFDIO_COPY, "pages into guest memory"),
        allow!(SYS_ioctl, arg 1 = UFFDIO_ZEROPAGE, "zeros into guest memory"),
        allow!(SYS_ioctl, arg 1 = UFFDIO_WAKE, "a second vCPU that waited for the same chunk"),
        allow!(SYS_recvmsg, "a chunk that was asked for"),
        allow!(SYS_sendmsg, "ask for a chunk; tell the client why the process ends"),
    ]);
    SyscallFilter::new("pager", rules)
}

/// A machine that never runs needs nothing but to wait.
pub(crate) fn resident_filter() -> SyscallFilter {
    let rules = vec![
        allow!(SYS_write, "say that the machine stays"),
        allow!(SYS_pause, "wait for the signal that ends the process"),
    ];
    SyscallFilter::new("resident", rules)
}

#[cfg(test)]
mod provoked;

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = SyscallRule> {
        [vcpu_filter(Role::Load), io_filter(Role::Load), pager_filter(), resident_filter()]
            .into_iter()
            .flat_map(|filter| filter.rules)
    }

    /// For `cargo xtask seccomp`.
    #[cfg(without_rule)]
    #[test]
    fn print_every_rule() {
        // The last one is in force from before the program begins.
        let own = [vcpu_filter(Role::Load), io_filter(Role::Load), pager_filter(), resident_filter()];
        own.iter().chain(&[jail::sandbox_filter()]).for_each(SyscallFilter::print);
    }

    #[test]
    fn the_filters_compile_and_every_rule_has_a_reason() {
        for role in [Role::Boot, Role::Load] {
            filters(role).expect("compile");
        }
        for rule in all() {
            assert!(rule.reason.len() > 10, "{} needs a reason", rule.name);
        }
    }

    /// Its filter is in force beside them: a call that it has not ends a process that runs in a sandbox, and none elsewhere.
    #[test]
    fn every_call_of_these_filters_is_one_of_a_sandboxs() {
        let sandboxs = jail::sandbox_filter().rules;
        let missing = all().filter(|rule| !sandboxs.iter().any(|other| other.name == rule.name));
        // A machine that never runs is in no sandbox.
        let missing: Vec<&str> = missing.map(|rule| rule.name).filter(|name| *name != "SYS_pause").collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// The vDSO makes a call of it where the kernel has given the TSC up, which may be while the thread runs.
    #[test]
    fn every_thread_of_a_machine_may_read_the_clock_by_a_call() {
        for filter in [vcpu_filter(Role::Boot), io_filter(Role::Boot), pager_filter()] {
            assert!(filter.rules.iter().any(|rule| rule.name == "SYS_clock_gettime"), "{}", filter.name);
        }
    }

    #[test]
    fn no_thread_can_open_run_or_trace_anything() {
        let forbidden = [
            "open", "openat", "openat2", "execve", "execveat", "clone", "clone3", "fork", "ptrace", "socket",
        ];
        for rule in all() {
            let name = rule.name.trim_start_matches("SYS_");
            assert!(!forbidden.contains(&name), "{name} is allowed");
        }
    }
}
