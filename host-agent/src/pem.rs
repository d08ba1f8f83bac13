//! Files with certificates and keys: what clients know the node by, what peers do, and whom the node believes that it connects to.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// Longest of them, in bytes. What distributions ship as all authorities of the public web is a quarter of it.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Why a file gives nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PemError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no {what} in PEM", path.display())]
    Absent {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
}

/// All certificates of a file, one at least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let content = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| PemError::Absent { path: path.to_owned(), what: "certificate" })
}

/// The key of a file.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|_| PemError::Absent { path: path.to_owned(), what: "key" })
}

/// All of a file, wiped when it is dropped.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let failed = |source| PemError::Read { path: path.to_owned(), source };
    let mut content = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_LEN + 1).read_to_end(&mut content));
    read.map_err(failed)?;
    if content.len() as u64 > MAX_FILE_LEN {
        let problem = format!("longer than {MAX_FILE_LEN} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, problem)));
    }
    Ok(content)
}
