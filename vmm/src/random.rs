//! Random bytes from the kernel. Asked directly: the library that everyone uses looks for the call at run time, does not find
//! it in a static program, and opens a device file instead, which a confined process cannot.

#![expect(unsafe_code, reason = "getrandom is a C function")]

use std::io;

/// `N` random bytes; up to 256 come at once or not at all.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= 256, "more may be cut short") }
    let mut bytes = [0; N];
    // SAFETY: getrandom writes at most N bytes to `bytes`, which is N long and exclusively ours.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(got) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
