//! What a client (host-agent, the tests, a person) says to a `vmm` process, and what it answers.
//!
//! Transport: a Unix `SOCK_SEQPACKET` socket, one JSON document a packet, at most [`MAX_PACKET_LEN`] bytes;
//! descriptors travel beside a request as `SCM_RIGHTS`, at most [`MAX_FDS`], and [`Source::Fd`] names them by their
//! position. Every request is answered by exactly one [`Response`]; the process says [`Response::Exited`] by itself
//! when the guest ends. The socket's end is the process's end: a VMM never outlives its client.
//!
//! `vmm --control-fd N` serves a socket that it inherited; `vmm --config FILE` takes one [`MachineConfig`] with
//! paths, starts it and lives as long as its guest.

mod client;
mod net;
mod packet;
mod snapshot;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError, receive, send};
pub use net::{
    MAX_BURST_BYTES, MAX_BYTES_PER_SECOND, MIN_BURST_BYTES, MIN_BURST_MS, MIN_BYTES_PER_SECOND, NetConfig,
    RateLimit,
};
pub use packet::{DecodeError, EncodeError, decode, encode};
pub use snapshot::{
    Identity, KEY_LEN, Key, LoadConfig, LoadReport, LoadTimings, MAX_DRIVE_CHUNKS, MAX_IDENTITIES,
    MAX_IDENTITY_LEN, MAX_WORKING_SET, Shape, SnapshotConfig, SnapshotKind, SnapshotReport, WorkingSet,
};

/// Longest packet in bytes: that of the longest working set.
pub const MAX_PACKET_LEN: usize = 128 * 1024;

/// Most descriptors beside one request: three a [`Grant`], of which a clone has memory, prefetch, runtime, code and /tmp; and room
/// for layers.
pub const MAX_FDS: usize = 24;

/// From the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Checks the configuration and builds the machine; nothing runs yet. Once a process.
    Configure(MachineConfig),
    /// Reserves virtual machine, vCPUs and memory for a later [`Request::Load`], and confines the process.
    Prepare(Shape),
    /// Makes the machine of a snapshot, in a process that is blank or prepared for one of its shape. One that was
    /// prepared takes descriptors only, no paths.
    Load(LoadConfig),
    /// Writes a paused machine to files; it stays paused. Descriptors only.
    Snapshot(SnapshotConfig),
    /// Runs the vCPUs of a configured machine.
    Start,
    /// Stops the vCPUs at an instruction boundary.
    Pause,
    /// Runs them again.
    Resume,
    /// Ends the machine and the process.
    Stop,
    /// Counters since the process began.
    Metrics,
    /// What a machine had to read until now. Pages: those that a loaded machine had to wait for; those of its
    /// [`LoadConfig::prefetch`] are not among them, unless it was faster; every single one with [`LoadConfig::learn`] only.
    WorkingSet,
}

/// To the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Ok,
    /// Not done, and nothing changed.
    Refused(Refusal),
    /// Answer to [`Request::Metrics`].
    Metrics(Metrics),
    /// Answer to [`Request::WorkingSet`].
    WorkingSet(WorkingSet),
    /// Answer to [`Request::Load`].
    Loaded(LoadReport),
    /// Answer to [`Request::Snapshot`].
    Snapshotted(SnapshotReport),
    /// The guest ended; the process ends after this. Unasked.
    Exited(Exit),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The field that is wrong, as a path (`drives[1].id`); absent when no field is.
    pub field: Option<String>,
    /// What is wrong with it and what was expected.
    pub message: String,
}

/// Why a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// The guest reset or powered off.
    Reset,
    /// A triple fault or KVM's shutdown exit.
    Crashed,
    /// The VMM met an error that it cannot go on from; its log says which.
    Failed,
}

