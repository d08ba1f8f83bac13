//! Filters of the guests' network: `rules.nft` as it is, once, and then only elements of its maps and sets; and the kernel's memory of
//! connections.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use gateway_api::{Prefixes, Rate};
use inner_network::GATEWAY;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Message, Netlink};
use crate::wires::{Pool, tap_index};

const RULES: &str = include_str!("rules.nft");

/// The mark of a guest that may reach all that is public; lists have others.
pub(crate) const INTERNET: u32 = 1;

/// Parts of netfilter, and what they are asked: `linux/netfilter/nfnetlink.h`, `nf_tables.h`, `nfnetlink_conntrack.h`.
const NFTABLES: u16 = 10;
const CONNECTIONS: u16 = 1;
const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
const DELETE_ELEMENTS: u16 = NFTABLES << 8 | 14;
const DELETE_CONNECTIONS: u16 = CONNECTIONS << 8 | 2;

/// Attributes of a list of elements, and of one.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;

/// Attributes of an expression, and of a limit: of bytes in so many seconds, true of what is beyond.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const LIMIT_RATE: u16 = 1;
const LIMIT_UNIT: u16 = 2;
const LIMIT_BURST: u16 = 3;
const LIMIT_TYPE: u16 = 4;
const LIMIT_FLAGS: u16 = 5;
const A_SECOND: u64 = 1;
const OF_BYTES: u32 = 1;
const BEYOND: u32 = 1;

/// Attributes of connections: those whose first packet had this source.
const ORIGINAL: u16 = 1;
const ADDRESSES: u16 = 1;
const SOURCE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1;

/// … and those that bear this mark, which the node's rules give to guests'.
const MARK: u16 = 8;
const MARK_MASK: u16 = 21;
const GUESTS: u32 = 1;

/// IPv4, version 0, no resource.
const FAMILY: [u8; 4] = [libc::NFPROTO_IPV4 as u8, 0, 0, 0];

/// The rules were not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// There is no such program, or it does not listen.
    #[error("run nft")]
    Run(#[from] io::Error),
    /// It does not like them, and has said why on standard error.
    #[error("nft ended with {0}")]
    Refused(ExitStatus),
}

/// Loads the rules into this process's network.
pub(crate) fn load(nft: &Path, pool: Pool) -> Result<(), LoadError> {
    let mut process = Command::new(nft).args(["-f", "-"]).env_clear().stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = process.stdin.take() {
        write!(input, "define POOL = {}\n{RULES}", pool.0)?;
    }
    let status = process.wait()?;
    if status.success() { Ok(()) } else { Err(LoadError::Refused(status)) }
}

/// What differs between slots.
#[derive(Debug)]
pub(crate) struct Rules(Netlink);

