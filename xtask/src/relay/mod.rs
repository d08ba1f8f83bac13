//! The network of a virtual machine: ports of the host's loopback on one side, the machine's network card on the other.
//!
//! QEMU's own user network loses connections that many clients open at once: it takes them one by one from a queue with
//! room for one, and some that it took never reach the machine. Here the host's kernel takes them, thousands at a time,
//! and a TCP stack of our own carries each one to the machine, over the frames that QEMU writes to a socket:
//!
//! ```text
//!  client ── 127.0.0.1:PORT ── [relay: one thread, epoll] ── frames ── QEMU ── virtio-net ── 10.0.2.15:PORT
//! ```
//!
//! The machine gets its address from here ([`lease`]) and reaches nobody: no packet of its is passed on anywhere. Needs
//! no privilege and touches no network of the host but loopback. Runs as a process of its own (`xtask relay`), which
//! ends when QEMU closes its end of the socket, so that it lives exactly as long as the machine.

mod client;
mod command;
mod lease;
mod link;
mod pulse;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};
use client::{Client, Fate};
use link::Link;
use pulse::Pulse;
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, getrlimit, setrlimit};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::qemu::Forward;
pub(crate) use command::{Args, Relay, run};

/// Who we are to the machine, and who it is to us: the addresses that QEMU's user network has, so that nothing in an
/// image depends on which of the two it meets.
const OUR_ADDRESS: Ipv4Address = Ipv4Addr::new(10, 0, 2, 2);
const MACHINE_ADDRESS: Ipv4Address = Ipv4Addr::new(10, 0, 2, 15);
const PREFIX_LEN: u8 = 24;
const OUR_HARDWARE_ADDRESS: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
/// Connections that wait to be taken, as far as the host's kernel lets them (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// Connections at a time: as many as a node serves. Others wait with the host's kernel.
const MAX_CLIENTS: usize = 4096;
/// Descriptors that are no client's.
const OTHER_DESCRIPTORS: u64 = 64;
/// Bytes on their way in one direction of one connection: what a loopback connection of Linux holds.
const BUFFER_LEN: usize = 128 * 1024;
/// Ports that connections to the machine come from, in turn: a port is used again only after all others.
const FIRST_PORT: u16 = 1024;
/// How long a machine may send nothing at all, asked or not, before it counts as stuck: many times what an emulated one took
/// to answer on a machine that was busy with everything else.
const PATIENCE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(120);
/// Events of one wake-up.
const EVENTS: usize = 256;
/// Numbers of what is not a client among the events.
const LINK_EVENT: u64 = u64::MAX;
const LISTENER_EVENT: u64 = u64::MAX - 1;

/// A port of the host and where its connections go.
struct Port {
    listener: TcpListener,
    guest: u16,
    /// Whether there may be connections to take.
    waiting: bool,
}

/// Everything the relay's one thread works on.
struct Network {
    epoll: OwnedFd,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    leases: SocketHandle,
    ports: Vec<Port>,
    /// By the port that the stack's half comes from.
    clients: HashMap<u16, Client>,
    max_clients: usize,
    next_port: u16,
    pulse: Pulse,
    began: std::time::Instant,
}

/// Why a relay's work is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// QEMU closed its end.
    Gone,
    /// The machine is there and answers nothing.
    Stuck,
}

/// Listens at every port of the host's loopback that is asked for; where none is named (0), at a free one.
fn listen(forwards: &[Forward]) -> Result<Vec<Port>> {
    let open = |forward: &Forward| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.host))
            .with_context(|| format!("listen on port {} of 127.0.0.1", forward.host))?;
        listener.set_nonblocking(true).context("set up a listening socket")?;
        // A second call changes how many may wait, which std has no word for.
        rustix::net::listen(&listener, BACKLOG).context("make room for bursts of clients")?;
        Ok(Port { listener, guest: forward.guest, waiting: true })
    };
    forwards.iter().map(open).collect()
}

/// Descriptors as many as the host allows; how many clients that is.
fn raise_descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A refusal leaves what there was.
    let _ = setrlimit(Resource::Nofile, limit);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(MAX_CLIENTS).min(MAX_CLIENTS)
}

