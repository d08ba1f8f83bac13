//! Packets as a hostile guest sends them, mixed with what clients do: the socket device comes to rest, answers with
//! packets that make sense, and sends no more than the guest has said it has room for.
#![no_main]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use devices::{Accepted, Broker, Vsock};
use fuzz::{AVAILABLE, Machine, QUEUE_MAX, QUEUE_STRIDE, USED};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const HEADER_LEN: usize = 44;
const RX_AT: u64 = 0x4000;
const RX_LEN: u64 = 0x400;
const TX_AT: u64 = 0x8000;
const TX_DATA_MAX: usize = 0x4000;
const GUEST_CID: u32 = 3;
const FEATURES: u64 = 1 << 32 | 1 << 28;
const QUEUE_NOTIFY: u64 = 0x50;
const RX: u64 = 0;
const TX: u64 = 1;
/// Longest a client writes or reads in one step.
const CLIENT_LEN: usize = 0x1_0000;

/// What the target's clients hold.
#[derive(Default)]
struct Host {
    streams: Vec<UnixStream>,
    /// Ports of the guest that clients ask for.
    asked: Vec<(u32, OwnedFd)>,
}

#[derive(Clone)]
struct Clients {
    host: Arc<Mutex<Host>>,
    /// Readable as long as the other end says so.
    bell: Arc<(UnixStream, UnixStream)>,
}

