//! A guest: a TCP stack at the other end of a tap, with the address that every guest has.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};

use inner_network::{GATEWAY, GUEST, GUEST_MAC, MTU, PREFIX_LEN};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Cidr};

/// What came of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Connected,
    /// Told so at once.
    Refused,
    /// Nothing came back.
    Silence,
}

/// How long nothing has to come for silence; answers take microseconds.
const PATIENCE: Duration = Duration::from_millis(400);

/// Everything else that is waited for comes.
const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Guest {
    tap: Tap,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Guest {
    pub(crate) fn new(tap: OwnedFd) -> Self {
        let mut tap = Tap(File::from(tap));
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC)));
        let mut interface = Interface::new(config, &mut tap, Instant::now());
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(GUEST, PREFIX_LEN))).expect("room for one");
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).expect("room for one");
        Self { tap, interface, sockets: SocketSet::new(vec![]), next_port: 40_000 }
    }

    /// As somebody else.
    pub(crate) fn claims(mut self, address: Ipv4Addr) -> Self {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, 8))).expect("room for one");
        });
        self
    }

    /// Whether a server there can be spoken to.
    pub(crate) fn tries(&mut self, address: Ipv4Addr, port: u16) -> Outcome {
        let handle = self.begin(address, port);
        let connected = self.wait(PATIENCE, |sockets| match sockets.get::<tcp::Socket<'_>>(handle).state() {
            tcp::State::SynSent => None,
            tcp::State::Closed => Some(Outcome::Refused),
            _ => Some(Outcome::Connected),
        });
        self.sockets.remove(handle);
        connected.unwrap_or(Outcome::Silence)
    }

    /// A connection to a server, and whom that takes this guest for.
    pub(crate) fn connect(&mut self, address: Ipv4Addr, port: u16) -> (SocketHandle, String) {
        let handle = self.begin(address, port);
        let line = self.hear(handle);
        (handle, line.trim_end().to_owned())
    }

    /// Says something there, and what comes back.
    pub(crate) fn says(&mut self, handle: SocketHandle, words: &str) -> String {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).send_slice(words.as_bytes()).expect("it is open");
        self.hear(handle)
    }

    /// Whether what is said there is answered by an end.
    pub(crate) fn is_reset(&mut self, handle: SocketHandle) -> bool {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).send_slice(b"?").expect("it is open");
        let is_closed = |sockets: &mut SocketSet<'_>| {
            (sockets.get::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed).then_some(())
        };
        self.wait(LONG, is_closed).is_some()
    }

    /// Asks a name server; what it answers.
    pub(crate) fn asks(&mut self, server: Ipv4Addr, question: &str) -> Option<String> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 2048]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let port = self.port();
        socket.bind(port).expect("bind");
        socket.send_slice(question.as_bytes(), IpEndpoint::new(IpAddress::Ipv4(server), 53)).expect("send");
        let handle = self.sockets.add(socket);
        let answer = self.wait(PATIENCE, |sockets| {
            let (answer, from) = sockets.get_mut::<udp::Socket<'_>>(handle).recv().ok()?;
            assert_eq!(from.endpoint, IpEndpoint::new(IpAddress::Ipv4(server), 53));
            Some(String::from_utf8_lossy(answer).into_owned())
        });
        self.sockets.remove(handle);
        answer
    }

    /// Sends datagrams as fast as it can.
    pub(crate) fn floods(&mut self, server: Ipv4Addr, packets: usize, len: usize) {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4 * 2048]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(self.port()).expect("bind");
        let handle = self.sockets.add(socket);
        for _ in 0..packets {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket.send_slice(&vec![0; len], (IpAddress::Ipv4(server), 9)).expect("its buffer is empty");
            self.interface.poll(Instant::now(), &mut self.tap, &mut self.sockets);
        }
        self.sockets.remove(handle);
    }

    /// Asks a name server for more than one answer; bytes of what comes until nothing does.
    pub(crate) fn is_flooded(&mut self, server: Ipv4Addr, question: &str) -> usize {
        // The stack takes all that has come before anybody looks.
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4096], vec![0; 4 << 20]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(self.port()).expect("bind");
        socket.send_slice(question.as_bytes(), (IpAddress::Ipv4(server), 53)).expect("send");
        let handle = self.sockets.add(socket);
        let mut bytes = 0;
        while self
            .wait(PATIENCE, |sockets| {
                let (answer, _) = sockets.get_mut::<udp::Socket<'_>>(handle).recv().ok()?;
                bytes += answer.len();
                Some(())
            })
            .is_some()
        {}
        self.sockets.remove(handle);
        bytes
    }

    /// Sends a frame as it is.
    pub(crate) fn sends(&mut self, frame: &[u8]) {
        self.tap.0.write_all(frame).expect("its link is there");
    }

    /// Frames that come, until none does.
    pub(crate) fn hears(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let patience = PollTimeout::from(PATIENCE.total_millis() as u16);
        while poll(&mut [PollFd::new(self.tap.0.as_fd(), PollFlags::POLLIN)], patience).expect("poll") > 0 {
            let mut frame = vec![0; 2048];
            let len = self.tap.0.read(&mut frame).expect("there is one");
            frame.truncate(len);
            frames.push(frame);
        }
        frames
    }

    /// The same stack at another tap, as a clone is.
    pub(crate) fn moves(&mut self, tap: OwnedFd) {
        self.tap = Tap(File::from(tap));
    }

    fn begin(&mut self, address: Ipv4Addr, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let local = self.port();
        socket.connect(self.interface.context(), (IpAddress::Ipv4(address), port), local).expect("connect");
        self.sockets.add(socket)
    }

    fn hear(&mut self, handle: SocketHandle) -> String {
        let heard = self.wait(LONG, |sockets| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            let take = |bytes: &mut [u8]| (bytes.len(), String::from_utf8_lossy(bytes).into_owned());
            socket.can_recv().then(|| socket.recv(take).expect("it can"))
        });
        heard.expect("the server says something")
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Lets the stack work until there is a result, or not for so long.
    fn wait<T>(
        &mut self,
        limit: Duration,
        mut result: impl FnMut(&mut SocketSet<'static>) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            self.interface.poll(Instant::now(), &mut self.tap, &mut self.sockets);
            if let Some(result) = result(&mut self.sockets) {
                return Some(result);
            }
            let now = Instant::now();
            if now >= end {
                return None;
            }
            let delay = self.interface.poll_delay(now, &self.sockets).unwrap_or(limit).min(end - now);
            let delay = u16::try_from(delay.total_millis() + 1).expect("seconds");
            poll(&mut [PollFd::new(self.tap.0.as_fd(), PollFlags::POLLIN)], PollTimeout::from(delay))
                .expect("poll");
        }
    }
}

/// The tap as smoltcp sees it.
struct Tap(File);

struct Received(Vec<u8>);

struct Room<'a>(&'a mut File);

impl phy::Device for Tap {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Room<'_>)> {
        let mut frame = vec![0; 2048];
        let len = self.0.read(&mut frame).ok()?;
        frame.truncate(len);
        Some((Received(frame), Room(&mut self.0)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + 14;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        // A link that is gone takes nothing.
        drop(self.0.write_all(&frame));
        result
    }
}
