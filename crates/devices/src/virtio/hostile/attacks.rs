//! What a hostile driver puts into a queue, and what becomes of the device.

use super::subject::Any;
use crate::virtio::test_driver::{
    AVAILABLE, BUFFERS, Desc, Driver, INDIRECT, MEMORY_LEN, NEXT, SEAM, USED, WRITE, readable, writable,
};

/// How a device takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stops and asks for a reset.
    Refused,
    /// The chain is given back, whatever is in it.
    Served,
    /// One or the other, by what the device has written over it meanwhile.
    Any,
}

/// What an attack gives to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offers {
    /// From [`BUFFERS`] on, 1 MiB at most.
    Buffers,
    /// The rings themselves, too.
    Rings,
}

pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) fate: Fate,
    pub(super) offers: Offers,
    pub(super) make: fn(&mut Driver<Any>, usize),
}

const fn attack(name: &'static str, fate: Fate, make: fn(&mut Driver<Any>, usize)) -> Attack {
    Attack { name, fate, offers: Offers::Buffers, make }
}

const fn on_rings(name: &'static str, make: fn(&mut Driver<Any>, usize)) -> Attack {
    Attack { name, fate: Fate::Any, offers: Offers::Rings, make }
}

/// An indirect table of attacks.
const TABLE: u64 = BUFFERS + 0x8_0000;

