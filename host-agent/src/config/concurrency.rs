//! `[concurrency]`: how much may be in flight on the node, and how fast that may grow.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, value};
use crate::{functions::concurrency::MIN_UNRESERVED, invoke::rate::Rate};

/// The most that may be said: sandboxes of 128 MiB in 128 TiB.
const MAX: u32 = 1_000_000;

/// Bounds of what is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Concurrency {
    /// Invocations in flight.
    pub(crate) account: u32,
    /// How often a second they may begin, for each that may be in flight.
    pub(crate) calls_per_s: u32,
    /// How fast a function may be given new sandboxes by its invocations.
    pub(crate) growth: Rate,
}

#[cfg(test)]
impl Default for Concurrency {
    fn default() -> Self {
        RawConcurrency::default().check().unwrap()
    }
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConcurrency {
    account: u32,
    calls_per_s: u32,
    growth: u32,
    growth_s: u32,
}

/// Lambda's.
impl Default for RawConcurrency {
    fn default() -> Self {
        Self { account: 1000, calls_per_s: 10, growth: 1000, growth_s: 10 }
    }
}

impl RawConcurrency {
    pub(super) fn check(self) -> Result<Concurrency, ConfigError> {
        let Self { account, calls_per_s, growth, growth_s } = self;
        if account <= MIN_UNRESERVED {
            let problem =
                format!("{account} leaves nothing beside the {MIN_UNRESERVED} that nobody may reserve");
            return Err(value("concurrency.account", problem));
        }
        for (field, number) in [
            ("concurrency.account", account),
            ("concurrency.calls_per_s", calls_per_s),
            ("concurrency.growth", growth),
            ("concurrency.growth_s", growth_s),
        ] {
            if !(1..=MAX).contains(&number) {
                return Err(value(field, format!("{number} is not between 1 and {MAX}")));
            }
        }
        let growth = Rate { count: growth, per: Duration::from_secs(growth_s.into()) };
        Ok(Concurrency { account, calls_per_s, growth })
    }
}
