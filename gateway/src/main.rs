//! The guests' gateway: makes network slots for the agent (a tap each, in a network of which nothing else of the node is part),
//! says where the guest behind each may go, and removes every trace of one that has ended.
//!
//! ```text
//! gateway --agent USER --pool PREFIX --nft FILE     < listening SOCK_SEQPACKET socket
//! ```
//!
//! It is a user of its own with two capabilities, and reads packets of fixed fields (`gateway_api`) from one connection at a time, of one user, and nothing else. It has
//! one thread, and no packet of a guest's goes through it: the kernel forwards those, by the rules in `rules.nft`. What it needs
//! is open before it listens; then it goes into an empty root and under a filter, with one of them. What is where: `packet`
//! reads and answers, `slots` has the slots, `wires` the links, `tap` makes taps, `rules` changes filters, `netlink` speaks to
//! the kernel, `filters` says what may be called.

mod filters;
mod netlink;
mod packet;
mod rules;
mod slots;
mod tap;
mod wires;

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gateway_api::{Answer, Prefix, Request};
use jail::{Capability, enter_empty_root, keep_capability};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::SockProtocol;
use nix::sys::stat::Mode;

use crate::netlink::Netlink;
use crate::packet::{Connection, Incoming};
use crate::rules::{Connections, Rules};
use crate::slots::{SlotError, Slots, Tools};
use crate::tap::Taps;
use crate::wires::{MAX_POOL_LEN, Pool};

const USAGE: &str = "usage: gateway --agent USER --pool PREFIX --nft FILE";

