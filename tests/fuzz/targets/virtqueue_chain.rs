//! Rings and descriptors as a hostile guest writes them: whatever is in guest memory, block and entropy devices come
//! to rest, the disk keeps its length, and a read-only disk its bytes.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use devices::{Access, Block, DriveId, Rng, VirtioDevice};
use fuzz::{AVAILABLE, HIGH_START, Machine};
use libfuzzer_sys::fuzz_target;

const DISK_LEN: usize = 64 * 512;
/// Where buffers begin in the first region.
const BUFFERS: u64 = 0x1000;
const QUEUE_NOTIFY: u64 = 0x50;
/// VERSION_1, INDIRECT_DESC and EVENT_IDX.
const FEATURES: [u64; 2] = [1 << 32 | 1 << 28, 1 << 32 | 1 << 28 | 1 << 29];

static DISK: LazyLock<File> = LazyLock::new(|| {
    let disk = tempfile::tempfile().expect("a temporary file");
    disk.write_all_at(&[0x5a; DISK_LEN], 0).expect("room for 32 KiB");
    disk
});

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, size, rounds], memory)) = input.split_first_chunk() else { return };
    let size = 1 << (size & 3);
    let features = FEATURES[usize::from(kind >> 4 & 1)];
    match kind & 3 {
        0 => drive(Rng::new().expect("an eventfd"), size, features, rounds, memory),
        1 => {
            drive(disk(Access::ReadOnly), size, features, rounds, memory);
            let mut bytes = [0; DISK_LEN];
            DISK.read_exact_at(&mut bytes, 0).expect("the disk keeps its length");
        }
        _ => drive(disk(Access::ReadWrite), size, features, rounds, memory),
    }
    assert_eq!(DISK.metadata().expect("metadata").len(), DISK_LEN as u64);
});

fn disk(access: Access) -> Block {
    let id = DriveId::try_from("fuzz").expect("a good name");
    Block::new(id, Box::new(DISK.try_clone().expect("a descriptor")), access).expect("a good disk")
}

/// Fills memory and notifies, a few times over, so that a device is also seen in the middle of its work. A round is a
/// count, eight descriptors, eight heads, then what buffers and indirect tables hold.
fn drive(device: impl VirtioDevice + 'static, size: u16, features: u64, rounds: u8, memory: &[u8]) {
    let mut machine = Machine::new(device, size, features);
    let rounds = usize::from(rounds & 3) + 1;
    let mut available = 0u16;
    for part in memory.chunks(memory.len().div_ceil(rounds).max(1)) {
        let (count, part) = part.split_at(part.len().min(1));
        let (descriptors, part) = part.split_at(part.len().min(0x80));
        let (heads, buffers) = part.split_at(part.len().min(0x10));
        machine.fill(0, descriptors);
        machine.fill(AVAILABLE + 4, heads);
        machine.fill(BUFFERS, buffers);
        machine.fill(HIGH_START, buffers);
        // As many as there are heads, or more than can be.
        available = available.wrapping_add(count.first().map_or(0, |&count| u16::from(count) % 11));
        machine.fill(AVAILABLE + 2, &available.to_le_bytes());
        machine.write(QUEUE_NOTIFY, 0);
        machine.run();
    }
}
