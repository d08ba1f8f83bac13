//! Drivers that attack. Whatever one does, to whichever queue of whichever device: nothing is written but what it has given
//! to be written and the used rings, a wake-up does a bounded amount, and after a reset the device works.

mod attacks;
mod subject;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::attacks::{ATTACKS, Attack, Fate, Offers};
use self::subject::{Any, SUBJECTS, Subject};
use super::registers::Register;
use super::test_driver::{AVAILABLE, BUFFERS, Driver, MEMORY_LEN, NEXT, USED, pending, writable};
use crate::{BusDevice, VirtioDevice};

/// Wake-ups after which a device that still has something to do has been given it by its own writes into its rings. One
/// at rest needs a few.
const WAKE_UPS_MAX: usize = 32;

/// What a driver has in a used ring, as its index says.
fn used_index(driver: &Driver<Any>, queue: usize) -> u16 {
    u16::from_le_bytes(driver.get(Driver::<Any>::table(queue) + USED + 2))
}

/// Memory that no attack gives to be written, as (address, length): below the queues, their tables and available rings,
/// and what is neither a queue nor a buffer.
fn kept(queues: usize, offers: Offers) -> Vec<(u64, u64)> {
    let rings = (0..queues).map(Driver::<Any>::table).map(|table| (table, USED));
    let behind = Driver::<Any>::table(queues);
    let rest = [(0, Driver::<Any>::table(0)), (behind, BUFFERS - behind), (2 * BUFFERS + 0x2000, 0)];
    let rest = rest.map(|(at, len)| (at, if len == 0 { MEMORY_LEN - at } else { len }));
    let rings = rings.filter(|_| offers == Offers::Buffers);
    rings.chain(rest).collect()
}

/// What the I/O thread does when it looks once.
fn handle_pending(driver: &Driver<Any>) {
    let events = pending(&*driver.device());
    for event in events {
        let _ = driver.device().handle(event);
    }
}

/// Lets the device work; no wake-up may do more than it should.
fn run_bounded(subject: &Subject, driver: &mut Driver<Any>, what: &str) {
    let queues = subject.queues();
    for _ in 0..WAKE_UPS_MAX {
        let events = pending(&*driver.device());
        if events.is_empty() {
            return;
        }
        for event in events {
            let before: Vec<_> = (0..queues).map(|queue| used_index(driver, queue)).collect();
            let _ = driver.device().handle(event);
            for (queue, before) in before.into_iter().enumerate() {
                let done = used_index(driver, queue).wrapping_sub(before);
                let (name, most) = (subject.name, subject.wake_max);
                assert!(done <= most, "{name}, {what}: {done} chains of queue {queue} in one wake-up");
            }
        }
    }
}

fn check(subject: &Subject, queue: usize, attack: &Attack) {
    let what = format!("{}, queue {queue}, {}", subject.name, attack.name);
    let mut driver = subject.started();
    (attack.make)(&mut driver, queue);
    let kept = kept(subject.queues(), attack.offers);
    subject.provoke(&mut driver, queue);
    let before: Vec<_> = kept.iter().map(|&(at, len)| driver.get_vec(at, len as usize)).collect();
    if attack.offers == Offers::Buffers {
        run_bounded(subject, &mut driver, attack.name);
    } else {
        // The used index is the attack's to write, so that it counts nothing.
        (0..WAKE_UPS_MAX).for_each(|_| handle_pending(&driver));
    }
    for (&(at, len), before) in kept.iter().zip(&before) {
        assert!(driver.get_vec(at, len as usize) == *before, "{what}: wrote between {at:#x} and {len:#x}");
    }
    match attack.fate {
        Fate::Refused => assert!(driver.needs_reset(), "{what}: not refused"),
        Fate::Served => assert!(!driver.needs_reset(), "{what}: refused"),
        Fate::Any => {}
    }
    subject.works(&mut driver, attack.name);
}

#[test]
fn every_attack_on_every_queue_of_every_device() {
    for subject in &SUBJECTS {
        for queue in 0..subject.queues() {
            for attack in &ATTACKS {
                check(subject, queue, attack);
            }
        }
    }
}

/// As many chains as the queue takes, of one buffer each.
fn fill(driver: &mut Driver<Any>, queue: usize) {
    for _ in 0..driver.queue_size(queue) {
        driver.add(queue, &[writable(BUFFERS, 64)]);
    }
}

#[test]
fn a_queue_that_is_reset_in_the_middle_of_its_work_is_left_alone() {
    for subject in &SUBJECTS {
        for queue in 0..subject.queues() {
            let mut driver = subject.started();
            fill(&mut driver, queue);
            subject.provoke(&mut driver, queue);
            handle_pending(&driver);
            driver.write(Register::Status, 0);
            let before = driver.get_vec(0, MEMORY_LEN as usize);
            driver.run();
            assert!(driver.get_vec(0, MEMORY_LEN as usize) == before, "{}, queue {queue}", subject.name);
            subject.works(&mut driver, "a reset in the middle");
        }
    }
}

/// Ends the other thread of a test, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An I/O thread beside the driver, until the test has done what it does.
fn beside_the_io_thread(driver: &mut Driver<Any>, act: impl FnOnce(&mut Driver<Any>)) {
    let (device, done) = (Arc::clone(&driver.device), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut device = device.lock().unwrap();
                for event in pending(&*device) {
                    let _ = device.handle(event);
                }
            }
        });
        let _done = Done(&done);
        act(driver);
    });
}

