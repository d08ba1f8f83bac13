//! The table `[network]`: where functions may go of which nobody has said anything else, and how fast.

use std::net::Ipv4Addr;

use gateway_api::Egress;
use serde::Deserialize;
use vmm_api::{MAX_BURST_BYTES, MIN_BURST_BYTES, RateLimit};

use super::{ConfigError, value};
use crate::network::Wording;

/// More name servers than any node has.
const MAX_RESOLVERS: usize = 8;

/// Fastest rate: as much as a `vmm` takes.
const MAX_MBIT_PER_S: u64 = 80_000;

/// Slots that wait for sandboxes, at most: each is a link and an open file.
const MAX_READY_SLOTS: usize = 1024;

const BYTES_PER_MBIT: u64 = 1_000_000 / 8;

/// What a bucket holds: this part of a second's.
const BURSTS_PER_SECOND: u64 = 10;

/// What functions have of the network, checked.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Where they may go.
    pub(crate) egress: Egress,
    /// Who answers when they ask for names; none: whoever the node's uplink names.
    pub(crate) resolver: Option<Ipv4Addr>,
    /// How fast, each way.
    pub(crate) rate: RateLimit,
    /// Slots that are made ahead of time.
    pub(crate) ready_slots: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawNetwork {
    egress: Wording,
    resolvers: Vec<Ipv4Addr>,
    mbit_per_s: u64,
    ready_slots: usize,
}

impl Default for RawNetwork {
    fn default() -> Self {
        Self {
            egress: Wording::from(&Egress::Nowhere),
            resolvers: Vec::new(),
            mbit_per_s: 600,
            ready_slots: 16,
        }
    }
}

impl RawNetwork {
    pub(super) fn check(self) -> Result<Network, ConfigError> {
        let egress =
            Egress::try_from(self.egress).map_err(|error| value("network.egress", error.to_string()))?;
        let Self { resolvers, mbit_per_s, ready_slots, .. } = self;
        if resolvers.len() > MAX_RESOLVERS {
            return Err(value("network.resolvers", format!("more than {MAX_RESOLVERS}")));
        }
        if let Some(own) = resolvers.iter().find(|address| address.is_loopback() || address.is_unspecified())
        {
            return Err(value("network.resolvers", format!("{own} is the node, which answers no guest")));
        }
        if !(1..=MAX_MBIT_PER_S).contains(&mbit_per_s) {
            let problem = format!("{mbit_per_s} is not between 1 and {MAX_MBIT_PER_S}");
            return Err(value("network.mbit_per_s", problem));
        }
        if ready_slots > MAX_READY_SLOTS {
            return Err(value(
                "network.ready_slots",
                format!("{ready_slots} is more than {MAX_READY_SLOTS}"),
            ));
        }
        let bytes_per_second = mbit_per_s * BYTES_PER_MBIT;
        let burst_bytes = (bytes_per_second / BURSTS_PER_SECOND).clamp(MIN_BURST_BYTES, MAX_BURST_BYTES);
        let rate = RateLimit { bytes_per_second, burst_bytes };
        Ok(Network { egress, resolver: resolvers.first().copied(), rate, ready_slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Network, String> {
        let raw: RawNetwork = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_is_nowhere() {
        let network = check("").unwrap();
        assert_eq!((network.egress, network.resolver, network.ready_slots), (Egress::Nowhere, None, 16));
        assert_eq!(network.rate, RateLimit { bytes_per_second: 75_000_000, burst_bytes: 7_500_000 });
    }

    #[test]
    fn what_is_said_is_taken() {
        let network =
            check("egress = 'internet'\nresolvers = ['9.9.9.9', '10.0.0.2']\nmbit_per_s = 1").unwrap();
        assert_eq!((network.egress, network.resolver), (Egress::Internet, Some(Ipv4Addr::new(9, 9, 9, 9))));
        assert_eq!(network.rate, RateLimit { bytes_per_second: 125_000, burst_bytes: MIN_BURST_BYTES });
        assert!(matches!(check("egress = ['10.0.0.0/8']").unwrap().egress, Egress::Only(_)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            ("egress = 'everywhere'", "everywhere"),
            ("egress = []", "network.egress"),
            ("egress = ['10.0.0.1/8']", "10.0.0.1/8"),
            ("resolvers = ['127.0.0.53']", "127.0.0.53"),
            ("resolvers = ['::1']", "resolvers"),
            ("mbit_per_s = 0", "network.mbit_per_s"),
            ("ready_slots = 100000", "network.ready_slots"),
            ("speed = 1", "speed"),
        ] {
            let problem = check(text).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