/// Settings of the guests' network, before there is a link in it: links take theirs over.
const SETTINGS: &[(&str, &str)] = &[
    // It is a router, of IPv4; a guest has no other protocol.
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // The source of a packet is looked at by a rule, which knows more than routes: all guests have one address.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Pieces of a packet come one after the other; the rest of one that does not come takes room from others', which is bounded.
    ("ipv4/ipfrag_time", "3"),
    // Who asks at a tap for an address hears of that link's alone.
    ("ipv4/conf/all/arp_ignore", "1"),
    // Nobody here knows a better way.
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// The same of connections, which are followed once there are rules that ask for it.
const CONNECTION_SETTINGS: &[(&str, &str)] = &[
    // A packet of a connection whose beginning was not seen is of a guest that was another one then: it is told so.
    ("netfilter/nf_conntrack_tcp_loose", "0"),
    // One that says nothing for an hour is over: the default is five days.
    ("netfilter/nf_conntrack_tcp_timeout_established", "3600"),
];

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("gateway: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    agent: u32,
    pool: Prefix,
    nft: PathBuf,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (mut agent, mut pool, mut nft) = (None, None, None);
        while let Some(name) = args.next() {
            let value = args.next()?;
            match name.as_str() {
                "--agent" => agent = Some(value.parse().ok()?),
                "--pool" => {
                    let prefix: Prefix = value.parse().ok()?;
                    pool = Some(prefix).filter(|prefix| prefix.len() <= MAX_POOL_LEN);
                }
                "--nft" => nft = Some(PathBuf::from(value)),
                _ => return None,
            }
        }
        Some(Self { agent: agent?, pool: pool?, nft: nft? })
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let Options { agent, pool, nft } = Options::parse(args).ok_or(USAGE)?;
    let tools = tools(Pool(pool), &nft)?;
    let filter = filters::gateway().compile().map_err(|error| describe(&error))?;
    eprintln!("gateway: guests are {pool} on this node, for user {agent}");
    confine().map_err(|error| format!("enter a room: {error}"))?;
    filter.apply().map_err(|error| describe(&error))?;
    serve(Slots::new(tools), agent)
}

/// Makes the guests' network, connects it with the node's, and opens what slots are made with. Only that network is this
/// process's from here on.
fn tools(pool: Pool, nft: &Path) -> Result<Tools, String> {
    let failed = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    let mut node =
        Netlink::open(SockProtocol::NetlinkRoute).map_err(failed("speak to the node's network"))?;
    let mut node_connections = Connections::open().map_err(failed("speak to the node's netfilter"))?;
    node_connections.forget_guests().map_err(failed("forget an earlier gateway's connections"))?;
    let namespace = open("/proc/self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let namespace = namespace.map_err(failed("open the node's network"))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(failed("make the guests' network"))?;
    set(SETTINGS)?;
    let mut links =
        Netlink::open(SockProtocol::NetlinkRoute).map_err(failed("speak to the guests' network"))?;
    wires::connect(pool, (&mut node, namespace.as_fd()), &mut links)
        .map_err(failed("connect the networks"))?;
    rules::load(nft, pool).map_err(|error| describe(&error))?;
    set(CONNECTION_SETTINGS)?;
    let guest_connections = Connections::open().map_err(failed("speak to the guests' netfilter"))?;
    Ok(Tools {
        pool,
        taps: Taps::open().map_err(failed("open /dev/net"))?,
        links,
        rules: Rules::open().map_err(failed("speak to the guests' filters"))?,
        connections: [guest_connections, node_connections],
    })
}

fn set(settings: &[(&str, &str)]) -> Result<(), String> {
    settings.iter().try_for_each(|(name, value)| {
        fs::write(format!("/proc/sys/net/{name}"), value)
            .map_err(|error| format!("set {name} to {value}: {error}"))
    })
}

/// What is open is all that there is from now on.
fn confine() -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_no_new_privs()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    enter_empty_root()?;
    keep_capability(Capability::NetAdmin)
}

/// Serves one agent after the other.
fn serve(mut slots: Slots, agent: u32) -> Result<(), String> {
    let stdin = std::io::stdin();
    loop {
        let connection = Connection::accept(stdin.as_fd(), agent);
        let Some(connection) = connection.map_err(|error| format!("accept a connection: {error}"))? else {
            continue;
        };
        serve_agent(&mut slots, &connection)?;
        // Before another agent has an answer, all that was this one's is gone.
        slots.clear().map_err(|error| describe(&error))?;
    }
}

fn serve_agent(slots: &mut Slots, connection: &Connection) -> Result<(), String> {
    loop {
        let received = connection.receive().map_err(|error| format!("read a request: {error}"))?;
        let done = match received {
            Incoming::End => return Ok(()),
            Incoming::Malformed(malformed) => Err(malformed.to_string()),
            Incoming::Request(request) => carry_out(slots, request).map_err(|error| describe(&error)),
        };
        let sent = match done {
            Ok((answer, tap)) => connection.send(&answer, tap.as_ref().map(|tap| tap.as_fd())),
            Err(text) => {
                eprintln!("gateway: {text}");
                connection.send(&Answer::Failed { text }, None)
            }
        };
        sent.map_err(|error| format!("send an answer: {error}"))?;
    }
}

fn carry_out(slots: &mut Slots, request: Request) -> Result<(Answer, Option<OwnedFd>), SlotError> {
    match request {
        Request::Make { rate } => {
            return slots.make(rate).map(|(slot, tap)| (Answer::Made { slot }, Some(tap)));
        }
        Request::Permit { slot, egress } => slots.permit(slot, egress)?,
        Request::Remove { slot } => slots.remove(slot)?,
        Request::Resolve { server } => slots.resolve(server)?,
    }
    Ok((Answer::Done, None))
}

/// An error and its causes on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_says_everything_and_nothing_else() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
        let whole = "--agent 970 --pool 100.64.0.0/16 --nft /usr/sbin/nft";
        let pool = "100.64.0.0/16".parse().unwrap();
        assert_eq!(parse(whole), Some(Options { agent: 970, pool, nft: "/usr/sbin/nft".into() }));
        for wrong in [
            "",
            "--agent 970",
            "--agent root --pool 100.64.0.0/16 --nft /n",
            "--agent 970 --pool 100.64.0.0/17 --nft /n",
            &format!("{whole} --more 1"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
