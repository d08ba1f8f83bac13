//! What the launcher may call. A filter is inherited, so this one allows what the sandboxes' does (`crates/jail/src/sandbox.rs`), and
//! what is applied in a sandbox is the rest of what that one refuses.

use jail::{SyscallFilter, allow, sandbox_rules};

/// For the launcher.
pub(crate) fn launcher() -> SyscallFilter {
    let mut rules = sandbox_rules();
    rules.extend([
        allow!(SYS_prctl, "a room: rights, core scheduling, the launcher's end"),
        allow!(SYS_clone3, "makes a process in its namespaces and its control group"),
        allow!(SYS_unshare, "the next network; a process's own view of control groups"),
        allow!(SYS_setns, arg 1 = libc::CLONE_NEWNET, "a network that a sandbox has left"),
        allow!(SYS_accept4, "the agent connects"),
        allow!(SYS_newfstatat, "what the agent hands over is a pipe"),
        allow!(SYS_wait4, "sees to processes that have ended"),
        allow!(SYS_pipe2, "what a process says of its room; how it ends"),
        allow!(SYS_mkdirat, "control groups"),
        allow!(SYS_unlinkat, "control groups"),
        allow!(SYS_setsid, "a room: its session"),
        allow!(SYS_mount, "a room: nothing of it is seen elsewhere"),
        allow!(SYS_fsopen, "a room: its root, its own process's directory"),
        allow!(SYS_fsconfig, "a room: the same"),
        allow!(SYS_fsmount, "a room: the same"),
        allow!(SYS_move_mount, "a room: its root"),
        allow!(SYS_pivot_root, "a room: its root"),
        allow!(SYS_umount2, "a room: what was the root"),
        allow!(SYS_fchdir, "a room: its root"),
        allow!(SYS_chdir, "a room: its root"),
        allow!(SYS_dup2, "a room: what is handed over"),
        allow!(SYS_close_range, "a room: what is not"),
        allow!(SYS_setgroups, "a room: its user"),
        allow!(SYS_setresgid, "a room: its user"),
        allow!(SYS_setresuid, "a room: its user"),
        allow!(SYS_capset, "a room: its capabilities"),
    ]);
    SyscallFilter::new("launcher", rules)
}

#[cfg(test)]
mod tests {
    use jail::sandbox_filter;

    use super::*;

    /// For `cargo xtask seccomp`.
    #[cfg(without_rule)]
    #[test]
    fn print_every_rule() {
        launcher().print();
    }

    #[test]
    fn the_filters_compile() {
        launcher().compile().expect("compiles");
        sandbox_filter().compile_upon(&launcher()).expect("compiles");
    }
}