pub(super) const ATTACKS: [Attack; 29] = [
    attack("a descriptor that is its own next", Fate::Refused, |driver, queue| {
        chained(driver, queue, &[(readable(BUFFERS, 16), 0)]);
    }),
    attack("a loop of two", Fate::Refused, |driver, queue| {
        chained(driver, queue, &[(readable(BUFFERS, 16), 1), (readable(BUFFERS, 16), 0)]);
    }),
    attack("a loop of writable ones", Fate::Refused, |driver, queue| {
        chained(driver, queue, &[(writable(BUFFERS, 16), 1), (writable(BUFFERS, 16), 0)]);
    }),
    attack("a loop as long as the queue", Fate::Refused, |driver, queue| {
        let size = driver.queue_size(queue);
        let ring: Vec<_> = (1..=size).map(|next| (readable(BUFFERS, 4096), next % size)).collect();
        chained(driver, queue, &ring);
    }),
    attack("a next beyond the table", Fate::Refused, |driver, queue| {
        let size = driver.queue_size(queue);
        chained(driver, queue, &[(readable(BUFFERS, 16), size)]);
    }),
    attack("a head beyond the table", Fate::Refused, |driver, queue| {
        driver.make_available(queue, driver.queue_size(queue));
    }),
    attack("the last of all heads", Fate::Refused, |driver, queue| driver.make_available(queue, u16::MAX)),
    attack("a buffer longer than memory", Fate::Refused, |driver, queue| {
        driver.add(queue, &[readable(BUFFERS, u32::MAX)]);
    }),
    attack("a writable buffer longer than memory", Fate::Refused, |driver, queue| {
        driver.add(queue, &[readable(BUFFERS, 16), writable(BUFFERS, u32::MAX)]);
    }),
    attack("a buffer a byte past the end", Fate::Refused, |driver, queue| {
        driver.add(queue, &[writable(MEMORY_LEN - 15, 16)]);
    }),
    attack("a buffer where nothing is", Fate::Refused, |driver, queue| {
        driver.add(queue, &[writable(MEMORY_LEN, 1)]);
    }),
    attack("a buffer that wraps around", Fate::Refused, |driver, queue| {
        driver.add(queue, &[writable(u64::MAX - 7, 16)]);
    }),
    attack("a buffer at the last address", Fate::Refused, |driver, queue| {
        driver.add(queue, &[readable(u64::MAX, 1)]);
    }),
    attack("readable after writable", Fate::Refused, |driver, queue| {
        driver.add(queue, &[writable(BUFFERS, 16), readable(BUFFERS, 16)]);
    }),
    attack("nothing but empty buffers", Fate::Served, |driver, queue| {
        let chain = vec![writable(BUFFERS, 0); driver.queue_size(queue).into()];
        driver.add(queue, &chain);
    }),
    attack("an empty buffer where nothing is", Fate::Any, |driver, queue| {
        driver.add(queue, &[readable(u64::MAX, 0), writable(MEMORY_LEN, 0)]);
    }),
    attack("one buffer many times over", Fate::Served, |driver, queue| {
        let many = usize::from(driver.queue_size(queue)) - 1;
        let chain = [vec![readable(BUFFERS, 16)], vec![writable(BUFFERS, 0x1000); many]].concat();
        driver.add(queue, &chain);
    }),
    attack("more than a request may move", Fate::Served, |driver, queue| {
        let many = usize::from(driver.queue_size(queue)) - 1;
        let chain = [vec![readable(BUFFERS, 44)], vec![readable(0, SEAM as u32); many]].concat();
        driver.add(queue, &chain);
    }),
    attack("every entry the same head", Fate::Served, |driver, queue| {
        let head = driver.add(queue, &[readable(BUFFERS, 16), writable(BUFFERS + 64, 64)]);
        (1..driver.queue_size(queue)).for_each(|_| driver.make_available(queue, head));
    }),
    attack("an available index one too far ahead", Fate::Refused, |driver, queue| {
        driver.set_avail_index(queue, driver.queue_size(queue) + 1);
    }),
    attack("an available index before the last", Fate::Refused, |driver, queue| {
        driver.set_avail_index(queue, u16::MAX);
    }),
    attack("indirect tables that are none", Fate::Refused, |driver, queue| {
        driver.add(queue, &[indirect(TABLE, 17)]);
        driver.add(queue, &[indirect(TABLE, 0)]);
    }),
    attack("an indirect table where nothing is", Fate::Refused, |driver, queue| {
        driver.add(queue, &[indirect(MEMORY_LEN, 32)]);
    }),
    attack("an indirect table in an indirect table", Fate::Refused, |driver, queue| {
        driver.put_desc(TABLE, 0, indirect(TABLE, 16));
        driver.add(queue, &[indirect(TABLE, 16)]);
    }),
    attack("an indirect table that loops", Fate::Refused, |driver, queue| {
        for index in 0..2 {
            driver.put_desc(TABLE, index, Desc { flags: NEXT, next: 1 - index, ..readable(BUFFERS, 16) });
        }
        driver.add(queue, &[indirect(TABLE, 32)]);
    }),
    attack("an indirect table longer than the queue", Fate::Refused, |driver, queue| {
        let len = 2 * driver.queue_size(queue);
        for index in 0..len {
            driver.put_desc(TABLE, index, Desc { flags: NEXT, next: index + 1, ..readable(BUFFERS, 16) });
        }
        driver.add(queue, &[indirect(TABLE, u32::from(len) * 16)]);
    }),
    on_rings("buffers over table and available ring", |driver, queue| {
        let table = Driver::<Any>::table(queue);
        driver
            .add(queue, &[readable(BUFFERS, 16), writable(table, 0x1000), writable(table + AVAILABLE, 512)]);
    }),
    on_rings("a buffer over the used ring", |driver, queue| {
        let used = Driver::<Any>::table(queue) + USED;
        driver.add(queue, &[readable(BUFFERS, 16), writable(used, 0x1000), writable(used, 1)]);
    }),
    on_rings("an indirect table that is its own buffer", |driver, queue| {
        driver.put_desc(TABLE, 0, Desc { flags: NEXT, next: 1, ..readable(BUFFERS, 16) });
        driver.put_desc(TABLE, 1, Desc { flags: NEXT | WRITE, next: 2, ..writable(TABLE, 512) });
        driver.put_desc(TABLE, 2, writable(TABLE + 32, 1));
        driver.add(queue, &[indirect(TABLE, 48)]);
    }),
];

fn indirect(addr: u64, len: u32) -> Desc {
    Desc { flags: INDIRECT, ..readable(addr, len) }
}

/// Descriptors from the table's first on, each with its next, made available.
fn chained(driver: &mut Driver<Any>, queue: usize, chain: &[(Desc, u16)]) {
    for (index, &(desc, next)) in chain.iter().enumerate() {
        let flags = desc.flags | NEXT;
        driver.put_desc(Driver::<Any>::table(queue), index as u16, Desc { flags, next, ..desc });
    }
    driver.make_available(queue, 0);
}
