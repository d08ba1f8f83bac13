//! The table `[logs]`: what functions' logs may take of the disk, and for how long.

use serde::Deserialize;

use super::{ConfigError, value};
use crate::logs::Limits;

/// Least MiB of one group: sixteen segments, each with room for the longest line.
const MIN_GROUP_MIB: u64 = 16;

/// Most MiB of any disk.
const MAX_MIB: u64 = 1024 * 1024;

/// Longest retention: AWS's ten years.
const MAX_RETENTION_DAYS: u32 = 3653;

/// Highest rate of a group, KiB a second.
const MAX_RATE_KIB: u64 = 1024 * 1024;

/// Bounds of logs, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logs {
    /// What groups may take.
    pub(crate) limits: Limits,
    /// Bytes that a group may print a second.
    pub(crate) rate: u64,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLogs {
    max_mib: u64,
    group_mib: u64,
    retention_days: u32,
    rate_kib: u64,
}

impl Default for RawLogs {
    fn default() -> Self {
        Self { max_mib: 1024, group_mib: 64, retention_days: 30, rate_kib: 1024 }
    }
}

impl RawLogs {
    pub(super) fn check(self) -> Result<Logs, ConfigError> {
        let Self { max_mib, group_mib, retention_days, rate_kib } = self;
        let within = |field, number: u64, least: u64, most: u64| match (least..=most).contains(&number) {
            true => Ok(number),
            false => Err(value(field, format!("{number} is not between {least} and {most}"))),
        };
        within("logs.retention_days", retention_days.into(), 0, MAX_RETENTION_DAYS.into())?;
        let limits = Limits {
            total: within("logs.max_mib", max_mib, MIN_GROUP_MIB, MAX_MIB)? << 20,
            group: within("logs.group_mib", group_mib, MIN_GROUP_MIB, max_mib)? << 20,
            retention_days: Some(retention_days).filter(|days| *days > 0),
        };
        Ok(Logs { limits, rate: within("logs.rate_kib", rate_kib, 1, MAX_RATE_KIB)? << 10 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_within_bounds() {
        let check = |text: &str| toml::from_str::<RawLogs>(text).unwrap().check();
        let logs = check("").unwrap();
        assert_eq!((logs.limits.total, logs.limits.group, logs.rate), (1 << 30, 64 << 20, 1 << 20));
        assert_eq!(logs.limits.retention_days, Some(30));
        assert_eq!(check("retention_days = 0").unwrap().limits.retention_days, None);
        for (text, names) in [
            ("max_mib = 1", "logs.max_mib"),
            ("group_mib = 2000", "logs.group_mib"),
            ("retention_days = 4000", "logs.retention_days"),
            ("rate_kib = 0", "logs.rate_kib"),
        ] {
            assert!(check(text).unwrap_err().to_string().contains(names), "{text}");
        }
    }
}
