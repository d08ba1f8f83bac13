//! The devices that are attacked, each behind one type, with what its driver may ask of it and how it shows that it works.

use std::fs::File;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use snapshot::Persist;
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::test_driver::{BUFFERS, Driver, readable, writable};
use crate::{
    Access, Activation, Block, DeviceError, DriveId, Link, MmioTransport, Net, RateLimit, Rng, SocketBroker,
    TransportResources, Uplink, VirtioDevice, Vsock, VsockState,
};

/// Guest address of the socket device.
const CID: u32 = 3;
const SECTORS: u64 = 64;
/// Ethernet address of the network device, and a frame to it.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FRAME: [u8; 60] = [0xee; 60];
/// Where the requests of [`Subject::provoke`] and [`Subject::works`] lie, beside what attacks use.
const OWN: u64 = BUFFERS + (1 << 20);

/// Any device.
pub(super) struct Any(Box<dyn VirtioDevice>);

/// A device to be attacked.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) make: fn() -> Any,
    /// Most chains that one wake-up gives back, of each queue.
    pub(super) wake_max: u16,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Rng,
    Vsock,
    Net,
}

pub(super) const SUBJECTS: [Subject; 5] = [
    Subject { name: "read-only disk", make: || disk(Access::ReadOnly), wake_max: 64, kind: Kind::Block },
    Subject { name: "writable disk", make: || disk(Access::ReadWrite), wake_max: 64, kind: Kind::Block },
    Subject { name: "entropy", make: entropy, wake_max: 16, kind: Kind::Rng },
    Subject { name: "sockets", make: sockets, wake_max: 64, kind: Kind::Vsock },
    Subject { name: "network", make: network, wake_max: 64, kind: Kind::Net },
];

fn disk(access: Access) -> Any {
    let mut file: File = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    Any(Box::new(Block::new(DriveId::try_from("disk").unwrap(), Box::new(file), access).unwrap()))
}

fn entropy() -> Any {
    Any(Box::new(Rng::new().unwrap()))
}

/// As a restored one, which has an event for its driver. Nobody listens at the other end.
fn sockets() -> Any {
    let (ours, _) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let broker = Box::new(SocketBroker::new(ours).unwrap());
    let state = VsockState { guest_cid: CID.into(), next_host_port: 0 };
    Any(Box::new(Vsock::restore(broker, &state).unwrap()))
}

/// Frames without end come in, and what goes out is looked at.
struct EndlessFrames(PipeReader);

impl Link for EndlessFrames {
    fn readable(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        frame[..FRAME.len()].copy_from_slice(&FRAME);
        Ok(Some(FRAME.len()))
    }

    fn send(&mut self, frame: &[u8]) {
        assert!((14..=1514).contains(&frame.len()) && frame[6..12] == MAC, "{frame:?}");
    }
}

fn network() -> Any {
    let unlimited = RateLimit { bytes_per_second: u64::MAX, burst_bytes: u64::MAX };
    // What nobody reads stays readable.
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&[0]).unwrap();
    let link = Box::new(EndlessFrames(reader));
    Any(Box::new(Net::new(MAC, Some(Uplink { link, receive: unlimited, transmit: unlimited })).unwrap()))
}

impl Subject {
    /// At DRIVER_OK, and of a machine that was restored then: the socket device looks at its event queue after that alone.
    pub(super) fn started(&self) -> Driver<Any> {
        let mut driver = Driver::started((self.make)());
        let state = driver.transport.save();
        let device = Arc::new(Mutex::new((self.make)()));
        let resources = TransportResources {
            device: device.clone(),
            memory: driver.memory.clone(),
            interrupt: Box::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
        };
        driver.transport = MmioTransport::restore(resources, &state).unwrap();
        driver.device = device;
        driver.run();
        driver
    }

    pub(super) fn queues(&self) -> usize {
        (self.make)().queue_sizes().len()
    }

    /// Gives the device a reason to look at `queue`.
    pub(super) fn provoke(&self, driver: &mut Driver<Any>, queue: usize) {
        if self.kind == Kind::Vsock && queue == 0 {
            stray_packet(driver);
        }
        driver.write(crate::virtio::registers::Register::QueueNotify, queue as u32);
    }

    /// Sets the device up anew and has it serve a request that makes sense.
    #[track_caller]
    pub(super) fn works(&self, driver: &mut Driver<Any>, after: &str) {
        driver.start();
        driver.put(OWN, &[0; 64]);
        let (queue, used) = match self.kind {
            Kind::Block => {
                driver.put(OWN + 8, &7u64.to_le_bytes());
                driver.add(0, &[readable(OWN, 16), writable(OWN + 0x1000, 512), writable(OWN + 32, 1)]);
                (0, (0, 513))
            }
            Kind::Rng => {
                driver.add(0, &[writable(OWN, 8)]);
                (0, (0, 8))
            }
            Kind::Vsock => {
                driver.add(0, &[writable(OWN + 0x1000, 4096)]);
                stray_packet(driver);
                (0, (0, 44))
            }
            Kind::Net => {
                driver.add(0, &[writable(OWN + 0x1000, 2048)]);
                (0, (0, 72))
            }
        };
        driver.kick(queue);
        assert_eq!(driver.used(queue), [used], "{} does not work after {after}", self.name);
        if self.kind == Kind::Block {
            assert_eq!(driver.get_vec(OWN + 0x1000, 512), [7; 512], "{} after {after}", self.name);
        }
    }
}

/// Data for a connection that is none, which is answered with a reset.
fn stray_packet(driver: &mut Driver<Any>) {
    let mut packet = [0; 44];
    packet[0] = CID as u8;
    packet[8] = 2;
    packet[28] = 1;
    packet[30] = 5;
    driver.put(OWN + 0x100, &packet);
    driver.add(1, &[readable(OWN + 0x100, packet.len() as u32)]);
    driver.write(crate::virtio::registers::Register::QueueNotify, 1);
}

impl VirtioDevice for Any {
    fn device_id(&self) -> u32 {
        self.0.device_id()
    }

    fn features(&self) -> u64 {
        self.0.features()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        self.0.queue_sizes()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }

    fn kicks(&self) -> &[EventFd] {
        self.0.kicks()
    }

    fn backend(&self) -> Option<BorrowedFd<'_>> {
        self.0.backend()
    }

    fn activate(&mut self, activation: Activation) {
        self.0.activate(activation);
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn activation(&self) -> Option<&Activation> {
        self.0.activation()
    }

    fn poll_backend(&mut self) -> Result<(), DeviceError> {
        self.0.poll_backend()
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        self.0.process()
    }
}