impl Clients {
    fn with<T>(&self, act: impl FnOnce(&mut Host) -> T) -> T {
        act(&mut self.host.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stream(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        self.with(|host| host.streams.push(ours));
        Ok(theirs.into())
    }

    fn ask(&self, port: u32) {
        let stream = self.stream().expect("a socket pair");
        self.with(|host| host.asked.push((port, stream)));
        (&self.bell.1).write_all(&[0]).expect("room for a byte");
    }
}

impl Broker for Clients {
    fn readable(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }

    fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        if port == 0 { Err(io::ErrorKind::ConnectionRefused.into()) } else { self.stream() }
    }

    fn accept(&mut self) -> Accepted {
        let _ = (&self.bell.0).read(&mut [0]);
        match self.with(|host| host.asked.pop()) {
            Some((port, stream)) => Accepted::Connection { port, stream },
            None => Accepted::Nothing,
        }
    }
}

struct Guest {
    machine: Machine<Vsock>,
    available: [u16; 2],
    used: [u16; 2],
    /// The device has left packets waiting, so that it may know less than the guest has said.
    behind: bool,
    /// Per connection (host port, guest port): bytes that came, and the room that was told last.
    flows: HashMap<(u32, u32), Flow>,
}

#[derive(Default)]
struct Flow {
    received: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Guest {
    fn add(&mut self, queue: u64, descriptors: &[(u64, u32, u16)]) {
        let base = queue * QUEUE_STRIDE;
        let size = u64::from(QUEUE_MAX);
        let index = &mut self.available[queue as usize];
        // One chain at a time on tx (from entry 0); one buffer an entry on rx.
        let first = if queue == RX { u64::from(*index) % size } else { 0 };
        for (at, &(address, len, flags)) in (first..).zip(descriptors) {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend((at as u16 + 1).to_le_bytes());
            self.machine.fill(base + 16 * at, &bytes);
        }
        self.machine
            .fill(base + AVAILABLE + 4 + 2 * (u64::from(*index) % size), &(first as u16).to_le_bytes());
        *index = index.wrapping_add(1);
        self.machine.fill(base + AVAILABLE + 2, &index.to_le_bytes());
        self.machine.write(QUEUE_NOTIFY, queue as u32);
    }

    fn give_buffer(&mut self) {
        let index = self.available[RX as usize];
        if index.wrapping_sub(self.used[RX as usize]) < QUEUE_MAX {
            let address = RX_AT + u64::from(index % QUEUE_MAX) * RX_LEN;
            self.add(RX, &[(address, RX_LEN as u32, 2)]);
        }
    }

    fn send(&mut self, packet: &[u8], data: usize, cut: usize) {
        self.machine.fill(TX_AT, packet);
        let len = HEADER_LEN + data.min(TX_DATA_MAX);
        let cut = cut.min(len);
        self.add(TX, &[(TX_AT, cut as u32, 1), (TX_AT + cut as u64, (len - cut) as u32, 0)]);
        self.learn(packet);
        self.machine.run();
        // A packet that the device has not taken yet has told it nothing.
        self.behind |= self.half(TX * QUEUE_STRIDE + USED + 2) != self.available[TX as usize];
        self.receive();
    }

    /// The guest's word about its room, as the device must have understood it.
    fn learn(&mut self, packet: &[u8]) {
        if (word(packet, 0), word(packet, 8)) != (GUEST_CID, 2) {
            return;
        }
        let flow = self.flows.entry((word(packet, 20), word(packet, 16))).or_default();
        (flow.buf_alloc, flow.fwd_cnt) = (word(packet, 36), word(packet, 40));
    }

    fn receive(&mut self) {
        let used = u64::from(self.half(RX * QUEUE_STRIDE + USED + 2));
        while u64::from(self.used[RX as usize]) != used {
            let entry = u64::from(self.used[RX as usize] % QUEUE_MAX);
            let mut element = [0; 8];
            let at = RX * QUEUE_STRIDE + USED + 4 + 8 * entry;
            self.machine.memory.read_slice(&mut element, GuestAddress(at)).expect("the used ring");
            let mut packet = [0; HEADER_LEN];
            let at = RX_AT + u64::from(word(&element, 0)) * RX_LEN;
            self.machine.memory.read_slice(&mut packet, GuestAddress(at)).expect("a buffer");
            self.check(&packet, word(&element, 4));
            self.used[RX as usize] = self.used[RX as usize].wrapping_add(1);
        }
    }

    fn check(&mut self, packet: &[u8; HEADER_LEN], used: u32) {
        let (op, len) = (packet[30], word(packet, 24));
        assert!((1..=7).contains(&op), "operation {op}");
        assert_eq!(used as usize, HEADER_LEN + len as usize);
        assert_eq!((word(packet, 0), word(packet, 8)), (2, GUEST_CID));
        assert!(len == 0 || op == 5, "payload with operation {op}");
        let flow = self.flows.entry((word(packet, 16), word(packet, 20))).or_default();
        if op == 1 || op == 2 {
            flow.received = 0;
        }
        if op == 5 {
            let room = flow.buf_alloc.saturating_sub(flow.received.wrapping_sub(flow.fwd_cnt));
            assert!(self.behind || len <= room, "{len} bytes into room for {room}");
            flow.received = flow.received.wrapping_add(len);
        }
    }

    fn half(&self, at: u64) -> u16 {
        self.machine.memory.read_obj(GuestAddress(at)).expect("the used ring")
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// A packet whose fields are mostly sensible, so that the interesting ones are reached.
fn packet(&[fields, op, ports, data, alloc, forwarded, flags]: &[u8; 7]) -> ([u8; HEADER_LEN], usize) {
    let data = usize::from(data) * if fields & 1 == 0 { 1 } else { 64 };
    let mut packet = [0; HEADER_LEN];
    packet[0] = if fields & 2 == 0 { 3 } else { op };
    packet[8] = if fields & 4 == 0 { 2 } else { op };
    packet[16] = ports & 3;
    packet[20] = ports >> 2 & 3;
    if ports & 0x80 != 0 {
        // The device's own ports begin at 2^30.
        packet[23] = 0x40;
    }
    let len = if fields & 8 == 0 { data as u32 } else { u32::from_le_bytes([op, flags, alloc, fields]) };
    packet[24..28].copy_from_slice(&len.to_le_bytes());
    packet[28] = if fields & 16 == 0 { 1 } else { flags };
    packet[30] = if fields & 32 == 0 { op % 8 } else { op };
    packet[32] = flags;
    packet[36] = alloc;
    packet[37] = if fields & 64 == 0 { 0x40 } else { alloc };
    packet[40] = forwarded;
    if fields & 128 != 0 {
        packet[43] = forwarded;
    }
    (packet, data)
}

fuzz_target!(|input: &[u8]| {
    let clients =
        Clients { host: Arc::default(), bell: Arc::new(UnixStream::pair().expect("a socket pair")) };
    clients.bell.0.set_nonblocking(true).expect("non-blocking");
    let vsock = Vsock::new(GUEST_CID, Box::new(clients.clone())).expect("a device");
    let mut guest = Guest {
        machine: Machine::new(vsock, QUEUE_MAX, FEATURES),
        available: [0; 2],
        used: [0; 2],
        behind: false,
        flows: HashMap::new(),
    };
    let mut scratch = vec![0; CLIENT_LEN];
    for step in input.as_chunks::<8>().0 {
        let [action, fields @ ..] = step;
        let which = usize::from(fields[0]);
        match action % 8 {
            0 | 1 => {
                let (packet, data) = packet(fields);
                guest.send(&packet, data, usize::from(action / 8) * 4);
            }
            2 => (0..=which % 8).for_each(|_| guest.give_buffer()),
            3 => clients.ask(u32::from(fields[0] & 3)),
            action => clients.with(|host| {
                let count = host.streams.len();
                let Some(stream) = host.streams.get_mut(which % count.max(1)) else { return };
                let len = usize::from(u16::from_le_bytes([fields[1], fields[2]]));
                match action {
                    4 => drop(stream.write(&scratch[..len])),
                    5 => drop(stream.read(&mut scratch[..len])),
                    6 => drop(stream.shutdown(if fields[1] & 1 == 0 {
                        Shutdown::Write
                    } else {
                        Shutdown::Read
                    })),
                    _ => drop(host.streams.swap_remove(which % count)),
                }
            }),
        }
        guest.machine.run();
        guest.receive();
    }
});
