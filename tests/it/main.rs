//! Tests of the booted appliance through real clients: boto3 and the aws CLI talk to nodes that run in QEMU.
//!
//! One node serves every test that does not change the node itself; tests that do boot their own. `cargo xtask test`
//! builds what is needed and says where it is (`TINDERBOX_*` in the environment, see [`setting`]). Not here: tests of one
//! crate, which sit beside its code.

mod api;
mod auth;
mod client;
mod command_line;
mod faults;
mod functions;
mod host;
mod image;
mod invoke;
mod limits;
mod machine;
mod node;
mod persistence;
mod proof;
mod refusals;
mod runtimes;
mod snapstart;
mod uniqueness;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Once;
use std::time::SystemTime;

/// Where failures are written down, in the folder `TINDERBOX_TEST_STATE`: `cargo xtask test` asks whether their machine was
/// there.
const FAILURES: &str = "failed";

/// A path that `cargo xtask test` passes in the environment.
fn setting(name: &str) -> PathBuf {
    static REPORTS: Once = Once::new();
    REPORTS.call_once(write_failures_down);
    match std::env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: these tests are run by `cargo xtask test`"),
    }
}

/// From now on a test that panics adds a line with the time and its name.
fn write_failures_down() {
    let Some(folder) = std::env::var_os("TINDERBOX_TEST_STATE") else { return };
    let file = PathBuf::from(folder).join(FAILURES);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let thread = std::thread::current();
        let line = format!("{} {}\n", now.as_millis(), thread.name().unwrap_or("unnamed"));
        // A failure that is not written down is not run again.
        let _ = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(line.as_bytes()));
    }));
}
