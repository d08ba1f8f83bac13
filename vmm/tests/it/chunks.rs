//! Drives that are read by chunks: guests find what was sealed, and what is lost is an error of theirs alone.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vmm_api::{DriveAccess, DriveConfig, MachineConfig, Request, Response, Source};

use crate::confinement::MAX_OVERHEAD_BYTES;
use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::reading::{self, SECTOR};
use crate::store::{Content, grant, somebody};

/// Sectors of a chunk.
const CHUNK_SECTORS: u32 = 128;

/// virtio 1.3 §5.2.6.
const OK: u32 = 0;
const IO_ERROR: u32 = 1;
/// What the guest's buffers hold before.
const UNTOUCHED: u32 = 0xffff_ffff;

/// Three chunks and a sector; each sector begins with its number and one. The second chunk is zeros.
fn image() -> Vec<u8> {
    let sector = |number: u32| {
        let mut bytes = [0; SECTOR];
        bytes[..4].copy_from_slice(&(number + 1).to_le_bytes());
        if (CHUNK_SECTORS..2 * CHUNK_SECTORS).contains(&number) { [0; SECTOR] } else { bytes }
    };
    (0..=3 * CHUNK_SECTORS).flat_map(sector).collect()
}

fn drive(access: DriveAccess) -> DriveConfig {
    DriveConfig { id: "disk".into(), source: Source::Chunks(grant(2)), access }
}

/// Boots a guest that reads these sectors: the beginning and the status of each.
fn read(given: [OwnedFd; 3], sectors: &[u32]) -> (Vmm, Vec<(u32, u32)>) {
    let guest = sectors.iter().fold(reading::set_up(Guest::new()), |guest, sector| {
        reading::print_sector(guest.store(reading::DATA, UNTOUCHED), *sector)
    });
    let config = MachineConfig { drives: vec![drive(DriveAccess::ReadOnly)], ..machine() };
    let (vmm, mut console) = Vmm::run(config, &guest.print("\n").spin(), &given.each_ref().map(AsFd::as_fd));
    let mut printed = vec![0; 8 * sectors.len() + 1];
    console.read_exact(&mut printed).unwrap();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let found = printed.chunks_exact(8).map(|pair| (word(&pair[..4]), word(&pair[4..]) & 0xff)).collect();
    (vmm, found)
}

fn first_reads(vmm: &Vmm) -> Vec<u32> {
    match vmm.call(&Request::WorkingSet) {
        Response::WorkingSet(set) => set.drives["disk"].clone(),
        other => panic!("no working set: {other:?}"),
    }
}

#[test]
fn a_guest_reads_what_was_sealed_and_its_chunks_are_told_in_order() {
    let content = Content::image(&image());
    let last = 3 * CHUNK_SECTORS;
    let sectors = [last, 300, 127, 128, 0, 299, last];
    let (vmm, found) = read(content.handed(), &sectors);
    let expected = sectors.map(|sector| (if sector == 128 { 0 } else { sector + 1 }, OK));
    assert_eq!(found, expected);
    assert_eq!(first_reads(&vmm), [3, 2, 0], "zeros are nobody's to fetch");
    let overhead = vmm.metrics().overhead_bytes;
    assert!(overhead <= MAX_OVERHEAD_BYTES, "{overhead} bytes");
    assert_eq!(vmm.stop(), "");
}

#[test]
fn a_chunk_that_cannot_be_had_is_an_error_of_the_request_and_of_nobody_else() {
    let content = Content::image(&image());
    content.damage(2);
    let sectors = [0, 256, 1, 300, 3 * CHUNK_SECTORS];
    let (vmm, found) = read(content.handed(), &sectors);
    assert_eq!(found[0], (1, OK));
    assert_eq!([found[1].1, found[3].1], [IO_ERROR; 2]);
    assert_eq!([found[1].0, found[3].0], [UNTOUCHED; 2], "nothing of it is seen");
    assert_eq!((found[2], found[4]), ((2, OK), (385, OK)));
    assert_eq!(first_reads(&vmm), [0, 3]);
    let log = vmm.stop();
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.starts_with("vmm: drive disk: a read failed: ask for chunk 2: "), "{log}");
}

#[test]
fn a_guest_that_reads_what_is_lost_for_ever_does_not_fill_the_log() {
    let content = Content::image(&image());
    content.damage(0);
    let (vmm, found) = read(content.handed(), &[0; 40]);
    assert!(found.iter().all(|(_, status)| *status == IO_ERROR), "{found:?}");
    assert_eq!(vmm.stop().lines().count(), 16);
}

#[test]
fn what_is_damaged_is_asked_for_and_a_wrong_answer_is_an_error() {
    let content = Content::image(&image());
    let answers = content.answers();
    content.damage(0);
    content.damage(2);
    let (asks, asked) = somebody(move |index| if index == 0 { answers(0) } else { answers(3) });
    let (vmm, found) = read(content.handed_with(asks), &[5, 256, 6]);
    assert_eq!((found[0], found[1].1, found[2]), ((6, OK), IO_ERROR, (7, OK)));
    let log = vmm.stop();
    assert!(log.contains("chunk 2 was answered wrong"), "{log}");
    assert_eq!(asked.join().unwrap(), [0, 2]);
}

#[test]
fn only_images_that_are_read_only_are_drives_and_nothing_else_is_chunks() {
    let vmm = Vmm::spawn();
    let kernel = Guest::new().spin().kernel();
    let refused = |content: &Content, config: MachineConfig| {
        let (_reader, console) = std::io::pipe().unwrap();
        let given = content.handed();
        let fds: Vec<BorrowedFd<'_>> =
            [kernel.as_fd(), console.as_fd()].into_iter().chain(given.iter().map(AsFd::as_fd)).collect();
        vmm.refusal(config, &fds).field.unwrap()
    };
    let of = |access| MachineConfig { drives: vec![drive(access)], ..machine() };
    let good = Content::image(&image());
    assert_eq!(refused(&good, of(DriveAccess::ReadWrite)), "drives[0].source");
    assert_eq!(refused(&good, MachineConfig { kernel: Source::Chunks(grant(2)), ..machine() }), "kernel");
    let initrd = MachineConfig { initrd: Some(Source::Chunks(grant(2))), ..machine() };
    assert_eq!(refused(&good, initrd), "initrd");
    let odd = Content::image(&[1; 700]);
    assert_eq!(refused(&odd, of(DriveAccess::ReadOnly)), "drives[0].source");
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let memory = Content::seal(&file, chunk_store::Kind::Memory, chunk_store::ChunkSize::IMAGE);
    assert_eq!(refused(&memory, of(DriveAccess::ReadOnly)), "drives[0].source.chunks");
}
