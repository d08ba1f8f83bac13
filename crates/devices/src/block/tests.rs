//! The block device as a driver sees it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::*;
use crate::Event;
use crate::virtio::test_driver::{
    BUFFERS, Desc, Driver, INDIRECT, MEMORY_LEN, NEXT, SEAM, WRITE, readable, writable,
};

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
const SECTORS: u64 = 64;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A disk whose every byte is its sector's number.
fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    file
}

fn started(access: Access) -> (Driver<Block>, File) {
    let file = image();
    let block = Block::new(DriveId::try_from("disk_1").unwrap(), Box::new(file.try_clone().unwrap()), access)
        .unwrap();
    (Driver::started(block), file)
}

fn put_header(driver: &Driver<Block>, kind: u32, sector: u64) {
    driver.put(HEADER, &[kind.to_le_bytes(), [0; 4]].concat());
    driver.put(HEADER + 8, &sector.to_le_bytes());
    driver.put(STATUS, &[0xaa]);
}

/// Sends one request; returns its status and the length in the used ring.
fn request(driver: &mut Driver<Block>, kind: u32, sector: u64, data: &[Desc]) -> (u8, u32) {
    put_header(driver, kind, sector);
    let chain = [&[readable(HEADER, 16)], data, &[writable(STATUS, 1)]].concat();
    let head = driver.add(0, &chain);
    driver.kick(0);
    let used = driver.used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, u32::from(head));
    assert!(driver.interrupted());
    (driver.get::<1>(STATUS)[0], used[0].1)
}

