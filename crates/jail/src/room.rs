//! The room that a launcher puts a program into: what a new process does, with the launcher's rights, before it becomes the program.
//!
//! A [`RoomPlan`] is plain data, printed and compared by tests; [`RoomPlan::enter`] goes through its steps. Whatever is
//! refused on the way means that there is no process. The room is empty: a root without a single name in it, which
//! nobody can write to, no other process, a network of one loopback interface that is down, a user that owns nothing and
//! that no other process has, no capability and no way to one. All that the program has are descriptors at known places.
//!
//! The namespaces themselves come with the process (`clone3`), as its control group does; see [`NAMESPACES`]. There is no user
//! namespace among them: it would map users to others and give capabilities over the rest, and there is nothing here that
//! a user who is real and nobody cannot be kept from. Nor a time namespace: clocks tell nothing of other sandboxes.

mod descriptors;
mod mounts;
mod rights;

use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::{prctl, resource};
use nix::unistd::setsid;

use crate::plan::Limit;
use crate::syscalls::{CompiledFilter, FilterError};

pub use mounts::enter_empty_root;
pub use rights::{Capability, core_sharing, drop_ambient_set, drop_bounding_set, keep_capability};

/// First of the users that sandboxes are: of a range that neither Debian nor systemd gives to anybody (systemd's
/// `UIDS-GIDS`). Groups have the same numbers.
pub const FIRST_USER: u32 = 2_000_000_000;

/// How many there are: more than fit on any node.
pub const USERS: u32 = 1 << 16;

/// What a process must be made with to have a room of its own. Its network is one that the launcher has made before; its view
/// of control groups begins at its own, which it can only ask for when it is in there.
pub const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// What a process becomes before it becomes the program.
#[derive(Clone, Debug)]
pub struct RoomPlan {
    /// User and group, counted from [`FIRST_USER`].
    pub slot: u32,
    /// Whether other sandboxes may not run beside it on one core: where cores have more than one thread.
    pub sharing: CoreSharing,
    /// What it has, in order: the first one is its standard input.
    pub handed: Vec<Handed>,
    /// Resource limits, soft and hard alike.
    pub limits: Vec<Limit>,
    /// What it may call until it has its own filters, and then at most.
    pub filter: Arc<CompiledFilter>,
}

/// A descriptor that the program begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// One that the launcher has.
    Open(RawFd),
    /// The directory of its own process, in a `/proc` of its own that is mounted nowhere.
    OwnProcess,
}

/// Whether threads of different sandboxes may run on one core at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreSharing {
    /// The kernel keeps them apart.
    Refused,
    /// Cores have one thread each, or one that is on.
    Moot,
    /// Cores have more, and this kernel cannot keep them apart.
    Allowed,
}

/// One thing that [`RoomPlan::enter`] does.
#[derive(Clone, Debug)]
pub enum RoomStep {
    /// No signal is blocked: what the launcher blocks for itself is inherited.
    UnblockSignals,
    /// `setsid`: no process group and no terminal that another process has.
    OwnSession,
    /// `PR_SCHED_CORE`: a core's threads see each other's caches.
    ScheduleApart,
    /// Its own group is the root of what it could see of control groups.
    NarrowGroups,
    /// An empty tmpfs that nobody can write to is the root; what was the root is gone.
    EmptyRoot,
    /// These are descriptors 0, 1, 2 …; everything else closes with `execve`.
    Hand(Vec<Handed>),
    /// `setrlimit`.
    SetLimit(Limit),
    /// No capability can be had by `execve`.
    DropBoundingSet,
    /// Being user 0 means nothing, and that cannot be changed.
    LockSecurebits,
    /// User and group, and no other group.
    BecomeUser(u32),
    /// No capability of any kind.
    DropCapabilities,
    /// SIGKILL when the launcher ends. A change of user forgets it, so it comes after that.
    DieWithLauncher,
    /// No gain of rights by `execve`.
    SetNoNewPrivs,
    /// A system call filter.
    Filter(Arc<CompiledFilter>),
}

/// A step that could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct RoomError {
    /// Which.
    step: RoomStep,
    /// Why.
    source: Cause,
}

