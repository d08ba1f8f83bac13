//! Which request is allowed when. Pure; the I/O thread asks before it acts.
//!
//! ```text
//! blank ─Configure─► ready ─Start─► running ─Pause─► paused ─Snapshot─► paused
//!   │                                  ▲────Resume─────┘ ▲
//!   ├─Prepare─► prepared ─Load─┬───────┘                 │
//!   └───────Load───────────────┴─────────────────────────┘
//! Stop, Metrics and WorkingSet: always
//! ```

use vmm_api::{Refusal, Request};

/// Where the machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// No machine yet.
    Blank,
    /// Reserved and confined; which machine it becomes is not known.
    Prepared,
    /// Built and confined; no instruction has run.
    Ready,
    /// vCPUs and devices work.
    Running,
    /// vCPUs and devices stand still.
    Paused,
}

impl Lifecycle {
    /// Where a request leads to when it succeeds.
    pub(crate) fn after(self, request: &Request) -> Result<Self, Refusal> {
        match (self, request) {
            (Self::Blank, Request::Configure(_)) => Ok(Self::Ready),
            (Self::Blank, Request::Prepare(_)) => Ok(Self::Prepared),
            (Self::Blank | Self::Prepared, Request::Load(config)) => {
                Ok(if config.resume { Self::Running } else { Self::Paused })
            }
            (Self::Paused, Request::Snapshot(_)) => Ok(Self::Paused),
            (Self::Ready, Request::Start) | (Self::Paused, Request::Resume) => Ok(Self::Running),
            (Self::Running, Request::Pause) => Ok(Self::Paused),
            (_, Request::Stop | Request::Metrics | Request::WorkingSet) => Ok(self),
            _ => Err(self.refuse(request)),
        }
    }

    fn refuse(self, request: &Request) -> Refusal {
        let request = match request {
            Request::Configure(_) => "configure",
            Request::Prepare(_) => "prepare",
            Request::Load(_) => "load",
            Request::Snapshot(_) => "snapshot",
            Request::Start => "start",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Stop => "stop",
            Request::Metrics => "metrics",
            Request::WorkingSet => "working_set",
        };
        let state = match self {
            Self::Blank => "not configured yet",
            Self::Prepared => "prepared and not loaded yet",
            Self::Ready => "configured and not started",
            Self::Running => "running",
            Self::Paused => "paused",
        };
        Refusal { field: None, message: format!("{request}: the machine is {state}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_api::{
        Grant, Identity, Key, LoadConfig, MachineConfig, SerialConfig, Shape, SnapshotConfig, SnapshotKind,
        Source,
    };

    use super::*;

    fn requests() -> [Request; 11] {
        let config = MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            kernel: Source::Fd(0),
            initrd: None,
            cmdline: String::new(),
            drives: Vec::new(),
            vsock: None,
            net: None,
            entropy: false,
            serial: SerialConfig::Null,
            allow_snapshots: false,
        };
        let load = LoadConfig {
            state: Source::Fd(0),
            memory: Grant { table: 1, slots: 2, asks: 3 },
            key: Key::new([0; 32]),
            drives: Vec::new(),
            vsock: None,
            net: None,
            serial: SerialConfig::Null,
            allow_snapshots: false,
            generation: [0; 16],
            identity: None,
            prefetch: None,
            learn: false,
            track_changes: false,
            resume: false,
        };
        let snapshot = SnapshotConfig {
            state: Source::Fd(0),
            memory: Source::Fd(1),
            key: Key::new([0; 32]),
            kind: SnapshotKind::Full,
            identity: Identity::default(),
            track_changes: false,
        };
        [
            Request::Prepare(Shape { vcpu_count: 1, mem_size_mib: 128 }),
            Request::Load(load.clone()),
            Request::Load(LoadConfig { resume: true, ..load }),
            Request::Snapshot(snapshot),
            Request::Configure(config),
            Request::Start,
            Request::Pause,
            Request::Resume,
            Request::Stop,
            Request::Metrics,
            Request::WorkingSet,
        ]
    }

    proptest! {
        #[test]
        fn a_machine_is_made_once_and_runs_only_when_told(path in prop::collection::vec(0usize..10, 0..40)) {
            let (mut state, mut made, mut told) = (Lifecycle::Blank, 0, false);
            for index in path {
                let request = &requests()[index];
                let Ok(next) = state.after(request) else { continue };
                made += usize::from(matches!(request, Request::Configure(_) | Request::Load(_)));
                told |= matches!(request, Request::Start | Request::Resume);
                told |= matches!(request, Request::Load(config) if config.resume);
                prop_assert!(!matches!(request, Request::Snapshot(_)) || state == Lifecycle::Paused);
                state = next;
                prop_assert!(made <= 1);
                prop_assert!(told || state != Lifecycle::Running);
                prop_assert_eq!(made == 0, matches!(state, Lifecycle::Blank | Lifecycle::Prepared));
            }
        }
    }

    #[test]
    fn a_refusal_says_what_the_machine_is_doing() {
        let refusal = Lifecycle::Running.after(&Request::Start).expect_err("started twice");
        assert_eq!(refusal.message, "start: the machine is running");
    }
}
