//! A program for `restore.d`: appends to a file in `/tmp` what it was told and what it finds, or misbehaves as a file in the
//! function's code says.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Gid, Uid};
use serde_json::json;

/// What it is to do.
const ORDERS: &str = "/var/task/orders";

/// What it writes, a line each time that it runs.
const REPORT: &str = "/tmp/restore-hook";

/// What the function counts in for as long as it runs.
const TICKS: &str = "/tmp/ticks";

/// Looks at the ticks. A function that were not stopped would get its share of the processor meanwhile.
const LOOKS: usize = 20_000;

/// A line takes a moment to whoever waits for it: as long, the clone stays where it is.
const PAUSE: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    println!("restore-hook: in {}", std::env::var("TINDERBOX_INSTANCE_ID").unwrap_or_default());
    match fs::read_to_string(ORDERS)?.as_str() {
        "report" => report(),
        "say" => {
            println!("step: hook");
            thread::park_timeout(PAUSE);
            Ok(())
        }
        "fail" => Err("as ordered".into()),
        "crash" => std::process::abort(),
        "hang" => loop {
            thread::park();
        },
        other => Err(format!("no such order: {other:?}").into()),
    }
}

fn report() -> Result<(), Box<dyn Error>> {
    let first = ticks()?;
    for _ in 1..LOOKS {
        ticks()?;
    }
    let report = json!({
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "uid": Uid::effective().as_raw(),
        "gid": Gid::effective().as_raw(),
        "descriptors": names("/proc/self/fd")?,
        "processes": names("/proc")?.into_iter().filter(|name| name.parse::<u32>().is_ok()).collect::<Vec<_>>(),
        // What may have the agent's connection, and the way to make another.
        "descriptors_of_pid_1": names("/proc/1/fd").err().and_then(|error| error.raw_os_error()),
        "vsock": socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None).err().map(|errno| errno as i32),
        "ticks": [first, ticks()?],
    });
    writeln!(File::options().append(true).create(true).open(REPORT)?, "{report}")?;
    Ok(())
}

fn ticks() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open(TICKS)?.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

fn names(folder: &str) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