fn file_bytes(file: &mut File, sector: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(sector * 512)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn drive_ids_are_what_the_contract_says() {
    for good in ["a", "runtime", "A-z_09", "12345678901234567890"] {
        assert!(DriveId::try_from(good).is_ok(), "{good}");
    }
    for bad in ["", "123456789012345678901", "a b", "a/b", "ä", "a\0"] {
        assert!(DriveId::try_from(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_image_that_is_not_whole_sectors_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(513).unwrap();
    let result = Block::new(DriveId::try_from("a").unwrap(), Box::new(file), Access::ReadOnly);
    assert!(matches!(result, Err(BlockError::Length(513))));
}

#[test]
fn configuration_and_features_say_what_the_disk_is() {
    let (mut driver, _) = started(Access::ReadOnly);
    assert_eq!(u64::from_le_bytes(driver.config(0)), SECTORS);
    assert_eq!(u32::from_le_bytes(driver.config(12)), 254);
    assert_eq!(u32::from_le_bytes(driver.config(20)), 512);
    assert_eq!(driver.config::<8>(24), [0; 8]);
    assert_eq!(driver.config::<4>(u64::MAX - 0x200), [0; 4]);
    assert_eq!(driver.offered() & 0xffff, 1 << 5 | 1 << 2 | 1 << 6);
    let (mut driver, _) = started(Access::ReadWrite);
    assert_eq!(driver.offered() & 0xffff, 1 << 9 | 1 << 2 | 1 << 6);
}

#[test]
fn reads_into_many_pieces_across_regions() {
    let (mut driver, _) = started(Access::ReadOnly);
    let pieces = [writable(DATA, 100), writable(SEAM - 300, 700), writable(DATA + 0x800, 224)];
    assert_eq!(request(&mut driver, IN, 3, &pieces), (OK, 1025));
    assert_eq!(driver.get_vec(DATA, 100), vec![3; 100]);
    assert_eq!(driver.get_vec(SEAM - 300, 412), vec![3; 412]);
    assert_eq!(driver.get_vec(SEAM + 112, 288), vec![4; 288]);
    assert_eq!(driver.get_vec(DATA + 0x800, 224), vec![4; 224]);
}

#[test]
fn more_pieces_than_one_system_call_takes() {
    let (mut driver, _) = started(Access::ReadOnly);
    let pieces: Vec<_> = (0..252).map(|index| writable(DATA + index * 128, 128)).collect();
    assert_eq!(request(&mut driver, IN, 1, &pieces), (OK, 252 * 128 + 1));
    assert_eq!(driver.get_vec(DATA, 512), vec![1; 512]);
    assert_eq!(driver.get_vec(DATA + 62 * 512, 512), vec![63; 512]);
}

#[test]
fn writes_reach_the_file_and_flush_succeeds() {
    let (mut driver, mut file) = started(Access::ReadWrite);
    driver.put(DATA, &[0x55; 1024]);
    assert_eq!(request(&mut driver, OUT, 10, &[readable(DATA, 1000), readable(DATA + 1000, 24)]), (OK, 1));
    assert_eq!(file_bytes(&mut file, 10, 1024), vec![0x55; 1024]);
    assert_eq!(file_bytes(&mut file, 12, 512), vec![12; 512]);
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let (mut driver, mut file) = started(Access::ReadOnly);
    driver.put(DATA, &[0x55; 512]);
    assert_eq!(request(&mut driver, OUT, 10, &[readable(DATA, 512)]), (IO_ERROR, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (UNSUPPORTED, 1));
    assert_eq!(file_bytes(&mut file, 10, 512), vec![10; 512]);
}

#[test]
fn the_serial_is_the_drive_id() {
    let (mut driver, _) = started(Access::ReadOnly);
    assert_eq!(request(&mut driver, GET_ID, 0, &[writable(DATA, 20)]), (OK, 21));
    assert_eq!(&driver.get::<20>(DATA), b"disk_1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut driver, GET_ID, 0, &[writable(DATA, 19)]), (IO_ERROR, 1));
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    let (mut driver, _) = started(Access::ReadWrite);
    for (kind, sector, len) in [
        (IN, SECTORS, 512),
        (IN, SECTORS - 1, 1024),
        (IN, u64::MAX, 512),
        (IN, u64::MAX / 512, 512),
        (IN, u64::MAX / 2, 512),
        (IN, 0, 511),
        (OUT, SECTORS, 512),
    ] {
        let data = if kind == IN { writable(DATA, len) } else { readable(DATA, len) };
        assert_eq!(request(&mut driver, kind, sector, &[data]), (IO_ERROR, 1), "{kind} {sector} {len}");
    }
    assert_eq!(request(&mut driver, 99, 0, &[]), (UNSUPPORTED, 1));
    assert_eq!(request(&mut driver, IN, 0, &[readable(DATA, 8), writable(DATA, 512)]), (IO_ERROR, 1));
}

#[test]
fn a_file_that_shrank_is_an_io_error() {
    let (mut driver, file) = started(Access::ReadOnly);
    file.set_len(512).unwrap();
    assert_eq!(request(&mut driver, IN, 0, &[writable(DATA, 1024)]), (IO_ERROR, 1));
}

/// Sectors that are their number, made up when they are read; one is lost.
#[derive(Debug)]
struct MadeUp;

const LOST: u64 = 9;

impl Storage for MadeUp {
    fn length(&mut self) -> io::Result<u64> {
        Ok(SECTORS * SECTOR)
    }

    fn read(&mut self, offset: u64, mut into: Segments<'_>) -> io::Result<()> {
        let mut sector = offset / SECTOR;
        while !into.is_empty() {
            let rest = into.split_off(SECTOR as usize).expect("whole sectors");
            if sector == LOST {
                return Err(io::ErrorKind::NotFound.into());
            }
            into.fill_from(&[sector as u8; SECTOR as usize]);
            (into, sector) = (rest, sector + 1);
        }
        Ok(())
    }

    fn write(&mut self, _offset: u64, _from: Segments<'_>) -> io::Result<()> {
        panic!("nobody writes to a disk that is read only");
    }

    fn flush(&mut self) -> io::Result<()> {
        panic!("nobody flushes a disk that is read only");
    }
}

#[test]
fn what_is_no_file_is_read_like_one_and_fails_by_the_request() {
    let id = DriveId::try_from("disk_1").unwrap();
    let block = Block::new(id, Box::new(MadeUp), Access::ReadOnly).unwrap();
    let mut driver = Driver::started(block);
    let pieces = [writable(DATA, 100), writable(SEAM - 300, 700), writable(DATA + 0x800, 224)];
    assert_eq!(request(&mut driver, IN, 3, &pieces), (OK, 1025));
    assert_eq!((driver.get_vec(DATA, 100), driver.get_vec(SEAM - 300, 412)), (vec![3; 100], vec![3; 412]));
    assert_eq!(driver.get_vec(DATA + 0x800, 224), vec![4; 224]);
    assert_eq!(request(&mut driver, IN, LOST - 1, &[writable(DATA, 1024)]), (IO_ERROR, 1));
    assert_eq!(request(&mut driver, OUT, 0, &[readable(DATA, 512)]), (IO_ERROR, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (UNSUPPORTED, 1));
    assert_eq!(request(&mut driver, IN, LOST + 1, &[writable(DATA, 512)]), (OK, 513));
}

#[test]
fn a_request_without_room_for_a_status_is_given_back() {
    let (mut driver, _) = started(Access::ReadOnly);
    put_header(&driver, IN, 0);
    driver.add(0, &[readable(HEADER, 16)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 0)]);
    assert!(!driver.needs_reset());
}

#[test]
fn a_short_header_is_an_io_error() {
    let (mut driver, _) = started(Access::ReadOnly);
    put_header(&driver, IN, 0);
    driver.add(0, &[readable(HEADER, 15), writable(STATUS, 1)]);
    driver.kick(0);
    assert_eq!(driver.get(STATUS), [IO_ERROR]);
}

#[test]
fn indirect_tables_work_up_to_the_queue_size() {
    let (mut driver, _) = started(Access::ReadOnly);
    let table = BUFFERS + 0x10_0000;
    put_header(&driver, IN, 5);
    driver.put_desc(table, 0, Desc { flags: NEXT, next: 1, ..readable(HEADER, 16) });
    driver.put_desc(table, 1, Desc { flags: NEXT | WRITE, next: 2, ..writable(DATA, 512) });
    driver.put_desc(table, 2, writable(STATUS, 1));
    driver.add(0, &[Desc { flags: INDIRECT, ..readable(table, 48) }]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 513)]);
    assert_eq!(driver.get_vec(DATA, 512), vec![5; 512]);
}

/// Makes one bad chain; the device must ask for a reset, do nothing more, and work again after it.
fn check_bad_chain(make: impl FnOnce(&mut Driver<Block>)) {
    let (mut driver, _) = started(Access::ReadOnly);
    put_header(&driver, IN, 0);
    make(&mut driver);
    driver.kick(0);
    assert!(driver.needs_reset());
    assert!(driver.interrupted());
    assert_eq!(driver.used(0), []);
    driver.start();
    assert_eq!(request(&mut driver, IN, 2, &[writable(DATA, 512)]), (OK, 513));
}

#[test]
fn a_loop_of_descriptors() {
    check_bad_chain(|driver| {
        driver.put_desc(Driver::<Block>::table(0), 0, Desc { flags: NEXT, next: 1, ..readable(HEADER, 16) });
        driver.put_desc(Driver::<Block>::table(0), 1, Desc { flags: NEXT, next: 0, ..readable(HEADER, 16) });
        driver.make_available(0, 0);
    });
}

#[test]
fn a_head_or_next_beyond_the_table() {
    check_bad_chain(|driver| driver.make_available(0, 256));
    check_bad_chain(|driver| {
        let desc = Desc { flags: NEXT, next: 256, ..readable(HEADER, 16) };
        driver.put_desc(Driver::<Block>::table(0), 0, desc);
        driver.make_available(0, 0);
    });
}

#[test]
fn buffers_outside_of_memory() {
    for (addr, len) in
        [(MEMORY_LEN - 1, 2), (MEMORY_LEN, 1), (u64::MAX, 1), (u64::MAX - 4, 16), (BUFFERS, u32::MAX)]
    {
        check_bad_chain(|driver| {
            driver.add(0, &[readable(HEADER, 16), writable(addr, len), writable(STATUS, 1)]);
        });
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one() {
    check_bad_chain(|driver| {
        driver.add(0, &[readable(HEADER, 16), writable(STATUS, 1), readable(DATA, 512)]);
    });
}

#[test]
fn an_available_index_far_ahead() {
    check_bad_chain(|driver| driver.set_avail_index(0, 257));
}

#[test]
fn indirect_tables_that_cannot_be() {
    let table = BUFFERS + 0x10_0000;
    // Odd length, empty, outside, nested, and one that is longer than the queue.
    for desc in [readable(table, 17), readable(table, 0), readable(MEMORY_LEN, 16)] {
        check_bad_chain(|driver| {
            driver.add(0, &[Desc { flags: INDIRECT, ..desc }]);
        });
    }
    check_bad_chain(|driver| {
        driver.put_desc(table, 0, Desc { flags: INDIRECT, ..readable(table, 16) });
        driver.add(0, &[Desc { flags: INDIRECT, ..readable(table, 16) }]);
    });
    check_bad_chain(|driver| {
        for index in 0..60_000 {
            driver.put_desc(table, index, Desc { flags: NEXT, next: index + 1, ..readable(HEADER, 16) });
        }
        driver.add(0, &[Desc { flags: INDIRECT, ..readable(table, 60_001 * 16) }]);
    });
}

#[test]
fn a_full_queue_is_served_with_the_other_devices_in_turn() {
    let (mut driver, _) = started(Access::ReadOnly);
    put_header(&driver, IN, 7);
    for _ in 0..85 {
        driver.add(0, &[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
    }
    driver.write(crate::virtio::registers::Register::QueueNotify, 0);
    driver.device().handle(Event::Kick(0)).unwrap();
    assert_eq!(driver.used(0).len(), WAKE_REQUESTS, "a wake-up does a bounded amount");
    driver.run();
    assert_eq!(driver.used(0).len(), 85 - WAKE_REQUESTS);
}

#[test]
fn a_wake_up_waits_for_the_hosts_disk_a_few_times_and_no_more() {
    let (mut driver, _) = started(Access::ReadWrite);
    put_header(&driver, FLUSH, 0);
    for _ in 0..20 {
        driver.add(0, &[readable(HEADER, 16), writable(STATUS, 1)]);
    }
    driver.write(crate::virtio::registers::Register::QueueNotify, 0);
    driver.device().handle(Event::Kick(0)).unwrap();
    assert_eq!(driver.used(0).len() as u64, WAKE_BYTES / FLUSH_BYTES);
    driver.run();
    assert_eq!(driver.used(0).len() as u64, 20 - WAKE_BYTES / FLUSH_BYTES);
}

#[test]
fn events_of_a_device_in_reset_do_nothing() {
    let (mut driver, _) = started(Access::ReadOnly);
    put_header(&driver, IN, 0);
    driver.add(0, &[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
    driver.write(crate::virtio::registers::Register::QueueNotify, 0);
    driver.write(crate::virtio::registers::Register::Status, 0);
    driver.run();
    assert_eq!(driver.get(STATUS), [0xaa], "a request in flight is not done after a reset");
    assert_eq!(driver.used(0), []);
    assert!(driver.device().handle(Event::Kick(9)).is_ok());
    assert!(driver.device().handle(Event::Backend).is_ok());
}

#[test]
fn only_a_disk_of_that_name_and_access_restores_of_whatever_length() {
    let (driver, file) = started(Access::ReadOnly);
    let state = driver.device().save();
    let again = |id, access, len| {
        let file = file.try_clone().unwrap();
        file.set_len(len).unwrap();
        let id = DriveId::try_from(id).unwrap();
        Block::restore((id, Box::new(file), access), &state).ok().map(|block| block.sectors())
    };
    assert_eq!(again("disk_1", Access::ReadOnly, SECTORS * 512), Some(SECTORS));
    assert_eq!(again("disk_1", Access::ReadOnly, 512), Some(1));
    assert_eq!(again("disk_1", Access::ReadWrite, SECTORS * 512), None);
    assert_eq!(again("disk_2", Access::ReadOnly, SECTORS * 512), None);
    assert_eq!(again("disk_1", Access::ReadOnly, 500), None);
}
