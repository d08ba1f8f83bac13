//! PID 1 of a test guest: prints what machine it finds and what its disks allow, a line each, then resets; or, with
//! `probe=tick` on the command line, lives on (`tick`), or, with `probe=rest`, does nothing for ever, or, with `probe=touch`,
//! touches some of its memory for ever (`touch`).
//!
//! The tests of the VMM boot it with the real guest kernel and read its lines from the serial port (`tests/it`), and the
//! benchmark takes snapshots of it while it rests or touches. It is no guest-init: it knows no protocol and runs no function.

mod tick;
mod touch;

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;

const SECTOR: usize = 512;

/// Written over a sector of every disk that allows it.
const PATTERN: [u8; SECTOR] = [0xc3; SECTOR];

fn main() {
    match run() {
        Ok(()) => println!("probe: done"),
        Err(error) => println!("probe: failed: {error}"),
    }
    // What the port has not sent yet, a reset loses.
    let _ = tcdrain(io::stdout());
    // There is nothing to go back to: a failure to reset shows as a machine that does not end.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
}

fn run() -> io::Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        match mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let cpus = fs::read_to_string("/proc/cpuinfo")?.matches("processor\t").count();
    println!("probe: cpus {cpus}");
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    match cmdline.split_whitespace().find_map(|word| word.strip_prefix("probe=")) {
        Some("tick") => return tick::run(cpus),
        Some("rest") => rest(),
        Some("touch") => touch::run(),
        _ => {}
    }
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    println!("probe: memory_kib {}", total.unwrap_or("unknown"));
    println!("probe: cmdline {}", cmdline.trim());
    let mut random = [0_u8; 16];
    match fs::File::open("/dev/hwrng").and_then(|mut file| file.read_exact(&mut random)) {
        Ok(()) => println!("probe: hwrng {}", if random == [0; 16] { "zeros" } else { "random" }),
        Err(error) => println!("probe: hwrng {error}"),
    }
    disks()?.iter().try_for_each(|disk| describe_disk(disk))
}

/// Never returns, and wakes for nothing.
fn rest() -> ! {
    println!("probe: resting");
    loop {
        nix::unistd::pause();
    }
}

/// Names of the virtio disks, in order.
fn disks() -> io::Result<Vec<String>> {
    let names = fs::read_dir("/sys/block")?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut disks: Vec<_> = names.filter(|name| name.starts_with("vd")).collect();
    disks.sort();
    Ok(disks)
}

fn describe_disk(name: &str) -> io::Result<()> {
    let attribute = |file: &str| fs::read_to_string(format!("/sys/block/{name}/{file}"));
    let (serial, ro, sectors) = (attribute("serial")?, attribute("ro")?, attribute("size")?);
    let device = format!("/dev/{name}");
    let mut first = [0_u8; SECTOR];
    fs::File::open(&device)?.read_exact(&mut first)?;
    let mut last = [0_u8; SECTOR];
    let mut file = fs::File::open(&device)?;
    file.seek(SeekFrom::End(-512))?;
    file.read_exact(&mut last)?;
    println!(
        "probe: disk serial={} ro={} sectors={} first={:02x} last={:02x} write={}",
        serial.trim(),
        ro.trim(),
        sectors.trim(),
        first[0],
        last[0],
        write_pattern(&device)
    );
    Ok(())
}

/// `ok`, or the errno with which the write was refused.
fn write_pattern(device: &str) -> String {
    let written = fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_SYNC)
        .open(device)
        .and_then(|mut file| file.write_all(&PATTERN).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.raw_os_error().unwrap_or_default().to_string(),
    }
}