/// Who refused it.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Kernel(#[from] Errno),
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl RoomPlan {
    /// What [`RoomPlan::enter`] does, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<RoomStep> {
        let Self { slot, sharing, handed, limits, filter } = self;
        let mut steps = vec![RoomStep::UnblockSignals, RoomStep::OwnSession];
        steps.extend((*sharing == CoreSharing::Refused).then_some(RoomStep::ScheduleApart));
        steps.extend([RoomStep::NarrowGroups, RoomStep::EmptyRoot, RoomStep::Hand(handed.clone())]);
        steps.extend(limits.iter().copied().map(RoomStep::SetLimit));
        steps.extend([
            RoomStep::DropBoundingSet,
            RoomStep::LockSecurebits,
            RoomStep::BecomeUser(FIRST_USER + slot),
            RoomStep::DropCapabilities,
            RoomStep::DieWithLauncher,
            RoomStep::SetNoNewPrivs,
            RoomStep::Filter(Arc::clone(filter)),
        ]);
        steps
    }

    /// Puts the calling process, which was made with [`NAMESPACES`] and has one thread, into its room. There is no way back.
    ///
    /// # Errors
    /// The first step that failed. The process is to end then.
    pub fn enter(&self) -> Result<(), RoomError> {
        self.steps()
            .into_iter()
            .try_for_each(|step| execute(&step).map_err(|source| RoomError { step, source }))
    }
}

fn execute(step: &RoomStep) -> Result<(), Cause> {
    match step {
        // Not `pthread_sigmask`, which says what went wrong in a way that nix does not look at.
        RoomStep::UnblockSignals => sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?,
        RoomStep::OwnSession => setsid().map(drop)?,
        RoomStep::ScheduleApart => rights::schedule_apart()?,
        RoomStep::NarrowGroups => unshare(CloneFlags::CLONE_NEWCGROUP)?,
        RoomStep::EmptyRoot => mounts::enter_empty_root()?,
        RoomStep::Hand(handed) => descriptors::hand(handed)?,
        RoomStep::SetLimit(limit) => resource::setrlimit(limit.resource, limit.value, limit.value)?,
        RoomStep::DropBoundingSet => rights::drop_bounding_set()?,
        RoomStep::LockSecurebits => rights::lock_securebits()?,
        RoomStep::BecomeUser(user) => rights::become_user(*user)?,
        RoomStep::DropCapabilities => rights::drop_capabilities()?,
        RoomStep::DieWithLauncher => prctl::set_pdeathsig(Signal::SIGKILL)?,
        RoomStep::SetNoNewPrivs => prctl::set_no_new_privs()?,
        RoomStep::Filter(filter) => filter.apply()?,
    }
    Ok(())
}

impl fmt::Display for RoomStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnblockSignals => f.write_str("unblock signals"),
            Self::OwnSession => f.write_str("begin a session"),
            Self::ScheduleApart => f.write_str("share no core"),
            Self::NarrowGroups => f.write_str("narrow the view of control groups"),
            Self::EmptyRoot => f.write_str("enter an empty root"),
            Self::Hand(handed) => write!(f, "hand over {} descriptors", handed.len()),
            Self::SetLimit(limit) => write!(f, "set {:?} to {}", limit.resource, limit.value),
            Self::DropBoundingSet => f.write_str("drop the bounding set"),
            Self::LockSecurebits => f.write_str("lock the securebits"),
            Self::BecomeUser(user) => write!(f, "become user {user}"),
            Self::DropCapabilities => f.write_str("drop all capabilities"),
            Self::DieWithLauncher => f.write_str("die with the launcher"),
            Self::SetNoNewPrivs => f.write_str("set no_new_privs"),
            Self::Filter(filter) => write!(f, "apply the system call filter {}", filter.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Resource;
    use crate::{SyscallFilter, allow};

    fn plan(sharing: CoreSharing) -> RoomPlan {
        let filter = SyscallFilter { name: "test", rules: vec![allow!(SYS_exit_group, "the end")] };
        RoomPlan {
            slot: 7,
            sharing,
            handed: vec![Handed::Open(9), Handed::OwnProcess],
            limits: vec![Limit { resource: Resource::RLIMIT_CORE, value: 0, reason: "no dump" }],
            filter: Arc::new(filter.compile().expect("compiles")),
        }
    }

    /// Each step needs what a later one takes away: mounts and users their capabilities, those the bounding set's.
    #[test]
    fn a_plan_says_all_of_what_is_done_in_order() {
        let steps = |sharing| plan(sharing).steps().iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = [
            "unblock signals",
            "begin a session",
            "share no core",
            "narrow the view of control groups",
            "enter an empty root",
            "hand over 2 descriptors",
            "set RLIMIT_CORE to 0",
            "drop the bounding set",
            "lock the securebits",
            "become user 2000000007",
            "drop all capabilities",
            "die with the launcher",
            "set no_new_privs",
            "apply the system call filter test",
        ];
        assert_eq!(steps(CoreSharing::Refused), expected);
        let moot: Vec<_> = expected.into_iter().filter(|step| *step != "share no core").collect();
        assert_eq!(steps(CoreSharing::Moot), moot);
    }

    #[test]
    fn a_step_that_fails_is_named() {
        let error = RoomError { step: RoomStep::EmptyRoot, source: Errno::EPERM.into() };
        assert_eq!(error.to_string(), "enter an empty root");
    }
}
