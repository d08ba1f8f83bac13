//! Where a guest may go, in a form that cannot be wrong.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Prefixes of one list: more than functions need, and few enough for one packet and one transaction.
pub const MAX_PREFIXES: usize = 32;

/// Bits of an address.
const BITS: u8 = 32;

/// Where a guest may go. Whatever is said here, it never reaches the node's own addresses, other guests, links'
/// (a cloud's metadata) or multicast.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Egress {
    /// Nowhere: no packet, and no name.
    #[default]
    Nowhere,
    /// Everything that is public.
    Internet,
    /// These networks alone, public or not: in order, at least one, none within another.
    Only(Prefixes),
}

/// What [`Egress::only`] has made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefixes(Vec<Prefix>);

/// No list that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Nowhere is said in another way.
    #[error("a list of no networks")]
    Empty,
    /// A list that is too long.
    #[error("a list of {0} networks, not of {MAX_PREFIXES} at most")]
    TooMany(usize),
}

impl Egress {
    /// These networks and no other.
    ///
    /// # Errors
    /// None, or more than [`MAX_PREFIXES`].
    pub fn only(mut prefixes: Vec<Prefix>) -> Result<Self, EgressError> {
        match prefixes.len() {
            0 => return Err(EgressError::Empty),
            1..=MAX_PREFIXES => {}
            more => return Err(EgressError::TooMany(more)),
        }
        // By address, the wider one first: two of them are either apart or one within the other.
        prefixes.sort_unstable();
        prefixes.dedup_by(|inner, outer| outer.holds(*inner));
        Ok(Self::Only(Prefixes(prefixes)))
    }
}

impl Prefixes {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.0.iter().copied()
    }
}

/// A network: an address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Ipv4Addr,
    len: u8,
}

/// No network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// It does not read as one.
    #[error("`{0}` is not a network such as 10.1.0.0/16")]
    Text(String),
    /// More bits than there are.
    #[error("a prefix of {0} bits")]
    Length(u8),
    /// Bits that are not the network's: somebody has meant another one.
    #[error("{0}/{1} has bits beyond its prefix")]
    HostBits(Ipv4Addr, u8),
}

impl Prefix {
    /// The first `len` bits of `address`, of which the others are zero.
    ///
    /// # Errors
    /// When they are not, and when there are not so many.
    pub fn new(address: Ipv4Addr, len: u8) -> Result<Self, PrefixError> {
        if len > BITS {
            return Err(PrefixError::Length(len));
        }
        let prefix = Self { address, len };
        if prefix.mask() & u32::from(address) != u32::from(address) {
            return Err(PrefixError::HostBits(address, len));
        }
        Ok(prefix)
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Its last address.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// How many bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix's length is its name, and none is empty")]
    #[must_use]
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether all of the other one is in it.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        self.len <= other.len && u32::from(other.address) & self.mask() == u32::from(self.address)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl((BITS - self.len).into()).unwrap_or(0)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `10.1.0.0/16`, or an address alone for a network of one.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError::Text(text.chars().take(MAX_SAID).collect());
        let (address, len) = text.split_once('/').unwrap_or((text, "32"));
        // As it is written, without a sign or zeros in front.
        let len = Some(len).filter(|len| len.len() < 2 || !len.starts_with(['0', '+']));
        let len = len.and_then(|len| len.parse().ok()).ok_or_else(wrong)?;
        Self::new(address.parse().map_err(|_| wrong())?, len)
    }
}

/// How much of what is no network is said again, characters.
const MAX_SAID: usize = 40;

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a network")
    }

    #[test]
    fn a_network_reads_as_it_is_written() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.128/25", "192.0.2.7/32"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(prefix("10.0.0.0/8").last(), Ipv4Addr::new(10, 255, 255, 255));
        assert_eq!(prefix("0.0.0.0/0").last(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/08", "::/0", "10.0.0.0/8/8"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        let meant_another = "10.1.2.3/16".parse::<Prefix>();
        assert_eq!(meant_another, Err(PrefixError::HostBits(Ipv4Addr::new(10, 1, 2, 3), 16)));
    }

    #[test]
    fn a_list_is_neither_empty_nor_endless() {
        assert_eq!(Egress::only(vec![]), Err(EgressError::Empty));
        let many = vec![prefix("10.0.0.0/8"); MAX_PREFIXES + 1];
        assert_eq!(Egress::only(many), Err(EgressError::TooMany(MAX_PREFIXES + 1)));
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few different bits, so that many are within others.
        (0..64_u32, 0..=32_u8).prop_map(|(bits, len)| {
            let mask = u32::MAX.checked_shl((32 - len).into()).unwrap_or(0);
            Prefix::new(Ipv4Addr::from(bits.reverse_bits() & mask), len).expect("a network")
        })
    }

    proptest! {
        #[test]
        fn a_list_holds_what_it_was_made_of_and_no_network_twice(
            given in proptest::collection::vec(any_prefix(), 1..=MAX_PREFIXES)
        ) {
            let Ok(Egress::Only(list)) = Egress::only(given.clone()) else { panic!("no list") };
            let list: Vec<_> = list.iter().collect();
            for network in &given {
                prop_assert_eq!(list.iter().filter(|prefix| prefix.holds(*network)).count(), 1);
            }
            prop_assert!(list.iter().all(|network| given.contains(network)));
            prop_assert!(list.is_sorted_by(|one, next| one.last() < next.address()));
        }
    }
}
