//! The plan of a jail and its execution. Not the system call filter: that is per thread, see `syscalls`.

use nix::errno::Errno;
use nix::sys::{prctl, resource};

use crate::paths::{self, PathRule, PortRule};

pub use nix::sys::resource::Resource;

/// What a process may still do after [`JailPlan::enter`]; everything that is not listed is refused by the kernel.
#[derive(Clone, Debug, Default)]
pub struct JailPlan {
    /// Resource limits, soft and hard alike.
    pub limits: Vec<Limit>,
    /// The only paths that can be opened. None: no path at all, no abstract socket, no signal to a process outside.
    pub paths: Vec<PathRule>,
    /// The only TCP ports that can be listened at or connected to.
    pub ports: Vec<PortRule>,
}

/// What the kernel had of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// The version of landlock that is enforced: the newest that both the kernel and this program know.
    pub landlock: u32,
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which one.
    pub resource: Resource,
    /// Soft and hard value, in the resource's own unit.
    pub value: u64,
    /// Why this value.
    pub reason: &'static str,
}

/// One thing that [`JailPlan::enter`] does.
#[derive(Clone, Debug)]
pub enum Step {
    /// No core dump, no ptrace by processes of the same user: memory holds a customer's data.
    SetNonDumpable,
    /// `setrlimit`.
    SetLimit(Limit),
    /// No gain of rights by `execve`; also what lets an unprivileged process use the steps below.
    SetNoNewPrivs,
    /// Landlock, with these exceptions.
    Restrict {
        /// What can be opened.
        paths: Vec<PathRule>,
        /// What can be listened at or connected to.
        ports: Vec<PortRule>,
    },
}

/// A step of the plan that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// `prctl(PR_SET_DUMPABLE)`.
    #[error("make the process non-dumpable")]
    NonDumpable(#[source] Errno),
    /// `setrlimit`.
    #[error("set resource limit {limit:?}")]
    Limit {
        /// The limit in question.
        limit: Limit,
        /// The kernel's answer.
        source: Errno,
    },
    /// `prctl(PR_SET_NO_NEW_PRIVS)`.
    #[error("set no_new_privs")]
    NoNewPrivs(#[source] Errno),
    /// A path of a rule cannot be opened.
    #[error("open {path} for a landlock rule")]
    Path {
        /// The path.
        path: String,
        /// Why not.
        source: landlock::PathFdError,
    },
    /// Landlock refused the rule set.
    #[error("build or enforce the landlock rule set")]
    Landlock(#[source] landlock::RulesetError),
    /// The running kernel has no landlock, or it is not among its active security modules.
    #[error(
        "landlock is not enforced by this kernel (CONFIG_SECURITY_LANDLOCK and lsm=landlock,… are needed)"
    )]
    NoLandlock,
}

impl JailPlan {
    /// What [`JailPlan::enter`] does, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::SetNonDumpable];
        steps.extend(self.limits.iter().copied().map(Step::SetLimit));
        steps.push(Step::SetNoNewPrivs);
        steps.push(Step::Restrict { paths: self.paths.clone(), ports: self.ports.clone() });
        steps
    }

    /// Confines the calling thread and every thread and process that it makes from now on. There is no way back.
    ///
    /// # Errors
    /// The first step that failed; the steps before it stay done, so the process should end.
    pub fn enter(&self) -> Result<Entered, JailError> {
        let mut entered = Entered::default();
        self.steps().into_iter().try_for_each(|step| execute(step, &mut entered))?;
        Ok(entered)
    }
}

fn execute(step: Step, entered: &mut Entered) -> Result<(), JailError> {
    match step {
        Step::SetNonDumpable => prctl::set_dumpable(false).map_err(JailError::NonDumpable),
        Step::SetLimit(limit) => resource::setrlimit(limit.resource, limit.value, limit.value)
            .map_err(|source| JailError::Limit { limit, source }),
        Step::SetNoNewPrivs => prctl::set_no_new_privs().map_err(JailError::NoNewPrivs),
        Step::Restrict { paths, ports } => {
            paths::restrict(&paths, &ports).map(|version| entered.landlock = version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_before_landlock_and_nothing_is_skipped() {
        let limit = Limit { resource: Resource::RLIMIT_CORE, value: 0, reason: "no dump" };
        let plan = JailPlan { limits: vec![limit], ..JailPlan::default() };
        let names: Vec<_> = plan
            .steps()
            .iter()
            .map(|step| match step {
                Step::SetNonDumpable => "dumpable",
                Step::SetLimit(_) => "limit",
                Step::SetNoNewPrivs => "privs",
                Step::Restrict { .. } => "paths",
            })
            .collect();
        assert_eq!(names, ["dumpable", "limit", "privs", "paths"]);
    }

    /// Landlock confines the calling thread only, so a thread of its own keeps the other tests free.
    #[test]
    fn an_empty_plan_refuses_every_path() {
        let refused = std::thread::spawn(|| {
            assert!(std::fs::read("/proc/self/status").is_ok());
            JailPlan::default().enter().expect("landlock is needed to run the tests");
            std::fs::read("/proc/self/status").map(|_| ()).map_err(|e| e.kind())
        })
        .join()
        .expect("thread");
        assert_eq!(refused, Err(std::io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_readable_directory_is_readable_and_not_writable() {
        let dir = std::env::temp_dir();
        let marker = dir.join(format!("jail-test-{}", std::process::id()));
        std::fs::write(&marker, b"x").expect("temp file");
        let plan = JailPlan {
            paths: vec![PathRule { path: dir, access: crate::Access::Read, reason: "test" }],
            ..JailPlan::default()
        };
        let copy = marker.clone();
        std::thread::spawn(move || {
            plan.enter().expect("landlock is needed to run the tests");
            assert!(std::fs::read(&copy).is_ok());
            assert!(std::fs::write(&copy, b"y").is_err());
            assert!(std::fs::read("/etc/hostname").is_err());
        })
        .join()
        .expect("thread");
        std::fs::remove_file(marker).expect("remove");
    }

    #[test]
    fn a_port_is_listened_at_when_it_is_named() {
        use std::net::{Ipv4Addr, TcpListener, TcpStream};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let rule = |access| PortRule { port: 0, access, reason: "test" };
        let plan = JailPlan { ports: vec![rule(crate::PortAccess::Listen)], ..JailPlan::default() };
        std::thread::spawn(move || {
            let entered = plan.enter().expect("landlock is needed to run the tests");
            // Ports are from version 4 on.
            if entered.landlock >= 4 {
                assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok());
                assert!(TcpStream::connect(address).is_err());
            }
        })
        .join()
        .expect("thread");
    }
}
