//! The messages around a snapshot: before it (freeze), after it (uniqueness gate), and the restore that follows.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{FunctionError, ShutdownNeeds};

/// Bytes of entropy that a resumed guest is given: twice what the kernel's generator takes for a full reseed.
pub const SEED_LEN: usize = 64;

/// Fresh bytes from the host's `getrandom`. Wiped when dropped, and not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(#[serde(with = "serde_bytes")] [u8; SEED_LEN]);

impl Seed {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: [u8; SEED_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; SEED_LEN] {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Credentials of the function's role. Not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: String,
    /// When they end, RFC 3339, as `2026-01-31T23:59:59Z`.
    pub expiration: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// How the function's environment comes to be: the value of `AWS_LAMBDA_INITIALIZATION_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitializationType {
    /// `on-demand`: started for an invocation.
    OnDemand,
    /// `snap-start`: started to be snapshotted. The runtime may call `restore/next`; credentials are behind an endpoint
    /// instead of in the environment, where every clone would have the same.
    SnapStart,
    /// `provisioned-concurrency`: started before anybody invokes it, and waits for events from then on.
    Provisioned,
}

/// Everything that makes a resumed guest another one than its siblings, and the limits of becoming it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// Credited to the kernel's generator, which is then rekeyed.
    pub entropy: Seed,
    /// Wall clock at sending, nanoseconds since the Unix epoch.
    pub wall_clock_unix_ns: u64,
    /// What the VMM was told at load: the generation id of this clone.
    pub generation: [u8; 16],
    /// [`generation_counter`] of `generation`; what the generation page and the VMClock page show.
    pub generation_counter: u64,
    /// Name of this sandbox, for `/run/tinderbox/instance-id`.
    pub instance_id: String,
    /// What `gethostname` says; letters, digits and hyphens, at most 63.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: [u8; 16],
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// What the credentials endpoint answers from now on.
    pub credentials: Option<Credentials>,
    /// Time that the agent has spent on this restore before it sent this message, µs. Counts as restore.
    pub elapsed_us: u64,
    /// Limit of all executables in `restore.d` together, ms.
    pub hook_timeout_ms: u32,
    /// Limit of the whole restore from this message on, ms: gate, runtime, its hooks.
    pub restore_timeout_ms: u32,
}

/// The counter that stands for a generation where only 64 bits fit: its first eight bytes, little-endian, never 0,
/// which means "never resumed".
#[must_use]
pub fn generation_counter(generation: &[u8; 16]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&generation[..8]);
    u64::from_le_bytes(first).max(1)
}

/// The function stands still, and the guest is ready to be paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeReport {
    /// What was done, in order.
    pub steps: Vec<GateStep>,
}

/// First message of a resumed guest on its new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeHello {
    /// Must equal [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// `vm_generation_counter` of the VMClock page as this guest reads it, when it finds one. The agent refuses a guest
    /// whose counter is not that of the generation it gave the VMM, or that has none.
    pub generation_counter: Option<u64>,
}

/// One step of the freeze or of the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStep {
    /// Its name, as `docs/uniqueness.md` lists them.
    pub name: String,
    /// How long it took, µs.
    pub duration_us: u64,
    /// How it went.
    pub outcome: StepOutcome,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepOutcome {
    /// As it should.
    Done,
    /// There was nothing to do, or this build leaves it out.
    Skipped,
    /// It failed or was late, for this reason; no step follows.
    Failed(String),
}

/// The steps of the gate, in order. All of them when the guest is unique; up to the failed one when it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// In the order in which they ran.
    pub steps: Vec<GateStep>,
    /// From the guest's first instruction that knew of the resume to the end of the last step, µs.
    pub duration_us: u64,
}

/// The runtime has been restored and asks for invocations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// `Restore Duration`: [`Unique::elapsed_us`] and the guest's own time, µs.
    pub duration_us: u64,
    /// What the sandbox needs at its end.
    pub shutdown: ShutdownNeeds,
}

/// Why a restore did not come to its end. The function's processes are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFailure {
    /// What the invoker is told: the runtime's own error, its exit, or that time was up.
    pub error: FunctionError,
    /// Whether it was the limit: `SnapStartTimeoutException` then, `SnapStartException` otherwise.
    pub timed_out: bool,
    /// As in [`RestoreReport`].
    pub duration_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials {
            access_key_id: "ID".into(),
            secret_access_key: "SECRET".into(),
            session_token: "TOKEN".into(),
            expiration: String::new(),
        };
        let text = format!("{:?} {credentials:?}", Seed::new([0x5a; SEED_LEN]));
        assert!(!text.contains("SECRET") && !text.contains("TOKEN") && !text.contains("90"), "{text}");
    }

    #[test]
    fn the_counter_of_a_resumed_guest_is_never_that_of_a_booted_one() {
        assert_eq!(generation_counter(&[0; 16]), 1);
        assert_eq!(generation_counter(&[7, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]), 7 | 1 << 56);
    }
}
