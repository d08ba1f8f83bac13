//! Drives of clones that are read by chunks, whatever they were when the snapshot was taken.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use snapshot::PAGE_LEN;
use vmm_api::{DriveAccess, DriveConfig, LoadConfig, MachineConfig, Request, Response, Source};

use super::{CONSOLE, COUNTER, RECORD_LEN, Snapshot, assert_counts, load_config, prepared, read_more};
use crate::guest::Guest;
use crate::process::{Vmm, machine};
use crate::reading::{self, SECTOR};
use crate::store::{Content, grant};

#[test]
fn a_drive_that_was_a_file_is_chunks_in_a_clone() {
    let guest = reading::set_up(Guest::new());
    let guest = guest.count_for_ever_with(COUNTER, &reading::request(Guest::new()));
    let disk = tempfile::tempfile().unwrap();
    disk.write_all_at(&[0x11; SECTOR], 0).unwrap();
    let drive = |source| DriveConfig { id: "disk".into(), source, access: DriveAccess::ReadOnly };
    let config = MachineConfig { drives: vec![drive(Source::Fd(2))], ..machine() };
    let (vmm, mut console) = Vmm::run(config, &guest, &[disk.as_fd()]);
    let mut printed = vec![0; 10 * RECORD_LEN];
    console.read_exact(&mut printed).unwrap();
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let snapshot = Snapshot::take(&vmm);
    assert_eq!(vmm.call(&Request::Stop), Response::Ok);
    console.read_to_end(&mut printed).unwrap();

    let vmm = prepared();
    let (mut console, writer) = std::io::pipe().unwrap();
    let writer: OwnedFd = writer.into();
    let source = Source::Chunks(grant(CONSOLE + 1));
    let config = LoadConfig { drives: vec![drive(source)], ..load_config() };
    let [table, slots, asks] = &Content::image(&[0x22; 9 * SECTOR]).handed();
    let more = [writer.as_fd(), table.as_fd(), slots.as_fd(), asks.as_fd()];
    assert!(matches!(snapshot.load(&vmm, config, &more), Response::Loaded(_)));
    read_more(&mut printed, &mut console);
    assert_counts(&printed);
    let Response::WorkingSet(set) = vmm.call(&Request::WorkingSet) else { panic!("no working set") };
    assert_eq!(set.drives, [("disk".to_owned(), vec![0])].into());
    assert!(set.pages.contains(&(COUNTER / PAGE_LEN as u32)), "{:?}", set.pages);
    assert_eq!(vmm.call(&Request::Pause), Response::Ok);
    let page = &Snapshot::take(&vmm).pages()[&(reading::DATA / PAGE_LEN as u32)];
    assert_eq!(page[..SECTOR], [0x22; SECTOR]);
}