impl Rules {
    /// Of this process's network.
    pub(crate) fn open() -> Result<Self, Errno> {
        Netlink::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// What comes from a slot has this address from here on, and neither that nor what goes to it is faster than this.
    pub(crate) fn name(&mut self, slot: u32, outer: Ipv4Addr, rate: Rate) -> Result<(), Errno> {
        let bound = || [Element { rate: Some(rate), ..Element::key(&key(slot)) }];
        let name = add("outer", &[Element::pair(&key(slot), &outer.octets())]);
        self.change(vec![add("sent", &bound()), add("received", &bound()), name])
    }

    /// A slot's guest may go where its mark says, which is a list's when there is one.
    pub(crate) fn permit(&mut self, slot: u32, mark: u32, list: Option<&Prefixes>) -> Result<(), Errno> {
        let list = list.map(|list| add("listed", &listed(mark, list)));
        let egress = add("egress", &[Element::pair(&key(slot), &mark.to_ne_bytes())]);
        self.change(list.into_iter().chain([egress]).collect())
    }

    /// A slot's guest may go nowhere, and what else was said of the slot is forgotten.
    pub(crate) fn forget(&mut self, slot: u32) -> Result<(), Errno> {
        for map in ["egress", "outer", "sent", "received"] {
            match self.change(vec![delete(map, &[Element::key(&key(slot))])]) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// No slot has this list any more.
    pub(crate) fn forget_list(&mut self, mark: u32, list: &Prefixes) -> Result<(), Errno> {
        self.change(vec![delete("listed", &listed(mark, list))])
    }

    /// Who answers for the gateway when it is asked for names, instead of who did before.
    pub(crate) fn resolve(&mut self, before: Option<Ipv4Addr>, server: Ipv4Addr) -> Result<(), Errno> {
        let pair = |server: Ipv4Addr| [Element::pair(&GATEWAY.octets(), &server.octets())];
        let old = before.map(|before| delete("resolver", &pair(before)));
        self.change(old.into_iter().chain([add("resolver", &pair(server))]).collect())
    }

    fn change(&mut self, messages: Vec<Message>) -> Result<(), Errno> {
        self.0.ask_all(NFTABLES, messages)
    }
}

/// The memory of connections of one network.
#[derive(Debug)]
pub(crate) struct Connections(Netlink);

impl Connections {
    /// Of this process's network.
    pub(crate) fn open() -> Result<Self, Errno> {
        Netlink::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// Forgets those of all guests, in the node's network: an earlier gateway's slots had the same addresses.
    pub(crate) fn forget_guests(&mut self) -> Result<(), Errno> {
        let message = Message::new(DELETE_CONNECTIONS, 0, &FAMILY);
        self.0.ask(message.with(MARK, &GUESTS.to_be_bytes()).with(MARK_MASK, &u32::MAX.to_be_bytes()))
    }

    /// Forgets those that began at this address.
    pub(crate) fn forget(&mut self, outer: Ipv4Addr) -> Result<(), Errno> {
        let message = Message::new(DELETE_CONNECTIONS, 0, &FAMILY)
            .with_nested(ORIGINAL, |tuple| {
                tuple.with_nested(ADDRESSES, |addresses| addresses.with(SOURCE, &outer.octets()))
            })
            .with_nested(FILTER, |filter| {
                let filter = filter.with(FILTER_ORIGINAL, &BY_SOURCE.to_ne_bytes());
                filter.with(FILTER_REPLY, &0_u32.to_ne_bytes())
            });
        self.0.ask(message)
    }
}

/// An element: a key, or a range of them, and what a map or a set has for it.
struct Element {
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    rate: Option<Rate>,
}

impl Element {
    fn key(key: &[u8]) -> Self {
        Self { key: key.to_vec(), end: None, data: None, rate: None }
    }

    fn pair(key: &[u8], data: &[u8]) -> Self {
        Self { data: Some(data.to_vec()), ..Self::key(key) }
    }
}

fn key(slot: u32) -> [u8; 4] {
    tap_index(slot).to_ne_bytes()
}

fn listed(mark: u32, list: &Prefixes) -> Vec<Element> {
    // A set of ranges is in network order, and so is what is looked up in it.
    let key = |address: Ipv4Addr| [mark.to_be_bytes(), address.octets()].concat();
    let element = |prefix: gateway_api::Prefix| Element {
        key: key(prefix.address()),
        end: Some(key(prefix.last())),
        data: None,
        rate: None,
    };
    list.iter().map(element).collect()
}

/// An element that is there already is not what was believed.
fn add(set: &str, elements: &[Element]) -> Message {
    elements_of(NEW_ELEMENTS, libc::NLM_F_CREATE | libc::NLM_F_EXCL, set, elements)
}

fn delete(set: &str, elements: &[Element]) -> Message {
    elements_of(DELETE_ELEMENTS, 0, set, elements)
}

fn elements_of(kind: u16, flags: libc::c_int, set: &str, elements: &[Element]) -> Message {
    let value =
        |message: Message, kind, value: &[u8]| message.with_nested(kind, |data| data.with(DATA_VALUE, value));
    let one = |message: Message, Element { key, end, data, rate }: &Element| {
        message.with_nested(ELEMENT, |mut element| {
            element = value(element, ELEMENT_KEY, key);
            if let Some(end) = end {
                element = value(element, ELEMENT_KEY_END, end);
            }
            if let Some(data) = data {
                element = value(element, ELEMENT_DATA, data);
            }
            match rate {
                Some(rate) => element.with_nested(ELEMENT_EXPRESSION, |expression| limit(expression, *rate)),
                None => element,
            }
        })
    };
    Message::new(kind, flags, &FAMILY)
        .with_name(LIST_TABLE, "guests")
        .with_name(LIST_SET, set)
        .with_nested(LIST_ELEMENTS, |list| elements.iter().fold(list, one))
}

/// Matches what is beyond the rate.
fn limit(expression: Message, Rate { bytes_per_second, burst_bytes }: Rate) -> Message {
    expression.with_name(EXPRESSION_NAME, "limit").with_nested(EXPRESSION_DATA, |limit| {
        limit
            .with(LIMIT_RATE, &bytes_per_second.to_be_bytes())
            .with(LIMIT_UNIT, &A_SECOND.to_be_bytes())
            .with(LIMIT_BURST, &burst_bytes.to_be_bytes())
            .with(LIMIT_TYPE, &OF_BYTES.to_be_bytes())
            .with(LIMIT_FLAGS, &BEYOND.to_be_bytes())
    })
}