#[test]
fn resets_while_the_io_thread_works() {
    for subject in &SUBJECTS {
        let mut driver = subject.started();
        beside_the_io_thread(&mut driver, |driver| {
            for round in 0..60 {
                driver.start();
                let queue = round % subject.queues();
                fill(driver, queue);
                subject.provoke(driver, queue);
                driver.write(Register::Status, 0);
                assert_eq!(driver.status(), 0, "the device has let go when the status says so");
            }
        });
        driver.run();
        subject.works(&mut driver, "resets beside the I/O thread");
    }
}

#[test]
fn rings_that_change_while_they_are_read() {
    for subject in &SUBJECTS {
        let mut driver = subject.started();
        beside_the_io_thread(&mut driver, |driver| {
            for round in 0..3000u32 {
                if driver.needs_reset() {
                    driver.start();
                }
                let queue = round as usize % subject.queues();
                let (table, size) = (Driver::<Any>::table(queue), driver.queue_size(queue));
                let entry = (round.wrapping_mul(2_654_435_761) >> 16) as u16 % size;
                let desc = match round % 4 {
                    0 => writable(BUFFERS, round),
                    1 => writable(table, 64),
                    2 => writable(MEMORY_LEN - 8, 16),
                    _ => writable(0, u32::MAX),
                };
                let flags = desc.flags & (round >> 3) as u16 | NEXT & (round >> 5) as u16;
                let next = entry.wrapping_add(1) % size;
                driver.put_desc(
                    table,
                    entry,
                    super::test_driver::Desc { flags, next: next ^ (round & 1) as u16, ..desc },
                );
                driver.put(table + AVAILABLE + 4 + 2 * u64::from(entry), &next.to_le_bytes());
                driver.set_avail_index(queue, used_index(driver, queue).wrapping_add(round as u16 % 5));
                subject.provoke(driver, queue);
            }
        });
        subject.works(&mut driver, "rings that changed under its hands");
    }
}

#[test]
fn an_available_index_that_runs_ahead_does_not_keep_the_io_thread() {
    for subject in &SUBJECTS {
        let mut driver = subject.started();
        fill(&mut driver, 0);
        subject.provoke(&mut driver, 0);
        // A driver on another processor that makes each chain available again as soon as it has been given back.
        let (memory, done) = (driver.memory.clone(), AtomicBool::new(false));
        let at = |ring| vm_memory::GuestAddress(Driver::<Any>::table(0) + ring + 2);
        let size = driver.queue_size(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use vm_memory::Bytes;
                while !done.load(Ordering::Relaxed) {
                    let used: u16 = memory.read_obj(at(USED)).unwrap();
                    memory.write_obj(used.wrapping_add(size), at(AVAILABLE)).unwrap();
                }
            });
            let _done = Done(&done);
            for _ in 0..100 {
                subject.provoke(&mut driver, 0);
                let before = used_index(&driver, 0);
                handle_pending(&driver);
                let done = used_index(&driver, 0).wrapping_sub(before);
                // One wake-up for each event: the queues' own, and the backend's.
                let most = subject.wake_max * (subject.queues() as u16 + 1);
                assert!(done <= most, "{}: {done} chains in one round", subject.name);
            }
        });
        subject.works(&mut driver, "an index that ran ahead");
    }
}

#[test]
fn a_storm_of_register_accesses_of_every_width() {
    for subject in &SUBJECTS {
        let mut driver = subject.started();
        let identity = |driver: &mut Driver<Any>| {
            [Register::MagicValue, Register::Version, Register::DeviceId, Register::VendorId]
                .map(|register| driver.read(register))
        };
        let before = (identity(&mut driver), driver.offered(), driver.config::<64>(0));
        for status in [0, 1, 3, 11, 15] {
            for offset in (0..0x200).chain([0xff8, 0xfff, 0x1000, u64::MAX - 3, u64::MAX]) {
                for len in [1, 2, 4, 8] {
                    for value in [0, 1, 0xff, u64::MAX, 0x8000_0000_8000_0000] {
                        driver.transport.write(offset, &value.to_le_bytes()[..len]);
                        driver.transport.read(offset, &mut [0; 8][..len]);
                    }
                }
            }
            driver.write(Register::Status, status);
            driver.run();
        }
        let after = (identity(&mut driver), driver.offered(), driver.config::<64>(0));
        assert_eq!(after, before, "{}: a register that is read only was written", subject.name);
        subject.works(&mut driver, "a storm of accesses");
    }
}

/// Both rings and the table of each queue at one place: what the device writes is what it reads next.
#[test]
fn rings_that_lie_over_each_other() {
    for subject in &SUBJECTS {
        for (available, used) in [(0, 0), (0, USED), (AVAILABLE, AVAILABLE), (AVAILABLE, AVAILABLE + 4)] {
            let mut driver = subject.started();
            let features = driver.offered();
            driver.negotiate(features);
            for queue in 0..subject.queues() {
                driver.set_up_queue(queue);
                let table = Driver::<Any>::table(queue) as u32;
                driver.write(Register::QueueReady, 0);
                driver.write(Register::QueueDriverLow, table + available as u32);
                driver.write(Register::QueueDeviceLow, table + used as u32);
                driver.write(Register::QueueReady, 1);
                driver.put(table.into(), &[1; 256]);
                driver.put(u64::from(table) + available + 2, &1u16.to_le_bytes());
            }
            driver.add_status(4);
            for round in 0..WAKE_UPS_MAX {
                subject.provoke(&mut driver, round % subject.queues());
                handle_pending(&driver);
            }
            subject.works(&mut driver, "rings that lie over each other");
        }
    }
}