impl Network {
    fn new(frames: UnixStream, ports: Vec<Port>, patience: smoltcp::time::Duration) -> Result<Network> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll")?;
        let mut link = Link::new(frames)?;
        watch(&epoll, link.socket(), LINK_EVENT)?;
        for port in &ports {
            watch(&epoll, &port.listener, LISTENER_EVENT)?;
        }
        let mut config = Config::new(HardwareAddress::Ethernet(OUR_HARDWARE_ADDRESS));
        config.random_seed = random_seed()?;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for two, and this is the first.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(OUR_ADDRESS), PREFIX_LEN));
        });
        let mut sockets = SocketSet::new(vec![]);
        let leases = sockets.add(lease::socket()?);
        Ok(Network {
            epoll,
            link,
            interface,
            sockets,
            leases,
            ports,
            clients: HashMap::new(),
            max_clients: raise_descriptors(),
            next_port: FIRST_PORT,
            pulse: Pulse::new(patience),
            began: std::time::Instant::now(),
        })
    }

    /// Works until the machine is gone or stuck.
    fn run(mut self) -> Result<End> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let more = self.turn()?;
            if self.link.is_closed() {
                return Ok(End::Gone);
            }
            if self.pulse.check(self.now(), &mut self.link) {
                return Ok(End::Stuck);
            }
            let delay = if more { Some(smoltcp::time::Duration::ZERO) } else { self.delay() };
            let delay = delay.map(|delay| Timespec {
                tv_sec: delay.secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: (delay.micros() * 1000).try_into().unwrap_or_default(),
            });
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), delay.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for clients and the machine"),
            }
            for event in &events {
                self.note(event.data.u64(), event.flags);
            }
        }
    }

    /// One round of everything that can be done now; whether another would find work.
    fn turn(&mut self) -> Result<bool> {
        self.accept()?;
        let mut more = self.link.read().context("read the machine's frames")?;
        if self.link.take_heard() {
            self.pulse.heard(self.now());
        }
        for client in self.clients.values_mut() {
            client.carry(self.sockets.get_mut(client.handle()));
        }
        self.interface.poll(self.now(), &mut self.link, &mut self.sockets);
        lease::serve(self.sockets.get_mut(self.leases));
        // What the stack received goes to the clients, and what that made room for comes from them, in this round.
        let mut gone = Vec::new();
        for (port, client) in &mut self.clients {
            match client.carry(self.sockets.get_mut(client.handle())) {
                Fate::Idle => {}
                Fate::Moved => more = true,
                Fate::Over => gone.push(*port),
            }
        }
        for client in gone.iter().filter_map(|port| self.clients.remove(port)) {
            self.sockets.remove(client.handle());
        }
        more |= !gone.is_empty() && self.ports.iter().any(|port| port.waiting);
        self.link.write().context("write frames to the machine")?;
        Ok(more)
    }

    /// How long nothing has to be done unless something happens.
    fn delay(&mut self) -> Option<smoltcp::time::Duration> {
        // A stack that has frames to send and no room for them waits for the room, not for the clock.
        let stack =
            if self.link.is_full() { None } else { self.interface.poll_delay(self.now(), &self.sockets) };
        stack.into_iter().chain(self.pulse.delay(self.now())).min()
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn note(&mut self, number: u64, flags: epoll::EventFlags) {
        match number {
            LINK_EVENT => self.link.note(flags),
            LISTENER_EVENT => self.ports.iter_mut().for_each(|port| port.waiting = true),
            // A client that has gone meanwhile has no entry.
            port => {
                let port = u16::try_from(port).ok();
                if let Some(client) = port.and_then(|port| self.clients.get_mut(&port)) {
                    client.note(flags);
                }
            }
        }
    }

    /// Takes the connections that wait, as long as there is room, and opens each one's other half.
    fn accept(&mut self) -> Result<()> {
        for at in 0..self.ports.len() {
            while self.ports[at].waiting && self.clients.len() < self.max_clients {
                match self.ports[at].listener.accept() {
                    Ok((stream, _)) => self.connect(stream, self.ports[at].guest)?,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.ports[at].waiting = false;
                    }
                    // That one client is gone, or something has run out until another one goes.
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, stream: std::net::TcpStream, guest: u16) -> Result<()> {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_LEN]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Requests and answers come in the pieces that their sender chose: waiting for more only delays them.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let local = self.free_port();
        socket
            .connect(self.interface.context(), (IpAddress::Ipv4(MACHINE_ADDRESS), guest), local)
            .context("open a connection to the machine")?;
        let handle = self.sockets.add(socket);
        let client = Client::new(stream, handle)?;
        watch(&self.epoll, client.stream(), local.into())?;
        self.clients.insert(local, client);
        Ok(())
    }

    /// There are fewer clients than ports, so this comes to an end.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.clients.contains_key(&port) {
                return port;
            }
        }
    }
}

/// Edge-triggered: each side keeps in mind that it can be read or written until it finds out otherwise.
fn watch(epoll: &OwnedFd, source: impl AsFd, number: u64) -> Result<()> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(epoll, source, epoll::EventData::new_u64(number), flags).context("watch a descriptor")
}

/// What the stack derives its sequence numbers from.
fn random_seed() -> Result<u64> {
    let mut seed = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed));
    read.context("read random bytes")?;
    Ok(u64::from_ne_bytes(seed))
}
