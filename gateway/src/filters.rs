//! What the gateway may call once it serves.

use jail::{SyscallFilter, allow};

use crate::tap::{TUNSETIFF, TUNSETIFINDEX};

/// For the one thread that there is. No socket is made any more, no program executed, no namespace entered, nothing opened but
/// what lies in the one directory that is open.
pub(crate) fn gateway() -> SyscallFilter {
    let rules = vec![
        allow!(SYS_accept4, "the agent connects"),
        allow!(SYS_getsockopt, "who it is"),
        allow!(SYS_recvfrom, "its requests; the kernel's answers"),
        allow!(SYS_sendmsg, "answers, with a tap"),
        allow!(SYS_sendto, "what the kernel is asked"),
        allow!(SYS_openat, "/dev/net/tun, by a directory: there is no path"),
        allow!(SYS_ioctl, arg 1 = TUNSETIFINDEX, "a tap's number"),
        allow!(SYS_ioctl, arg 1 = TUNSETIFF, "a tap"),
        allow!(SYS_close, "connections that end, taps that were handed over"),
        allow!(SYS_write, "the log"),
        allow!(SYS_brk, "the allocator's heap"),
        allow!(SYS_mmap, arg 2 without libc::PROT_EXEC, "the allocator's large blocks"),
        allow!(SYS_munmap, "the allocator gives back"),
        allow!(SYS_mremap, "the allocator grows a block"),
        allow!(SYS_fcntl, "the standard library looks whether what it closes is open, in debug builds"),
        allow!(SYS_rt_sigaction, "abort takes its signal back"),
        allow!(SYS_rt_sigprocmask, "abort lets its signal through"),
        allow!(SYS_gettid, "abort raises a signal"),
        allow!(SYS_getpid, "abort raises a signal"),
        allow!(SYS_tgkill, "abort raises a signal"),
        allow!(SYS_sigaltstack, "the gateway's end: the standard library's stack guard"),
        allow!(SYS_exit_group, "the gateway's end"),
    ];
    SyscallFilter::new("gateway", rules)
}

#[cfg(test)]
mod provoked;

#[cfg(test)]
mod tests {
    use super::*;

    /// For `cargo xtask seccomp`.
    #[cfg(without_rule)]
    #[test]
    fn print_every_rule() {
        gateway().print();
    }

    #[test]
    fn the_filter_compiles() {
        gateway().compile().expect("compiles");
    }

    #[test]
    fn it_makes_no_socket_executes_nothing_and_enters_no_namespace() {
        let forbidden = [
            "socket", "execve", "execveat", "clone", "clone3", "fork", "unshare", "setns", "mount", "bpf",
            "connect",
        ];
        for rule in gateway().rules {
            let name = rule.name.trim_start_matches("SYS_");
            assert!(!forbidden.contains(&name), "{name} is allowed");
        }
    }
}
