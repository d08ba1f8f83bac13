//! Files with certificates and keys.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Longest of them, in bytes. What distributions ship as all authorities of the public web is a quarter of it.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// All of a file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE_LEN + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_LEN {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAX_FILE_LEN} bytes")));
    }
    Ok(content)
}
