//! The relay between clients and a machine that is a TCP stack of its own: takes its address from the relay, then gives
//! back to every client what that says.

use super::*;
use rustix::event::{PollFd, PollFlags, poll};
use smoltcp::socket::dhcpv4;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

const SERVED: u16 = 9000;
const NOT_SERVED: u16 = 9001;
/// More than any burst here.
const SEATS: usize = 1024;

/// A relay and its machine.
struct World {
    served: u16,
    not_served: u16,
    relay: JoinHandle<Result<End>>,
    /// Its end is the machine's.
    power: UnixStream,
}

impl World {
    fn new() -> World {
        World::with_patience(PATIENCE)
    }

    fn with_patience(patience: smoltcp::time::Duration) -> World {
        let forward = |guest| Forward { host: 0, guest };
        let ports = listen(&[forward(SERVED), forward(NOT_SERVED)]).unwrap();
        let number = |at: usize| -> u16 {
            let port: &Port = &ports[at];
            port.listener.local_addr().unwrap().port()
        };
        let (served, not_served) = (number(0), number(1));
        let (frames, card) = UnixStream::pair().unwrap();
        let power = card.try_clone().unwrap();
        std::thread::spawn(move || machine(card));
        let relay = std::thread::spawn(move || Network::new(frames, ports, patience)?.run());
        World { served, not_served, relay, power }
    }

    fn client(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.served)).unwrap()
    }

    /// Cuts the power and waits for the relay to end.
    fn end(self) {
        self.power.shutdown(Shutdown::Both).unwrap();
        assert_eq!(self.relay.join().unwrap().unwrap(), End::Gone);
    }
}

/// Serves until its card is gone.
fn machine(card: UnixStream) {
    let mut link = Link::new(card).unwrap();
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 1])));
    let mut interface = Interface::new(config, &mut link, Instant::now());
    let mut sockets = SocketSet::new(vec![]);
    let lease = sockets.add(dhcpv4::Socket::new());
    let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
    let seats: Vec<_> = (0..SEATS).map(|_| sockets.add(tcp::Socket::new(buffer(), buffer()))).collect();
    while !link.is_closed() {
        let more = link.read().unwrap();
        interface.poll(Instant::now(), &mut link, &mut sockets);
        if let Some(dhcpv4::Event::Configured(lease)) = sockets.get_mut::<dhcpv4::Socket<'_>>(lease).poll() {
            interface.update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(lease.address)).unwrap());
        }
        let moved = seats.iter().filter(|seat| echo(sockets.get_mut(**seat))).count() > 0;
        link.write().unwrap();
        if !more && !moved {
            let delay = interface.poll_delay(Instant::now(), &sockets);
            let delay = delay.map(|delay| Timespec {
                tv_sec: 0,
                tv_nsec: i64::try_from(delay.total_micros().min(100_000) * 1000).unwrap(),
            });
            poll(&mut [PollFd::new(link.socket(), PollFlags::IN)], delay.as_ref()).unwrap();
            link.note(epoll::EventFlags::IN | epoll::EventFlags::OUT);
        }
    }
}

/// Gives back what one client said; whether there was something to do.
fn echo(socket: &mut tcp::Socket<'_>) -> bool {
    if !socket.is_open() {
        socket.listen(SERVED).unwrap();
    }
    let room = socket.send_capacity() - socket.send_queue();
    if socket.can_recv() && socket.may_send() && room > 0 {
        let said = socket.recv(|bytes| {
            let len = bytes.len().min(room);
            (len, bytes[..len].to_vec())
        });
        socket.send_slice(&said.unwrap()).unwrap();
        return true;
    }
    if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
        socket.close();
        return true;
    }
    false
}

#[test]
fn of_many_clients_at_once_none_is_lost() {
    let world = World::new();
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| world.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        write!(client, "{number:08}").unwrap();
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let mut answer = [0; 8];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(std::str::from_utf8(&answer).unwrap(), format!("{number:08}"));
    }
    world.end();
}

#[test]
fn everything_arrives_in_order_and_an_end_of_data_is_one() {
    let world = World::new();
    let client = world.client();
    let said: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = client.try_clone().unwrap();
    let words = said.clone();
    let writer = std::thread::spawn(move || {
        writer.write_all(&words).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut heard = Vec::new();
    (&client).read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    world.end();
}

#[test]
fn a_refused_connection_is_reset_and_the_relay_goes_on() {
    let world = World::new();
    let mut refused = TcpStream::connect((Ipv4Addr::LOCALHOST, world.not_served)).unwrap();
    let error = refused.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut client = world.client();
    client.write_all(b"well").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    world.end();
}

#[test]
fn clients_of_a_machine_that_ends_are_told() {
    let world = World::new();
    let mut client = world.client();
    client.write_all(b"well").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    world.end();
    // Either way of ending is one: what counts is that nobody waits.
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_machine_that_has_nothing_to_say_is_not_stuck() {
    let patience = smoltcp::time::Duration::from_millis(600);
    let world = World::with_patience(patience);
    let mut client = world.client();
    client.write_all(b"well").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    std::thread::sleep(3 * std::time::Duration::from(patience));
    client.write_all(b"well").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    world.end();
}

#[test]
fn a_machine_that_stops_answering_is_stuck() {
    let (frames, mut card) = UnixStream::pair().unwrap();
    let patience = smoltcp::time::Duration::from_millis(600);
    let relay = std::thread::spawn(move || Network::new(frames, vec![], patience)?.run());
    // While it has not said anything it may be booting.
    std::thread::sleep(2 * std::time::Duration::from(patience));
    assert!(!relay.is_finished());
    let mut frame = [0; 64];
    frame[..4].copy_from_slice(&60_u32.to_be_bytes());
    card.write_all(&frame).unwrap();
    assert_eq!(relay.join().unwrap().unwrap(), End::Stuck);
    // Who was asked, and how often.
    let mut heard = Vec::new();
    card.read_to_end(&mut heard).unwrap();
    let questions = heard.windows(8).filter(|bytes| **bytes == [0, 1, 8, 0, 6, 4, 0, 1]).count();
    assert!((5..=12).contains(&questions), "{questions} questions");
}
