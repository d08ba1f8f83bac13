//! The register file as a driver sees it, and transports saved and restored.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use snapshot::Persist;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::virtio::registers::Register as R;
use crate::virtio::state::{RestoreError, TransportState};
use crate::virtio::test_driver::{BUFFERS, Driver, MEMORY_LEN, new_memory, writable};
use crate::{Event, Rng};

fn driver() -> Driver<Rng> {
    Driver::new(Rng::new().unwrap())
}

#[test]
fn identity() {
    let mut driver = driver();
    assert_eq!(driver.read(R::MagicValue), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.read(R::Version), 2);
    assert_eq!(driver.read(R::DeviceId), 4);
    assert_eq!(driver.offered(), 1 << 32 | 1 << 29 | 1 << 28);
    driver.write(R::DeviceFeaturesSel, 2);
    assert_eq!(driver.read(R::DeviceFeatures), 0);
    assert_eq!(driver.read(R::ShmLenLow), u32::MAX);
    assert_eq!(driver.read(R::QueueReset), 0);
}

#[test]
fn a_driver_gets_random_bytes_and_an_interrupt() {
    let mut driver = Driver::started(Rng::new().unwrap());
    driver.add(0, &[writable(BUFFERS, 3000), writable(BUFFERS + 0x1000, 10)]);
    driver.add(0, &[writable(BUFFERS + 0x2000, 32)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 1024), (2, 32)], "no more than the bound at once");
    assert_ne!(driver.get::<32>(BUFFERS + 0x2000), [0; 32]);
    assert_eq!(driver.get::<8>(BUFFERS + 1024), [0; 8], "nothing past the used length");
    assert!(driver.interrupted());
    assert_eq!(driver.read(R::InterruptStatus), 1);
    driver.write(R::InterruptAck, 1);
    assert_eq!(driver.read(R::InterruptStatus), 0);
}

#[test]
fn the_status_goes_step_by_step_or_not_at_all() {
    let mut driver = driver();
    for jump in [2, 3, 4, 8, 11, 15, 0x80000000] {
        driver.write(R::Status, jump);
        assert_eq!(driver.status(), 0, "{jump}");
    }
    driver.write(R::Status, 1);
    driver.write(R::Status, 2);
    assert_eq!(driver.status(), 1, "a bit is cleared by a reset only");
    driver.write(R::Status, 3);
    driver.write(R::Status, 3 | 0x80);
    assert_eq!(driver.status(), 0x83);
    driver.write(R::Status, 0x8b);
    assert_eq!(driver.status(), 0x83, "a driver that failed goes nowhere");
    driver.write(R::Status, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn features_that_do_not_do_are_not_ok() {
    let mut driver = driver();
    for features in [0, 1 << 29, 1 << 32 | 1 << 5, 1 << 32 | 1 << 63] {
        driver.negotiate(features);
        assert_eq!(driver.status(), 3, "{features:#x}");
    }
    driver.negotiate(1 << 32);
    assert_eq!(driver.status(), 11);
    driver.write(R::DriverFeatures, 0);
    driver.set_up_queue(0);
    driver.add_status(4);
    assert_eq!(driver.status(), 15, "features are fixed once they are OK");
}

#[test]
fn a_driver_without_a_usable_queue_is_told_to_reset() {
    type Break = fn(&mut Driver<Rng>);
    let cases: [(&str, Break); 8] = [
        ("not set up", |_| {}),
        ("not ready", |driver| {
            driver.set_up_queue(0);
            driver.write(R::QueueReady, 0);
        }),
        ("table outside of memory", |driver| broken(driver, R::QueueDescLow, MEMORY_LEN as u32 - 16)),
        ("table far outside", |driver| broken(driver, R::QueueDescHigh, u32::MAX)),
        ("ring outside of memory", |driver| broken(driver, R::QueueDeviceLow, MEMORY_LEN as u32 - 4)),
        ("ring not aligned", |driver| broken(driver, R::QueueDeviceLow, 2)),
        ("size no power of two", |driver| broken(driver, R::QueueSize, 3)),
        ("size too large", |driver| broken(driver, R::QueueSize, 32)),
    ];
    for (what, breaks) in cases {
        let mut driver = driver();
        driver.negotiate(1 << 32);
        breaks(&mut driver);
        driver.add_status(4);
        assert!(driver.needs_reset(), "{what}");
        assert!(driver.interrupted(), "{what}");
        assert_eq!(driver.read(R::InterruptStatus), 2, "{what}");
        driver.start();
    }
}

fn broken(driver: &mut Driver<Rng>, register: R, value: u32) {
    driver.set_up_queue(0);
    driver.write(R::QueueReady, 0);
    driver.write(register, value);
    driver.write(R::QueueReady, 1);
}

#[test]
fn a_running_queue_is_not_changed() {
    let mut driver = Driver::started(Rng::new().unwrap());
    driver.write(R::QueueDescLow, 0xdead_0000);
    driver.write(R::QueueReady, 0);
    assert_eq!(driver.read(R::QueueReady), 1);
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 8)]);
}

#[test]
fn queues_that_are_not_there() {
    let mut driver = driver();
    driver.negotiate(1 << 32);
    for queue in [1, u32::MAX] {
        driver.write(R::QueueSel, queue);
        assert_eq!(driver.read(R::QueueSizeMax), 0);
        driver.write(R::QueueReady, 1);
        assert_eq!(driver.read(R::QueueReady), 0);
    }
    driver.start();
    for queue in [1, u32::MAX] {
        driver.write(R::QueueNotify, queue);
    }
    assert!(!driver.needs_reset());
}

