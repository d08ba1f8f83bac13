//! The console: one line when guest-init is up, one when it cannot go on. Nothing of the function's ever goes there.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::termios::tcdrain;

/// Kernel numbers of the console and of null (Documentation/admin-guide/devices.txt).
const NODES: &[(&str, u64, u64)] = &[("/dev/console", 5, 1), ("/dev/null", 1, 3)];

/// Makes the two device nodes that guest-init itself needs, and sees that descriptors 0 to 2 are taken, so that no
/// socket becomes somebody's standard output.
pub fn open() {
    // An initial RAM disk may bring them; without any the guest works, silently.
    let _ = std::fs::create_dir_all("/dev");
    for &(path, major, minor) in NODES {
        let _ = mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(major, minor));
    }
    while let Ok(file) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        if file.as_raw_fd() > libc::STDERR_FILENO {
            return;
        }
        std::mem::forget(file);
    }
}

/// Writes one line, `guest-init: …`. A console that does not take it cannot be told so.
pub fn line(text: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("guest-init: {text}\n").as_bytes());
        // The line must have left before a reset may follow.
        let _ = tcdrain(&console);
    }
}
