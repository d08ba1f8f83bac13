//! Networks for sandboxes: empty ones, which cost more to make than all else of a room. A sandbox can make no socket but a pair
//! and no interface, so one that it leaves is as it was given, and the next one's once its process has been reaped.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use crate::birth::above;

/// This process's namespaces, before it has no path any more.
pub(crate) const OWN_NAMESPACES: &str = "/proc/self/ns";

/// Networks that are kept while nobody uses them: about 100 KiB of the kernel's memory each. A burst makes more.
const MAX_SPARE: usize = 64;

/// A network that nobody else is in.
#[derive(Debug)]
pub(crate) struct Network(OwnedFd);

/// The launcher's own network is always the next sandbox's: a child begins where its parent is.
#[derive(Debug)]
pub(crate) struct Networks {
    /// Where the kernel names the network that this process is in.
    own: OwnedFd,
    current: Option<Network>,
    spare: Vec<Network>,
}

impl Networks {
    /// None yet.
    ///
    /// # Errors
    /// The kernel's word on this process's namespaces cannot be opened.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let own = above(open(Path::new(OWN_NAMESPACES), flags, Mode::empty())?)?;
        Ok(Self { own, current: None, spare: Vec::new() })
    }

    /// Goes into a network that is nobody's, unless this process is in one.
    pub(crate) fn prepare(&mut self) -> Result<(), Errno> {
        if self.current.is_some() {
            return Ok(());
        }
        if let Some(network) = self.spare.pop() {
            setns(network.0.as_fd(), CloneFlags::CLONE_NEWNET)?;
            self.current = Some(network);
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = openat(&self.own, "net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        self.current = Some(Network(above(made)?));
        Ok(())
    }

    /// The one that a process which is made now is in; it is no other's from here on.
    pub(crate) fn take(&mut self) -> Option<Network> {
        self.current.take()
    }

    /// Nobody is in it any more.
    pub(crate) fn give_back(&mut self, network: Network) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(network);
        }
    }
}
