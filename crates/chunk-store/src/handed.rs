//! Descriptors that somebody is handed who may be hostile.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Another descriptor of the same file, for reading only, that has nothing in common with the first one. Flags as `O_DIRECT`
/// belong to what was opened, not to a descriptor: whoever holds a duplicate changes how all others read.
///
/// # Errors
/// There are no more descriptors, or no /proc.
pub fn for_reading(file: &File) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(OpenOptions::new().read(true).open(path)?.into())
}
