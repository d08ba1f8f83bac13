//! A guest kernel that attacks its devices through KVM, every one in turn: each asks for a reset and works after it, the VMM
//! goes on answering, and its log does not grow with what the guest does. The whole table of attacks, on every queue, is in the
//! tests of `devices`.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use vmm_api::{DriveAccess, DriveConfig, MachineConfig, Request, Response, Source, VsockConfig};

use crate::driver::{Descriptor, Driver, INDIRECT, NEXT, NOTIFY, QUEUE_LEN, STATUS, WRITE};
use crate::guest::{Guest, VIRTIO};
use crate::process::{Vmm, machine};
use crate::reading::{self, SECTOR};
use crate::store::{Content, grant};

/// Guest memory of [`machine`].
const MEMORY_LEN: u32 = 128 << 20;
const BUFFER: u32 = reading::DATA;
const NEEDS_RESET: u8 = 0x40;

/// Lines that the log has for devices that a guest breaks.
const MAX_COMPLAINTS: usize = 16;

/// A chunk drive, a file that can be written, sockets, entropy, a network that goes nowhere.
const VICTIMS: [Driver; 5] = [
    Driver { page: 0, queues: 1, queue: 0 },
    Driver { page: 1, queues: 1, queue: 0 },
    Driver { page: 2, queues: 3, queue: 1 },
    Driver { page: 3, queues: 1, queue: 0 },
    Driver { page: 4, queues: 2, queue: 1 },
];

/// What goes into the table from its first entry on, and how far the available index is.
const ATTACKS: [(&[Descriptor], u32); 8] = [
    (&[(BUFFER, 16, NEXT)], 1),
    (&[(BUFFER, 16, NEXT | 1 << 16), (BUFFER, 16, NEXT)], 1),
    (&[(BUFFER, 16, NEXT | QUEUE_LEN << 16)], 1),
    (&[(BUFFER, u32::MAX, 0)], 1),
    (&[(BUFFER, 16, NEXT | 1 << 16), (MEMORY_LEN - 8, 16, WRITE)], 1),
    (&[(BUFFER, 16, WRITE | NEXT | 1 << 16), (BUFFER, 16, 0)], 1),
    (&[(BUFFER, 17, INDIRECT)], 1),
    (&[(BUFFER, 16, 0)], QUEUE_LEN + 1),
];

/// Does it, and waits until the device wants no more.
fn attack(victim: &Driver, guest: Guest, (descriptors, available): (&[Descriptor], u32)) -> Guest {
    victim
        .describe(victim.set_up(guest), descriptors)
        .store(victim.ring(reading::AVAILABLE) + 4, 0)
        .store(victim.ring(reading::AVAILABLE), available << 16)
        .store(victim.register(NOTIFY), victim.queue)
        .await_bits(victim.register(STATUS), NEEDS_RESET)
}

/// A machine with one of everything, each to be attacked.
struct Given {
    config: MachineConfig,
    fds: Vec<OwnedFd>,
}

fn given() -> Given {
    let content = Content::image(&[7; SECTOR]);
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(SECTOR as u64).unwrap();
    let (broker, nobody) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    drop(nobody);
    let mut fds = Vec::from(content.handed());
    fds.extend([disk.into(), broker]);
    let drives = vec![
        DriveConfig { id: "code".into(), source: Source::Chunks(grant(2)), access: DriveAccess::ReadOnly },
        DriveConfig { id: "disk".into(), source: Source::Fd(5), access: DriveAccess::ReadWrite },
    ];
    let vsock = Some(VsockConfig { guest_cid: 3, broker_fd: 6 });
    Given { config: MachineConfig { drives, vsock, entropy: true, ..machine() }, fds }
}

impl Given {
    fn run(&self, guest: &Guest) -> (Vmm, std::io::PipeReader) {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        Vmm::run(self.config.clone(), guest, &fds)
    }
}

#[test]
fn a_guest_that_attacks_every_device_finds_them_working_afterwards() {
    let attacks = VICTIMS.iter().flat_map(|victim| ATTACKS.map(|attack| (victim, attack)));
    let guest = attacks.fold(Guest::new(), |guest, (victim, attack)| self::attack(victim, guest, attack));
    let guest = VICTIMS.iter().fold(guest, |guest, victim| {
        victim.set_up(guest).load(victim.register(8)).print_eax().load(victim.register(STATUS)).print_eax()
    });
    // All of them: their rings are in one place, and what one of them finds there when it begins late is not for it.
    let guest = VICTIMS.iter().fold(guest, |guest, victim| guest.store(victim.register(STATUS), 0));
    let guest = guest.store(reading::USED, 0).store(reading::HEADER, 0);
    let guest = reading::print_sector(reading::set_up(guest), 0).print("\n").spin();
    let (vmm, mut console) = given().run(&guest);
    let mut printed = [0; 8 * VICTIMS.len() + 8];
    console.read_exact(&mut printed).unwrap();
    let words: Vec<_> =
        printed.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    let running = 15;
    let (block, sockets, entropy, network) = ([2, running], [19, running], [4, running], [1, running]);
    assert_eq!(words[..10], [block, block, sockets, entropy, network].concat());
    assert_eq!((words[10], words[11] & 0xff), (0x0707_0707, 0));
    let log = vmm.stop();
    assert!(log.lines().all(|line| line.contains("stopped until the guest resets it")), "{log}");
    assert_eq!(log.lines().count(), MAX_COMPLAINTS, "there were {}", VICTIMS.len() * ATTACKS.len());
}

#[test]
fn a_storm_of_accesses_keeps_nobody_from_the_vmm() {
    // Each register and what is between and behind them, and notifications of queues that hold nothing or are not there.
    let storm = VICTIMS.iter().fold(Guest::new(), |guest, victim| {
        let guest = (0..0x120).step_by(4).fold(guest, |guest, offset| guest.load(victim.register(offset)));
        let guest = [0, 1, u32::MAX].into_iter().fold(guest, |guest, queue| {
            guest.store(victim.register(NOTIFY), queue).store(victim.register(NOTIFY + 1), queue)
        });
        guest.store(victim.register(0), 0).store(victim.register(0x100), u32::MAX).store(VIRTIO + 0xf000, 0)
    });
    let guest = VICTIMS.iter().fold(Guest::new(), |guest, victim| victim.set_up(guest));
    let guest = guest.print("s\n").repeat(u32::MAX, &storm);
    let (vmm, mut console) = given().run(&guest);
    console.read_exact(&mut [0; 2]).unwrap();
    let mut seen = vmm.metrics().exits.mmio;
    for _ in 0..20 {
        for request in [Request::Pause, Request::Resume] {
            assert_eq!(vmm.call(&request), Response::Ok);
        }
        let before = seen;
        while seen == before {
            seen = vmm.metrics().exits.mmio;
        }
    }
    assert_eq!(vmm.stop(), "");
}
