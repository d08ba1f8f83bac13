//! What a client asked for, checked: [`Config`] from [`MachineConfig`]. The first half is pure and names the field that
//! is wrong; the second opens the files. Everything behind this module trusts its types.

mod check;
mod files;
mod open;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;

use chunk_store::Reader;
use devices::RateLimit;
use vmm_api::{DriveAccess, MachineConfig, Refusal};

pub(crate) use files::{LoadFiles, SnapshotFiles, check_shape};

/// A machine that can be built.
#[derive(Debug)]
pub(crate) struct Config {
    /// How many vCPUs.
    pub vcpus: VcpuCount,
    /// How much memory.
    pub memory: MemSize,
    /// Regular file, readable.
    pub kernel: File,
    /// Regular file, readable, not empty.
    pub initrd: Option<File>,
    /// Kernel command line.
    pub cmdline: Cmdline,
    /// In the order the guest sees them.
    pub drives: Vec<Drive>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// What the network device is connected to.
    pub net: Option<Net>,
    /// Whether there is an entropy device.
    pub entropy: bool,
    /// Where serial output goes.
    pub serial: SerialOutput,
}

impl Config {
    /// Checks `wanted` and takes the descriptors that it names; the others are closed.
    ///
    /// # Errors
    /// The first thing that is wrong, with its field.
    pub(crate) fn new(wanted: MachineConfig, fds: Vec<OwnedFd>) -> Result<Self, Refusal> {
        open::open(check::check(wanted, fds.len())?, fds)
    }
}

/// 1 to [`MAX_VCPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VcpuCount(u8);

impl VcpuCount {
    /// The number.
    #[must_use]
    pub(crate) fn get(self) -> u8 {
        self.0
    }
}

/// [`MIN_MEM_SIZE_MIB`] to [`MAX_MEM_SIZE_MIB`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemSize {
    mib: u32,
}

impl MemSize {
    /// In MiB.
    #[must_use]
    pub(crate) fn mib(self) -> u32 {
        self.mib
    }

    /// In bytes.
    #[must_use]
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.mib) << 20
    }
}

/// Printable ASCII that a kernel takes whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cmdline(String);

impl Cmdline {
    /// The text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The text and a zero byte.
    #[must_use]
    pub(crate) fn as_c_string(&self) -> Vec<u8> {
        let mut bytes = self.0.clone().into_bytes();
        bytes.push(0);
        bytes
    }
}

/// 1 to 20 bytes of `[a-zA-Z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriveId(String);

impl DriveId {
    /// The text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A block device.
#[derive(Debug)]
pub(crate) struct Drive {
    /// Its serial in the guest; unique in the machine.
    pub id: DriveId,
    /// At least one whole sector.
    pub content: DriveContent,
    /// Whether the guest may write.
    pub access: DriveAccess,
    /// Bytes.
    pub len: u64,
}

/// What a machine's console and log may be written to, however short its drives are; less than any function's `/tmp`. Bytes.
const LOG_LEN: u64 = 64 << 20;

/// The longest file that a machine writes: a drive, and its memory where snapshots of it may be taken. Bytes.
#[must_use]
pub(crate) fn longest_file(drives: &[Drive], memory: MemSize, allow_snapshots: bool) -> u64 {
    let written = drives.iter().filter(|drive| drive.access == DriveAccess::ReadWrite);
    let saved = if allow_snapshots { memory.bytes() } else { 0 };
    written.map(|drive| drive.len).fold(saved.max(LOG_LEN), u64::max)
}

/// Where a drive's bytes are.
#[derive(Debug)]
pub(crate) enum DriveContent {
    /// Regular file, open as the drive's access needs it.
    File(File),
    /// A content of the chunk store; never of a drive that may be written.
    Chunks(Reader),
    /// A content, and a file as long as that for what is written.
    Layered(Reader, File),
}

/// The socket device.
#[derive(Debug)]
pub(crate) struct Vsock {
    /// The guest's address, 3 to 2^32 - 2.
    pub guest_cid: u32,
    /// `SOCK_SEQPACKET` socket over which connections are handed.
    pub broker: OwnedFd,
}

/// What the network device is connected to.
#[derive(Debug)]
pub(crate) struct Net {
    /// A tap, or a socket that keeps packets apart; not blocking.
    pub tap: File,
    /// What the guest gets.
    pub receive: RateLimit,
    /// What it sends.
    pub transmit: RateLimit,
}

/// Where serial output goes.
#[derive(Debug)]
pub(crate) enum SerialOutput {
    /// Nowhere.
    Null,
    /// Standard output.
    Stdout,
    /// A descriptor that can be written.
    File(File),
}
