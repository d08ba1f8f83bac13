//! The uniqueness gate: what stands between a resume and the first instruction of the function. Here is the order, the
//! clock and the verdict; what a step does to the machine is behind [`Machine`].
//!
//! ```text
//! before the snapshot:  freeze (verified) ─ sync
//! after the resume:     entropy ─ reseed ─ clock ─ boot_id ─ machine_id ─ hostname ─ instance_id ─ connections
//!                       ─ credentials ─ generation ─ hooks ─ thaw
//! ```
//!
//! A step that fails or is late is the last one: the function stays frozen, and the agent destroys the guest.
//!
//! The cargo feature `ungated` leaves the steps out that make a clone another one. It exists to prove that it is these
//! steps that do it, and is in no payload.

pub(crate) mod connections;
mod generation;
mod hooks;
mod identity;
mod steps;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use guest_protocol::{FreezeReport, GateReport, Seed, Unique};
use tokio::time::Instant;

use crate::control::Agent;
use crate::runtime_api::CredentialStore;
pub use generation::{GenerationPage, PAGE_LEN};
pub use hooks::{FOLDERS as HOOK_FOLDERS, Hook, HookError, HookPlan, find as find_hooks};
pub use identity::{Identity, IdentityError, IdentityFiles, uuid};
use steps::{Steps, Stopped};

/// How long the function's processes may take to stand still: they do when they next return to user mode, which only a
/// disk that does not answer holds up.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// The step that runs the executables in `restore.d`: the only one that fails by the function's fault.
pub(crate) const HOOKS: &str = "hooks";

/// What the gate changes: in a guest the kernel and the function's view, in tests a record.
pub trait Machine {
    /// Lets every process of the function stand still, and returns when the kernel says that they do.
    fn freeze(&mut self) -> impl Future<Output = io::Result<()>>;
    /// Writes what the function has written to its drive.
    fn sync(&mut self) -> io::Result<()>;
    /// Credits the bytes to the kernel's generator.
    fn credit_entropy(&mut self, seed: &Seed) -> io::Result<()>;
    /// Rekeys the kernel's generator.
    fn reseed(&mut self) -> io::Result<()>;
    /// Sets the wall clock, nanoseconds since the Unix epoch.
    fn set_clock(&mut self, unix_ns: u64) -> io::Result<()>;
    /// Replaces one part of what the guest says it is.
    fn set_identity(&mut self, part: Identity<'_>) -> Result<(), IdentityError>;
    /// Ends the connections over the network that the function has from before.
    fn reset_connections(&mut self) -> io::Result<()>;
    /// Publishes the generation to every process.
    fn publish(&mut self, generation: [u8; 16], counter: u64, unix_ns: u64) -> io::Result<()>;
    /// Runs the executables in `restore.d`; how many there were.
    fn run_hooks(&mut self, plan: HookPlan, agent: &Agent) -> impl Future<Output = Result<usize, HookError>>;
    /// Lets the function go on.
    fn thaw(&mut self) -> io::Result<()>;
    /// `vm_generation_counter` of the VMClock page, when the machine has one.
    fn generation_counter(&self) -> Option<u64>;
}

/// Lets the function stand still.
///
/// # Errors
/// The steps up to the one that failed.
pub async fn freeze<M: Machine>(machine: &mut M) -> Result<FreezeReport, FreezeReport> {
    let mut steps = Steps::begin(Instant::now(), FREEZE_LIMIT);
    let frozen = match steps.run_async("freeze", machine.freeze()).await {
        Ok(()) => steps.run("sync", || machine.sync()),
        stopped => stopped,
    };
    let report = FreezeReport { steps: steps.into_steps() };
    match frozen {
        Ok(()) => Ok(report),
        Err(Stopped) => Err(report),
    }
}

/// Makes the guest unique and lets the function go on. `resumed` is when the guest learned of the resume.
///
/// # Errors
/// The steps up to the one that failed. The function is still frozen then.
pub async fn pass<M: Machine>(
    machine: &mut M,
    unique: &Unique,
    credentials: &CredentialStore,
    agent: &Agent,
    resumed: Instant,
) -> Result<GateReport, GateReport> {
    let limit = Duration::from_millis(unique.restore_timeout_ms.into());
    let mut steps = Steps::begin(Instant::now(), limit);
    let passed = run(&mut steps, machine, unique, credentials, agent).await;
    let duration_us = u64::try_from(resumed.elapsed().as_micros()).unwrap_or(u64::MAX);
    let report = GateReport { steps: steps.into_steps(), duration_us };
    match passed {
        Ok(()) => Ok(report),
        Err(Stopped) => Err(report),
    }
}

async fn run<M: Machine>(
    steps: &mut Steps,
    machine: &mut M,
    unique: &Unique,
    credentials: &CredentialStore,
    agent: &Agent,
) -> Result<(), Stopped> {
    steps.run_gated("entropy", || machine.credit_entropy(&unique.entropy))?;
    steps.run_gated("reseed", || machine.reseed())?;
    steps.run("clock", || machine.set_clock(unique.wall_clock_unix_ns))?;
    steps.run_gated("boot_id", || machine.set_identity(Identity::BootId(unique.boot_id)))?;
    steps.run_gated("machine_id", || machine.set_identity(Identity::MachineId(unique.machine_id)))?;
    steps.run_gated("hostname", || machine.set_identity(Identity::Hostname(&unique.hostname)))?;
    steps.run_gated("instance_id", || machine.set_identity(Identity::InstanceId(&unique.instance_id)))?;
    steps.run_gated("connections", || machine.reset_connections())?;
    match &unique.credentials {
        Some(fresh) => steps.run("credentials", || {
            credentials.replace(fresh.clone());
            Ok::<_, io::Error>(())
        })?,
        None => steps.skip("credentials"),
    }
    steps.run_gated("generation", || {
        machine.publish(unique.generation, unique.generation_counter, unique.wall_clock_unix_ns)
    })?;
    let plan = HookPlan {
        generation: unique.generation,
        instance_id: unique.instance_id.clone(),
        limit: Duration::from_millis(unique.hook_timeout_ms.into()),
    };
    steps.run_counted(HOOKS, machine.run_hooks(plan, agent)).await?;
    steps.run("thaw", || machine.thaw())
}
