//! The guest as the uniqueness gate changes it: the kernel's generator, clock and host name, the files under
//! `/run/tinderbox`, the function's cgroup, and the executables in `restore.d`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use guest_protocol::Seed;
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{pipe2, syncfs};
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::hook::Usher;
use super::{FUNCTION_GID, FUNCTION_UID, GuestLauncher, confine};
use crate::boot::{BootError, seed};
use crate::control::Agent;
use crate::gate::connections::Connections;
use crate::gate::{self, Hook, HookError, HookPlan, Identity, IdentityError, Machine};
use crate::output::Output;
use crate::watch::watched;

/// The kernel's own boot id.
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl GuestLauncher {
    /// Says what a guest is that was booted and not resumed: the kernel's boot id, and fresh bytes.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn identify_booted(&mut self, hostname: &str, fresh: [u8; 16]) -> Result<(), IdentityError> {
        self.identity.copy_boot_id(Path::new(KERNEL_BOOT_ID))?;
        self.identity.set(Identity::MachineId(fresh))?;
        self.identity.set(Identity::Hostname(hostname))?;
        self.identity.set(Identity::InstanceId(&gate::uuid(fresh)))
    }

    /// `view`: a pidfd of the process whose view is the function's.
    fn usher(&self, view: &OwnedFd, hook: &Hook, plan: &HookPlan, output: OwnedFd) -> io::Result<Usher> {
        Ok(Usher {
            keeper: view.try_clone()?,
            program: hook.path.clone(),
            environment: plan.environment(),
            null: File::open("/dev/null")?.into(),
            output,
            cgroup_procs: self.hooks.procs()?,
            filter: confine::socket_filter()?,
        })
    }

    /// Runs one hook to its end, or to the deadline.
    async fn run_hook(
        &self,
        view: &OwnedFd,
        hook: &Hook,
        plan: &HookPlan,
        deadline: Instant,
        agent: &Agent,
    ) -> Result<(), HookError> {
        let path = hook.path.to_string_lossy().into_owned();
        let start = || -> io::Result<_> {
            let (output, writer) = pipe2(OFlag::O_CLOEXEC)?;
            nix::unistd::fchown(&writer, Some(FUNCTION_UID.into()), Some(FUNCTION_GID.into()))?;
            let output = Output::pump(output, agent.clone(), None)?;
            let (pid, pidfd) = self.usher(view, hook, plan, writer)?.start()?;
            Ok((output, pid, watched(pidfd, Interest::READABLE)?))
        };
        let (output, pid, pidfd) =
            start().map_err(|source| HookError::Start { path: path.clone(), source })?;
        let late = timeout_at(deadline, pidfd.readable()).await.is_err();
        if late {
            // The usher sees the hook end and ends too.
            let _ = self.hooks.kill();
            let _ = pidfd.readable().await;
        }
        let status = waitpid(pid, None);
        output.flush().await;
        match status {
            _ if late => Err(HookError::Late { path, limit: plan.limit }),
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, code)) => {
                Err(HookError::Failed { path, status: format!("status {code}") })
            }
            other => Err(HookError::Failed { path, status: format!("{other:?}") }),
        }
    }
}

impl Machine for GuestLauncher {
    async fn freeze(&mut self) -> io::Result<()> {
        self.cgroup.freeze().await?;
        // Looked for while nobody waits. What is wrong with it is told by the clone that should run it.
        self.restore_d = gate::find_hooks(&self.root);
        self.connections = Connections::outside()?;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let tmp = File::open(self.root.join("tmp"))?;
        Ok(syncfs(&tmp)?)
    }

    fn credit_entropy(&mut self, seed: &Seed) -> io::Result<()> {
        seed::credit(*seed.bytes())
    }

    fn reseed(&mut self) -> io::Result<()> {
        seed::reseed()
    }

    fn set_clock(&mut self, unix_ns: u64) -> io::Result<()> {
        seed::set_clock(unix_ns).map_err(|error| match error {
            BootError::Clock(errno) => errno.into(),
            other => io::Error::other(other),
        })
    }

    fn set_identity(&mut self, part: Identity<'_>) -> Result<(), IdentityError> {
        self.identity.set(part)?;
        match part {
            Identity::Hostname(name) => nix::unistd::sethostname(name).map_err(IdentityError::SetHostname),
            _ => Ok(()),
        }
    }

    fn reset_connections(&mut self) -> io::Result<()> {
        self.connections.reset()
    }

    fn publish(&mut self, generation: [u8; 16], counter: u64, unix_ns: u64) -> io::Result<()> {
        self.page.publish(generation, counter, unix_ns)
    }

    async fn run_hooks(&mut self, plan: HookPlan, agent: &Agent) -> Result<usize, HookError> {
        // Nothing was started yet: there is no process that a hook could have anything to do for.
        let Some(view) = &self.keeper else { return Ok(0) };
        let hooks = std::mem::replace(&mut self.restore_d, Ok(Vec::new()))?;
        let deadline = Instant::now() + plan.limit;
        for hook in &hooks {
            self.run_hook(view, hook, &plan, deadline, agent).await?;
        }
        if !hooks.is_empty() {
            // What they left behind has no business in the function's life.
            let _ = self.hooks.kill();
        }
        Ok(hooks.len())
    }

    fn thaw(&mut self) -> io::Result<()> {
        self.cgroup.thaw()
    }

    fn generation_counter(&self) -> Option<u64> {
        self.clock.as_ref().and_then(crate::boot::vmclock::VmClock::generation_counter)
    }
}
