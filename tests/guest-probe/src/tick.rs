//! The probe that lives on: counts in memory on every processor, watches the clock, keeps a pattern, reads and writes its
//! disks and talks to the host, for ever. What it prints goes on without a gap when its machine is snapshotted and resumed.
//!
//! ```text
//! probe: tick 17 cpus=2 disks=a:11/8:rw,b:22/4:ro
//!                         once a round: processors that counted; name, first byte, sectors and access of every disk
//! probe: connected 2      every connection to port 1024 of the host
//! probe: rekeyed          the kernel has a new generation id, and new keys for it
//! probe: wrong: ...       never
//! ```

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use nix::unistd::Pid;

/// Between two lines.
const ROUND: Duration = Duration::from_millis(20);
/// Between two counts: several of them in a round. Timers of four processors every millisecond were more than an emulated
/// host could serve beside a boot.
const COUNT: Duration = Duration::from_millis(4);
/// Memory with a pattern.
const PATTERN_LEN: usize = 8 << 20;
/// Of which so much is looked at in a round.
const PATTERN_STEP: usize = 64 << 10;
/// The host and the port that the agent would listen on.
const HOST_CID: u32 = 2;
const HOST_PORT: u32 = 1024;
const SECTOR: usize = 512;
/// What the kernel says when its generator was rekeyed for a new generation id (drivers/char/random.c).
const REKEYED: &[u8] = b"crng reseeded due to virtual machine fork";
/// Longest record of `/dev/kmsg`: a read that is shorter fails.
const RECORD_LEN: usize = 8192;

/// Never returns.
pub(crate) fn run(cpus: usize) -> io::Result<()> {
    let counters: Vec<Arc<AtomicU64>> = (0..cpus).map(|_| Arc::default()).collect();
    for (cpu, counter) in counters.iter().enumerate() {
        let counter = Arc::clone(counter);
        thread::spawn(move || count(cpu, &counter));
    }
    thread::spawn(talk);
    thread::spawn(|| match listen() {
        Ok(never) => match never {},
        Err(error) => println!("probe: wrong: the kernel's log: {error}"),
    });
    let pattern: Vec<u8> = (0..PATTERN_LEN).map(pattern_at).collect();
    let mut before = vec![0; cpus];
    for tick in 1_u64.. {
        wait(ROUND);
        let now: Vec<u64> = counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect();
        if now.iter().zip(&before).any(|(now, before)| now < before) {
            println!("probe: wrong: a counter went from {before:?} to {now:?}");
        }
        let running = now.iter().zip(&before).filter(|(now, before)| now > before).count();
        before = now;
        let start = tick as usize * PATTERN_STEP % PATTERN_LEN;
        if (start..start + PATTERN_STEP).any(|at| pattern[at] != pattern_at(at)) {
            println!("probe: wrong: memory changed near {start:#x}");
        }
        println!("probe: tick {tick} cpus={running} disks={}", disks()?);
    }
    Ok(())
}

/// What is tested are timers, across a snapshot.
fn wait(time: Duration) {
    let time = TimeSpec::from_duration(time);
    // Cut short by no signal: there is no handler.
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &time);
}

fn pattern_at(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Counts, and holds the monotonic clock to its name.
fn count(cpu: usize, counter: &AtomicU64) {
    let mut only = CpuSet::new();
    if only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)).is_err() {
        println!("probe: wrong: processor {cpu} cannot be chosen");
    }
    let mut before = Instant::now();
    loop {
        counter.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if now.checked_duration_since(before).is_none() {
            println!("probe: wrong: time went back on processor {cpu}");
        }
        before = now;
        wait(COUNT);
    }
}

/// Every disk, past the page cache. What may be written has a pattern in its last sector then.
fn disks() -> io::Result<String> {
    let mut disks = Vec::new();
    for disk in super::disks()? {
        let device = format!("/dev/{disk}");
        let attribute = |file: &str| fs::read_to_string(format!("/sys/block/{disk}/{file}"));
        let (serial, size) = (attribute("serial")?, attribute("size")?);
        // O_DIRECT wants whole sectors at addresses of their alignment.
        let mut room = vec![0_u8; 2 * SECTOR];
        let aligned = room.as_ptr().align_offset(SECTOR);
        let sector = &mut room[aligned..aligned + SECTOR];
        direct(fs::OpenOptions::new().read(true), &device)?.read_exact(sector)?;
        let first = sector[0];
        sector.copy_from_slice(&super::PATTERN);
        let written = direct(fs::OpenOptions::new().write(true), &device).and_then(|mut file| {
            file.seek(SeekFrom::End(-(SECTOR as i64)))?;
            file.write_all(sector)
        });
        let access = if written.is_ok() { "rw" } else { "ro" };
        disks.push(format!("{}:{first:02x}/{}:{access}", serial.trim(), size.trim()));
    }
    Ok(disks.join(","))
}

fn direct(options: &mut fs::OpenOptions, device: &str) -> io::Result<fs::File> {
    options.custom_flags(nix::libc::O_DIRECT).open(device)
}

/// Connects, says which time this is, waits for the end, connects again.
fn talk() {
    for time in 1_u32.. {
        let stream = loop {
            match dial() {
                Ok(stream) => break stream,
                Err(_) => wait(ROUND),
            }
        };
        println!("probe: connected {time}");
        let mut stream = fs::File::from(stream);
        let _ = stream.write_all(format!("hello {time}\n").as_bytes());
        let mut rest = Vec::new();
        // Its end is the snapshot's doing, or the host's.
        let _ = stream.read_to_end(&mut rest);
    }
}

/// Follows the kernel's log, a record a read.
fn listen() -> io::Result<Infallible> {
    let mut log = fs::File::open("/dev/kmsg")?;
    let mut record = [0; RECORD_LEN];
    loop {
        match log.read(&mut record) {
            Ok(len) if record[..len].windows(REKEYED.len()).any(|text| text == REKEYED) => {
                println!("probe: rekeyed");
            }
            Ok(_) => {}
            // Records were overwritten before they were read; the next read goes on behind them.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
}

fn dial() -> nix::Result<OwnedFd> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &VsockAddr::new(HOST_CID, HOST_PORT))?;
    Ok(fd)
}
