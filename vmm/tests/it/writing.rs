//! A guest that writes its disk: what it has flushed is in the file.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use vmm_api::{DriveAccess, DriveConfig, MachineConfig, Source};

use crate::driver::{Driver, NEXT, WRITE};
use crate::guest::Guest;
use crate::process::{console_of, machine};
use crate::reading::{DATA, HEADER, SECTOR, STATUS};

/// virtio 1.3 §5.2.6.
const OUT: u32 = 1;
const FLUSH: u32 = 4;

#[test]
fn what_a_guest_writes_and_flushes_is_in_the_file() {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(2 * SECTOR as u64).unwrap();
    let drive = DriveConfig { id: "disk".into(), source: Source::Fd(2), access: DriveAccess::ReadWrite };
    let driver = Driver { page: 0, queues: 1, queue: 0 };
    let guest = driver.set_up(Guest::new().store(DATA, 0x0403_0201));
    let guest = guest.store(HEADER, OUT).store(HEADER + 8, 1).store(STATUS, 0xff);
    let sector = [(HEADER, 16, NEXT | 1 << 16), (DATA, SECTOR as u32, NEXT | 2 << 16), (STATUS, 1, WRITE)];
    let guest = driver.submit(driver.describe(guest, &sector)).load(STATUS).print_eax();
    let guest = guest.store(HEADER, FLUSH).store(STATUS, 0xff);
    let flush = [(HEADER, 16, NEXT | 1 << 16), (STATUS, 1, WRITE)];
    let guest = driver.submit(driver.describe(guest, &flush)).load(STATUS).print_eax().reset();
    let config = MachineConfig { drives: vec![drive], ..machine() };
    assert_eq!(console_of(config, &guest, &[disk.as_fd()]), [0; 8], "both are done");
    let mut bytes = [0; 4];
    disk.read_exact_at(&mut bytes, SECTOR as u64).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
}