#[test]
fn buffers_from_before_driver_ok_are_served() {
    let mut driver = driver();
    driver.negotiate(1 << 32);
    driver.set_up_queue(0);
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.write(R::QueueNotify, 0);
    driver.run();
    assert_eq!(driver.used(0), [], "not before the driver is ready");
    driver.add_status(4);
    driver.run();
    assert_eq!(driver.used(0), [(0, 8)]);
}

#[test]
fn odd_accesses_read_zero_and_change_nothing() {
    let mut driver = Driver::started(Rng::new().unwrap());
    for (offset, len) in
        [(0u64, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0x70, 1), (0x71, 4), (0x18, 4), (0xfff, 8)]
    {
        let mut data = [0xaa; 8];
        driver.transport.read(offset, &mut data[..len]);
        assert_eq!(data[..len], [0; 8][..len], "{offset:#x} {len}");
        driver.transport.write(offset, &[0; 8][..len]);
    }
    driver.transport.read(0, &mut []);
    driver.transport.write(0x100, &[1; 8]);
    assert_eq!(driver.status(), 15);
}

#[test]
fn event_indices_suppress_interrupts() {
    let mut driver = driver();
    driver.negotiate(1 << 32 | 1 << 29);
    driver.set_up_queue(0);
    // used_event lies behind the available ring: interrupt when the second buffer has been used.
    driver.put(Driver::<Rng>::table(0) + 0x4000 + 4 + 2 * 16, &1u16.to_le_bytes());
    driver.add_status(4);
    driver.run();
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.kick(0);
    assert_eq!(driver.used(0).len(), 1);
    assert!(!driver.interrupted());
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.kick(0);
    assert!(driver.interrupted());
}

fn resources(device: Rng) -> TransportResources {
    TransportResources {
        device: Arc::new(Mutex::new(device)),
        memory: new_memory(),
        interrupt: Box::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
    }
}

fn saved() -> TransportState {
    let mut driver = Driver::started(Rng::new().unwrap());
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.kick(0);
    driver.transport.save()
}

#[test]
fn a_saved_transport_goes_on_where_it_was() {
    let mut driver = Driver::started(Rng::new().unwrap());
    driver.add(0, &[writable(BUFFERS, 8)]);
    driver.kick(0);
    let state = driver.transport.save();
    assert_eq!((state.queues[0].next_avail, state.queues[0].next_used), (1, 1));
    let device = Arc::new(Mutex::new(Rng::new().unwrap()));
    let resources = TransportResources {
        device: device.clone(),
        memory: driver.memory.clone(),
        interrupt: Box::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()),
    };
    let restored = MmioTransport::restore(resources, &state).unwrap();
    assert_eq!(restored.save(), state);
    driver.transport = restored;
    driver.device = device;
    driver.add(0, &[writable(BUFFERS, 16)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 8), (1, 16)]);
}

#[test]
fn an_interrupt_that_may_not_have_arrived_is_raised_again_when_there_is_something_to_raise_it_in() {
    for (interrupt_status, raised) in [(1, true), (0, false)] {
        let wire = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Box::new(wire.try_clone().unwrap());
        let resources = TransportResources { interrupt, ..resources(Rng::new().unwrap()) };
        let state = TransportState { interrupt_status, ..saved() };
        let restored = MmioTransport::restore(resources, &state).unwrap();
        assert!(wire.read().is_err(), "nothing is raised in controllers that are restored later");
        restored.repeat_interrupt().unwrap();
        assert_eq!(wire.read().is_ok(), raised);
    }
}

#[test]
fn hostile_states_are_refused() {
    type Spoil = fn(&mut TransportState);
    let cases: [(Spoil, RestoreError); 9] = [
        (|state| state.device_id = 2, RestoreError::DeviceId { state: 2, device: 4 }),
        (|state| state.status = 7, RestoreError::Status(7)),
        (|state| state.status |= 1 << 31, RestoreError::Status(1 << 31 | 15)),
        (|state| state.interrupt_status = 4, RestoreError::InterruptStatus(4)),
        (|state| state.driver_features = 0, RestoreError::Features(0)),
        (|state| state.queues.clear(), RestoreError::QueueCount { state: 0, device: 1 }),
        (|state| state.queues[0].desc_table = MEMORY_LEN, RestoreError::Queue { index: 0 }),
        (|state| state.queues[0].max_size = 32, RestoreError::Queue { index: 0 }),
        (|state| state.queues[0].ready = false, RestoreError::Queue { index: 0 }),
    ];
    for (spoil, expected) in cases {
        let mut state = saved();
        spoil(&mut state);
        let error = MmioTransport::restore(resources(Rng::new().unwrap()), &state).err();
        assert_eq!(error, Some(expected));
    }
    assert!(MmioTransport::restore(resources(Rng::new().unwrap()), &saved()).is_ok());
}

proptest! {
    /// Any sequence of accesses and events leaves a device that a reset makes work.
    #[test]
    fn any_accesses_then_a_reset(
        accesses in prop::collection::vec(
            (prop_oneof![0u64..0x110, any::<u64>()], 0usize..9, any::<[u8; 8]>(), any::<bool>()), 0..200,
        ),
        steps in prop::collection::vec(0usize..6, 0..20),
    ) {
        let mut driver = driver();
        let mut steps = steps.into_iter();
        for (offset, len, mut data, write) in accesses {
            match steps.next() {
                Some(0) => driver.negotiate(1 << 32),
                Some(1) => driver.set_up_queue_blindly(0),
                Some(2) => driver.add_status(4),
                _ => {}
            }
            if write {
                driver.transport.write(offset, &data[..len]);
            } else {
                driver.transport.read(offset, &mut data[..len]);
            }
            let _ = driver.device().handle(Event::Kick(0));
        }
        driver.start();
        driver.add(0, &[writable(BUFFERS, 8)]);
        driver.kick(0);
        prop_assert_eq!(driver.used(0), [(0, 8)]);
    }
}
