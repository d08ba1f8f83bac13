//! The sandboxes that there are: who has which user and control group, from the start of a process to the end of its last
//! trace. One agent's at a time; when it is gone, so are they.

#![expect(unsafe_code, reason = "waitpid with the status as the kernel says it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use jail::{
    CompiledFilter, CoreSharing, GroupError, Groups, Handed, Limit, Resource, RoomPlan, Setting, USERS,
    settings,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::birth::{BirthError, Newborn, Program};
use crate::describe;
use crate::networks::{Network, Networks};
use crate::packet::Order;

/// Descriptors that a VMM may have open: devices and vCPUs take under 100, the rest are vsock connections.
const MAX_OPEN_FILES: u64 = 1024;

/// No machine has a longer file: 10,240 MiB of memory, as much of `/tmp`. A `vmm` comes to its own bound when it knows its machine.
const MAX_FILE_LEN: u64 = 12 << 30;

/// Every child, as waitpid calls it.
const ANY: libc::pid_t = -1;

/// What sandboxes are made from, all of it open.
#[derive(Debug)]
pub(crate) struct Materials {
    pub(crate) program: Program,
    pub(crate) null: OwnedFd,
    pub(crate) kvm: OwnedFd,
    pub(crate) userfaultfd: OwnedFd,
    pub(crate) filter: Arc<CompiledFilter>,
    pub(crate) sharing: CoreSharing,
    /// What each may take of the disks, whatever its function pays for.
    pub(crate) disks: Vec<Setting>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HouseError {
    /// There are as many as there are users.
    #[error("all {USERS} users are taken")]
    Full,
    /// Its control group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A network for it.
    #[error("make a network")]
    Network(#[source] Errno),
    /// The pipe for its status.
    #[error("make a pipe")]
    Pipe(#[source] Errno),
    /// Its process.
    #[error(transparent)]
    Birth(#[from] BirthError),
}

/// What the agent gets of a sandbox.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    /// Where a `1` ends it.
    pub(crate) end: OwnedFd,
    /// Where its wait status is read.
    pub(crate) status: OwnedFd,
    /// Where its quota of the processors is changed, if it has one.
    pub(crate) quota: Option<OwnedFd>,
}

#[derive(Debug)]
struct Tenant {
    slot: u32,
    /// Where its wait status is written.
    status: OwnedFd,
    network: Option<Network>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct House {
    groups: Groups,
    materials: Materials,
    /// By process.
    tenants: BTreeMap<libc::pid_t, Tenant>,
    taken: BTreeSet<u32>,
    /// Where the search for a free one begins: a user is not used again soon.
    next: u32,
    networks: Networks,
}

impl House {
    pub(crate) fn new(groups: Groups, materials: Materials, networks: Networks) -> Self {
        let (tenants, taken) = (BTreeMap::new(), BTreeSet::new());
        Self { groups, materials, tenants, taken, next: 0, networks }
    }

    /// Sees to a network ahead of time.
    pub(crate) fn prepare(&mut self) -> Result<(), HouseError> {
        self.networks.prepare().map_err(HouseError::Network)
    }

    /// Starts a process in a room of its own; nothing is left of one that fails.
    pub(crate) fn start(&mut self, order: &Order, agent: BorrowedFd<'_>) -> Result<Key, HouseError> {
        self.prepare()?;
        let slot = self.free_slot()?;
        let (status, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(HouseError::Pipe)?;
        let settings = [settings(&order.allotment), self.materials.disks.clone()].concat();
        let group = self.groups.make(&slot.to_string(), &settings)?;
        let (end, quota) = match group.end().and_then(|end| Ok((end, group.quota()?))) {
            Ok(opened) => opened,
            Err(error) => return Err(self.groups.remove(&slot.to_string()).err().unwrap_or(error).into()),
        };
        let plan = self.plan(slot, order);
        let network = self.networks.take();
        let born = match Newborn::make(&plan, &self.materials.program, group.as_dir().as_fd()) {
            Ok(born) => born,
            Err(error) => {
                network.into_iter().for_each(|network| self.networks.give_back(network));
                self.groups.remove(&slot.to_string())?;
                return Err(error.into());
            }
        };
        self.taken.insert(slot);
        self.tenants.insert(born.pid.as_raw(), Tenant { slot, status: theirs, network });
        if let Err(error) = born.grown(agent) {
            group.kill()?;
            if let Some((pid, status)) = ended(born.pid.as_raw(), 0) {
                self.bury(pid, status);
            }
            return Err(error.into());
        }
        Ok(Key { slot, end, status, quota })
    }

    /// Sees to those that have ended.
    pub(crate) fn reap(&mut self) {
        while let Some((pid, status)) = ended(ANY, libc::WNOHANG) {
            self.bury(pid, status);
        }
    }

    /// Ends all of them. Nothing is left of any when this returns.
    pub(crate) fn clear(&mut self) -> Result<(), HouseError> {
        self.groups.kill_all()?;
        while !self.tenants.is_empty() {
            let Some((pid, status)) = ended(ANY, 0) else { break };
            self.bury(pid, status);
        }
        Ok(())
    }

    fn bury(&mut self, pid: libc::pid_t, status: libc::c_int) {
        let Some(tenant) = self.tenants.remove(&pid) else { return };
        // It was the first process of its own, so that no other is left in there.
        tenant.network.into_iter().for_each(|network| self.networks.give_back(network));
        if let Err(error) = self.groups.remove(&tenant.slot.to_string()) {
            // Its number stays taken: the next one's group could not be made.
            eprintln!("launcher: {}", describe(&error));
        } else {
            self.taken.remove(&tenant.slot);
        }
        // An agent that does not want to know has closed its end.
        drop(File::from(tenant.status).write_all(&status.to_le_bytes()));
    }

    fn free_slot(&mut self) -> Result<u32, HouseError> {
        let candidates = (self.next..USERS).chain(0..self.next);
        let free = candidates.into_iter().find(|slot| !self.taken.contains(slot));
        let slot = free.ok_or(HouseError::Full)?;
        self.next = (slot + 1) % USERS;
        Ok(slot)
    }

    fn plan(&self, slot: u32, order: &Order) -> RoomPlan {
        let Materials { null, kvm, userfaultfd, filter, sharing, .. } = &self.materials;
        let open = |fd: &OwnedFd| Handed::Open(fd.as_raw_fd());
        let limit = |resource, value, reason| Limit { resource, value, reason };
        RoomPlan {
            slot,
            sharing: *sharing,
            // In the order in which `ARGUMENTS` names them.
            handed: vec![
                open(null),
                open(null),
                open(&order.stderr),
                open(&order.control),
                open(kvm),
                open(userfaultfd),
                Handed::OwnProcess,
            ],
            limits: vec![
                limit(Resource::RLIMIT_CORE, 0, "guest memory must not reach a disk"),
                limit(Resource::RLIMIT_NOFILE, MAX_OPEN_FILES, "bounds vsock connections"),
                limit(Resource::RLIMIT_MEMLOCK, 0, "nothing locks memory"),
                limit(
                    Resource::RLIMIT_FSIZE,
                    MAX_FILE_LEN,
                    "bounds disks and snapshots, which the node's disk has",
                ),
            ],
            filter: Arc::clone(filter),
        }
    }
}

/// A child, this one or any, that has ended, and how; none when there is none.
fn ended(which: libc::pid_t, flags: libc::c_int) -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the call writes one int, exclusively ours.
    let pid = unsafe { libc::waitpid(which, &raw mut status, flags) };
    (pid > 0).then_some((pid, status))
}