/// What a client asks for, unchecked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// 1 to 16.
    pub vcpu_count: u8,
    /// 128 to 10,240 plus at most 256 that the platform adds for itself; MiB.
    pub mem_size_mib: u32,
    /// ELF with a PVH note, or bzImage.
    pub kernel: Source,
    /// Initial RAM disk.
    #[serde(default)]
    pub initrd: Option<Source>,
    /// Kernel command line without what the VMM adds (devices, memory).
    #[serde(default)]
    pub cmdline: String,
    /// Block devices, in the order the guest sees them; at most 8.
    #[serde(default)]
    pub drives: Vec<DriveConfig>,
    /// Socket device.
    #[serde(default)]
    pub vsock: Option<VsockConfig>,
    /// What the network device is connected to. Every machine has the device; without this its link is down.
    #[serde(default)]
    pub net: Option<NetConfig>,
    /// Entropy device.
    #[serde(default)]
    pub entropy: bool,
    /// Where the serial console's output goes.
    #[serde(default)]
    pub serial: SerialConfig,
    /// Whether [`Request::Snapshot`] may follow. Otherwise it is refused, and no file may become as long as guest memory.
    #[serde(default)]
    pub allow_snapshots: bool,
}

/// Something to read, by path or by descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Opened by the VMM.
    Path(PathBuf),
    /// Position among the descriptors that came with the request.
    Fd(usize),
    /// A content of the chunk store, of a drive that is not written.
    Chunks(Grant),
    /// A content that is written over, of a drive that is.
    Layered(Layered),
}

/// A content of the chunk store, to be read by chunks: positions among the descriptors that came with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Where each chunk is and how it is read; a regular file, open for reading only.
    pub table: usize,
    /// The chunks that this node has, encrypted; a regular file, open for reading only.
    pub slots: usize,
    /// Where to ask for a chunk that is not there: a `SOCK_SEQPACKET` socket.
    pub asks: usize,
}

/// A content of the chunk store, and a file for what is written: the content is read where nothing was. Positions among the
/// descriptors that came with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layered {
    /// What there is at first.
    pub base: Grant,
    /// Nobody else's, as long as the content, and of holes alone; a regular file, open for reading and writing.
    pub layer: usize,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveConfig {
    /// 1 to 20 bytes of `[a-zA-Z0-9_-]`, unique; the guest reads it as the disk's serial.
    pub id: String,
    /// Image, whole 512-byte sectors.
    pub source: Source,
    /// Whether the guest may write.
    pub access: DriveAccess,
}

/// Whether a drive can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveAccess {
    /// The device offers `VIRTIO_BLK_F_RO` and refuses writes.
    ReadOnly,
    /// Guest writes reach the file.
    ReadWrite,
}

/// The socket device. Connections are handed over as descriptors through a *broker*: a `SOCK_SEQPACKET` socket on
/// which either side sends one [`VsockConnect`] (JSON) with one connected stream socket beside it. The VMM sends
/// when the guest connects to the host; the client sends to connect to a port of the guest. No path is involved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's address, 3 to 2^32 - 2.
    pub guest_cid: u32,
    /// Position of the broker socket among the descriptors.
    pub broker_fd: usize,
}

/// Head of a handed-over connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConnect {
    /// The port that is connected to: on the host when the VMM sends, in the guest when the client does.
    pub port: u32,
}

/// Where serial output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SerialConfig {
    /// Discarded.
    #[default]
    Null,
    /// The VMM's standard output.
    Stdout,
    /// Written to a descriptor that came with the request; a full pipe drops bytes, it never blocks the guest.
    Fd(usize),
}

/// Counters since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// VM exits by kind, over all vCPUs.
    pub exits: ExitCounts,
    /// Private memory of the process that is not guest memory, bytes.
    pub overhead_bytes: u64,
    /// The version of landlock that confines the process: the newest that both the kernel and the VMM know. None until it has a machine.
    pub landlock: Option<u32>,
}

/// VM exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCounts {
    /// Port reads and writes.
    pub pio: u64,
    /// MMIO reads and writes.
    pub mmio: u64,
    /// Everything else.
    pub other: u64,
}
