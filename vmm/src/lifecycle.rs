//! Which request is allowed when. Pure; the I/O thread asks before it acts.
//!
//! ```text
//! blank ─Configure─► ready ─Start─► running ─Pause─► paused
//!                                      ▲────Resume─────┘
//! Stop and Metrics: always
//! ```

use vmm_api::{Refusal, Request};

/// Where the machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// No machine yet.
    Blank,
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
            (Self::Ready, Request::Start) | (Self::Paused, Request::Resume) => Ok(Self::Running),
            (Self::Running, Request::Pause) => Ok(Self::Paused),
            (_, Request::Stop | Request::Metrics) => Ok(self),
            (_, Request::Configure(_) | Request::Start | Request::Pause | Request::Resume) => {
                Err(self.refuse(request))
            }
        }
    }

    fn refuse(self, request: &Request) -> Refusal {
        let request = match request {
            Request::Configure(_) => "configure",
            Request::Start => "start",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Stop => "stop",
            Request::Metrics => "metrics",
        };
        let state = match self {
            Self::Blank => "not configured yet",
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
    use vmm_api::{MachineConfig, SerialConfig, Source};

    use super::*;

    fn requests() -> [Request; 6] {
        let config = MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            kernel: Source::Fd(0),
            initrd: None,
            cmdline: String::new(),
            drives: Vec::new(),
            vsock: None,
            entropy: false,
            serial: SerialConfig::Null,
        };
        [
            Request::Configure(config),
            Request::Start,
            Request::Pause,
            Request::Resume,
            Request::Stop,
            Request::Metrics,
        ]
    }

    proptest! {
        #[test]
        fn a_machine_is_configured_once_and_runs_only_after_a_start(path in prop::collection::vec(0usize..6, 0..40)) {
            let (mut state, mut configured, mut started) = (Lifecycle::Blank, 0, false);
            for index in path {
                let request = &requests()[index];
                let Ok(next) = state.after(request) else { continue };
                configured += usize::from(matches!(request, Request::Configure(_)));
                started |= matches!(request, Request::Start);
                state = next;
                prop_assert!(configured <= 1);
                prop_assert!(started || !matches!(state, Lifecycle::Running | Lifecycle::Paused));
                prop_assert_eq!(configured == 0, state == Lifecycle::Blank);
            }
        }
    }

    #[test]
    fn a_refusal_says_what_the_machine_is_doing() {
        let refusal = Lifecycle::Running.after(&Request::Start).expect_err("started twice");
        assert_eq!(refusal.message, "start: the machine is running");
    }
}
