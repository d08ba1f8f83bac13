//! What hostile drivers do, step by step, to each device: descriptors, rings that move, notifications, registers, resets and
//! set-ups in the middle of work, and a machine that is saved and restored meanwhile. The disk keeps its length, a read-only one
//! its bytes, and what is saved can be restored.
#![no_main]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use devices::{
    Accepted, Access, Block, Broker, BusDevice, DriveId, Event, Link, Net, RateLimit, Rng, Uplink,
    VirtioDevice, Vsock,
};
use fuzz::{AVAILABLE, HIGH_LEN, HIGH_START, LOW_LEN, Machine, QUEUE_MAX, QUEUE_STRIDE, USED};
use libfuzzer_sys::fuzz_target;

const DISK_LEN: usize = 64 * 512;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const QUEUE_NOTIFY: u64 = 0x50;
const BUFFERS: u64 = 0x1000;
/// VERSION_1, and with it INDIRECT_DESC, EVENT_IDX, both.
const FEATURES: [u64; 4] = [1 << 32, 1 << 32 | 1 << 28, 1 << 32 | 1 << 29, 1 << 32 | 1 << 28 | 1 << 29];
/// Places that descriptors name: buffers, the borders of both regions, the rings, nowhere.
const PLACES: [u64; 8] = [
    BUFFERS,
    BUFFERS + 0x800,
    LOW_LEN as u64 - 8,
    HIGH_START - 8,
    HIGH_START + HIGH_LEN as u64 - 8,
    0,
    USED,
    u64::MAX - 7,
];

static BYTES: [u8; DISK_LEN] = [0x5a; DISK_LEN];

static READ_ONLY: LazyLock<File> = LazyLock::new(image);
static WRITABLE: LazyLock<File> = LazyLock::new(image);

fn image() -> File {
    let image = tempfile::tempfile().expect("a temporary file");
    image.write_all_at(&BYTES, 0).expect("room for 32 KiB");
    image
}

/// Takes every connection; nobody is at the other end, and nobody asks for one.
struct NoClients(UnixStream, UnixStream);

impl Broker for NoClients {
    fn readable(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn connect(&mut self, port: u32) -> io::Result<OwnedFd> {
        if port == 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.1.try_clone().map(Into::into)
    }

    fn accept(&mut self) -> Accepted {
        Accepted::Nothing
    }
}

fn disk(image: &File, access: Access) -> Block {
    let id = DriveId::try_from("fuzz").expect("a good name");
    Block::new(id, Box::new(image.try_clone().expect("a descriptor")), access).expect("a good disk")
}

fn entropy() -> Rng {
    Rng::new().expect("an eventfd")
}

fn sockets() -> Vsock {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    Vsock::new(3, Box::new(NoClients(ours, theirs))).expect("a device")
}

/// A frame comes in each second time that one is asked for; what goes out is the guest's own.
struct Frames(UnixStream, bool);

impl Link for Frames {
    fn readable(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        self.1 = !self.1;
        Ok(self.1.then(|| frame[..60].fill(0x5a)).map(|()| 60))
    }

    fn send(&mut self, frame: &[u8]) {
        assert!((14..=1514).contains(&frame.len()) && frame[6..12] == MAC);
    }
}

fn network() -> Net {
    let rate = RateLimit { bytes_per_second: 1_000_000, burst_bytes: 1 << 20 };
    // Readable for ever: its other end is closed.
    let (ours, _) = UnixStream::pair().expect("a socket pair");
    let link = Box::new(Frames(ours, false));
    Net::new(MAC, Some(Uplink { link, receive: rate, transmit: rate })).expect("a device")
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, steps)) = input.split_first() else { return };
    match kind % 5 {
        0 => drive(entropy, steps),
        1 => drive(sockets, steps),
        4 => drive(network, steps),
        2 => {
            drive(|| disk(&READ_ONLY, Access::ReadOnly), steps);
            let mut bytes = [0; DISK_LEN];
            READ_ONLY.read_exact_at(&mut bytes, 0).expect("the disk keeps its length");
            assert_eq!(bytes, BYTES);
        }
        _ => {
            drive(|| disk(&WRITABLE, Access::ReadWrite), steps);
            assert_eq!(WRITABLE.metadata().expect("metadata").len(), DISK_LEN as u64);
        }
    }
});

fn drive<D: VirtioDevice + 'static>(make: impl Fn() -> D, steps: &[u8]) {
    let mut machine = Machine::new(make(), QUEUE_MAX, FEATURES[3]);
    let queues = machine.device().queue_sizes().len();
    for &[action, a, b, c, d, e] in steps.as_chunks::<6>().0 {
        let queue = usize::from(a) % queues;
        let base = queue as u64 * QUEUE_STRIDE;
        let half = u16::from_le_bytes([c, d]);
        match action % 12 {
            // A descriptor, of a length that is small, to the end of what is there, or beyond it.
            0 | 1 => {
                let place = PLACES[usize::from(b & 7)].wrapping_add(u64::from(b >> 3) * 16);
                let len = if e & 0x80 == 0 { u32::from(half) } else { u32::MAX - u32::from(half) };
                descriptor(&machine, base + 16 * u64::from(a >> 2 & 7), place, len, [e & 7, e >> 3 & 15]);
            }
            // A head, and the index that says so.
            2 | 3 => {
                machine.fill(base + AVAILABLE + 4 + 2 * u64::from(b & 7), &u16::from(c & 15).to_le_bytes());
                machine.fill(base + AVAILABLE + 2, &u16::from(d).to_le_bytes());
            }
            // What a request or a packet says.
            4 | 5 => machine.fill(BUFFERS + u64::from(a) * 8, &[b, c, d, e]),
            6 => machine.write(QUEUE_NOTIFY, a.into()),
            7 => machine.write(u64::from(a) * 4, u32::from_le_bytes([b, c, d, e])),
            8 => {
                machine.transport.read(u64::from(a) * 4 + u64::from(b & 3), &mut [0; 8][..usize::from(c & 7)])
            }
            9 => machine.set_up(queues, 1 << (b & 3), FEATURES[usize::from(c & 3)]),
            10 => {
                let event = if a == u8::MAX { Event::Backend } else { Event::Kick(queue) };
                let _ = machine.device().handle(event);
            }
            _ => machine.restore(make()),
        }
    }
}

fn descriptor<D: VirtioDevice + 'static>(
    machine: &Machine<D>,
    at: u64,
    address: u64,
    len: u32,
    [flags, next]: [u8; 2],
) {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend([flags, 0, next, 0]);
    machine.fill(at, &bytes);
}
