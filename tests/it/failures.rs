//! Writes down which tests failed when, and on which machine: `cargo xtask test` asks whether that machine was there
//! (`xtask/src/lost.rs`).

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Once;
use std::time::SystemTime;

use crate::setting;

/// In the folder `TINDERBOX_TEST_STATE`, a line a failure: milliseconds since 1970, the machine, the test.
const FILE: &str = "failed";

thread_local! {
    /// What the test of this thread depends on: a test has a thread of its own.
    static MACHINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// This thread's test depends on `machine`: the name of its state disk, or `host`. When it panics from now on, a line is
/// written.
pub(crate) fn depends_on(machine: &str) {
    static WRITES: Once = Once::new();
    WRITES.call_once(write_down);
    MACHINE.with_borrow_mut(|name| machine.clone_into(name));
}

/// What this thread's test depends on; empty when nobody said.
pub(crate) fn machine() -> String {
    MACHINE.with_borrow(String::clone)
}

fn write_down() {
    let file = setting("TINDERBOX_TEST_STATE").join(FILE);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (thread, machine) = (std::thread::current(), machine());
        let line = format!("{} {machine} {}\n", now.as_millis(), thread.name().unwrap_or("unnamed"));
        // A failure that is not written down is not run again.
        let file = OpenOptions::new().create(true).append(true).open(&file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }));
}
