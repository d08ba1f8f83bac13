//! What a machine's network device is connected to, and how fast that may be.

use serde::{Deserialize, Serialize};

/// Slowest rate, bytes a second: less is nothing that a TCP connection lives with.
pub const MIN_BYTES_PER_SECOND: u64 = 16 << 10;

/// Fastest rate, bytes a second: 10 GB, more than one processor moves frame by frame.
pub const MAX_BYTES_PER_SECOND: u64 = 10_000_000_000;

/// Smallest burst, bytes: of less than a few frames, each one waits for the clock.
pub const MIN_BURST_BYTES: u64 = 16 << 10;

/// Shortest burst, milliseconds of the rate: whoever has used it up is looked after again no sooner.
pub const MIN_BURST_MS: u64 = 1;

/// Largest burst, bytes.
pub const MAX_BURST_BYTES: u64 = 1 << 30;

/// The other end of the network device's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Position among the descriptors of the tap that frames go through: `IFF_TAP | IFF_NO_PI`, so that what is read and written
    /// is frames and nothing before them, and not blocking.
    pub tap_fd: usize,
    /// What the guest gets.
    pub receive: RateLimit,
    /// What it sends.
    pub transmit: RateLimit,
}

/// A bucket of tokens, a byte of a frame each: it fills at a rate up to a burst, and begins full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// [`MIN_BYTES_PER_SECOND`] to [`MAX_BYTES_PER_SECOND`].
    pub bytes_per_second: u64,
    /// [`MIN_BURST_BYTES`] to [`MAX_BURST_BYTES`], and at least what [`MIN_BURST_MS`] of the rate are.
    pub burst_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn a_network_is_a_descriptor_and_a_rate_each_way() {
        let text = r#"{"tap_fd":3,"receive":{"bytes_per_second":65536,"burst_bytes":32768},"transmit":{"bytes_per_second":131072,"burst_bytes":32768}}"#;
        let rate = |bytes_per_second| RateLimit { bytes_per_second, burst_bytes: 32768 };
        let config = NetConfig { tap_fd: 3, receive: rate(65536), transmit: rate(131_072) };
        assert_eq!(decode::<NetConfig>(text.as_bytes()).expect("decode"), config);
        assert_eq!(encode(&config).expect("encode"), text.as_bytes());
        assert!(decode::<NetConfig>(br#"{"tap_fd":3}"#).is_err(), "a network without bounds");
    }
}
