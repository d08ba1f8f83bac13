//! The other half: takes descriptors, opens paths, and refuses files that are not what the machine needs.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use chunk_store::{Kind, Reader};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use vmm_api::{
    DriveAccess, DriveConfig, Grant, Layered, NetConfig, Refusal, SerialConfig, Source, VsockConfig,
};

use super::check::{Checked, refuse};
use super::{Config, Drive, DriveContent, DriveId, Net, SerialOutput, Vsock};
use crate::describe::describe;

/// virtio-blk's unit, virtio 1.3 §5.2.6.
const SECTOR_LEN: u64 = 512;

/// Contents that are drives.
const DRIVE_KINDS: &[Kind] = &[Kind::Image, Kind::Code, Kind::Layer];

/// Contents that are drives which are written over.
const LAYERED_KINDS: &[Kind] = &[Kind::Scratch];

pub(super) fn open(checked: Checked, fds: Vec<OwnedFd>) -> Result<Config, Refusal> {
    let mut fds = Received::new(fds);
    let kernel = fds.open("kernel", checked.kernel, DriveAccess::ReadOnly)?;
    require_content("kernel", &kernel)?;
    let initrd =
        checked.initrd.map(|source| fds.open("initrd", source, DriveAccess::ReadOnly)).transpose()?;
    if let Some(file) = &initrd {
        require_content("initrd", file)?;
    }
    let drives = open_drives(&mut fds, checked.drives)?;
    let vsock = checked.vsock.map(|vsock| take_broker(&mut fds, &vsock)).transpose()?;
    let net = checked.net.map(|net| take_tap(&mut fds, &net)).transpose()?;
    let serial = open_serial(&mut fds, checked.serial)?;
    Ok(Config {
        vcpus: checked.vcpus,
        memory: checked.memory,
        kernel,
        initrd,
        cmdline: checked.cmdline,
        drives,
        vsock,
        net,
        entropy: checked.entropy,
        serial,
    })
}

/// Descriptors by position, each taken once: `check` has seen to both.
pub(super) struct Received(Vec<Option<OwnedFd>>);

impl Received {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    fn take(&mut self, field: &str, fd: usize) -> Result<OwnedFd, Refusal> {
        let slot = self.0.get_mut(fd).and_then(Option::take);
        slot.ok_or_else(|| refuse(field, format!("descriptor {fd} is missing")))
    }

    /// A regular file that can be read, and written if `access` says so.
    pub(super) fn open(&mut self, field: &str, source: Source, access: DriveAccess) -> Result<File, Refusal> {
        let (field, file) = match source {
            Source::Fd(fd) => {
                let field = format!("{field}.fd");
                let file = File::from(self.take(&field, fd)?);
                require_access(&field, &file, access)?;
                (field, file)
            }
            Source::Path(path) => {
                let field = format!("{field}.path");
                // Non-blocking: a FIFO must be refused below, not waited for here.
                let opened = OpenOptions::new()
                    .read(true)
                    .write(access == DriveAccess::ReadWrite)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(&path);
                let file = opened.map_err(|e| refuse(&field, format!("open {}: {e}", path.display())))?;
                (field, file)
            }
            Source::Chunks(_) | Source::Layered(_) => {
                return Err(refuse(field, "a file is wanted, not chunks"));
            }
        };
        require_regular(&field, &file)?;
        Ok(file)
    }

    /// A content of one of these kinds. Neither of its files may be written through what was handed over: what a guest that
    /// has taken over this process could write to, others would read.
    pub(super) fn open_grant(
        &mut self,
        field: &str,
        grant: Grant,
        kinds: &[Kind],
    ) -> Result<Reader, Refusal> {
        let mut file = |part, fd| {
            let field = format!("{field}.{part}");
            let file = File::from(self.take(&field, fd)?);
            if open_mode(&field, &file)? != Some(OFlag::O_RDONLY) {
                return Err(refuse(field, "the descriptor is not open for reading alone"));
            }
            require_regular(&field, &file)?;
            Ok(file)
        };
        let (table, slots) = (file("table", grant.table)?, file("slots", grant.slots)?);
        let asks_field = format!("{field}.asks");
        let asks = self.take(&asks_field, grant.asks)?;
        require_seqpacket(&asks_field, &asks)?;
        let reader = Reader::new(table, slots, asks)
            .map_err(|error| refuse(format!("{field}.table"), describe(&error)))?;
        if !kinds.contains(&reader.kind()) {
            return Err(refuse(field, format!("a content of kind {:?} is of no use here", reader.kind())));
        }
        Ok(reader)
    }
}

fn require_access(field: &str, file: &File, access: DriveAccess) -> Result<(), Refusal> {
    match open_mode(field, file)? {
        Some(OFlag::O_RDWR) => Ok(()),
        Some(OFlag::O_RDONLY) if access == DriveAccess::ReadOnly => Ok(()),
        _ => Err(refuse(field, format!("the descriptor is not open for what {access:?} needs"))),
    }
}

/// What a descriptor is open for; none for one that only says where its file is.
fn open_mode(field: &str, file: &File) -> Result<Option<OFlag>, Refusal> {
    let flags =
        fcntl(file, FcntlArg::F_GETFL).map_err(|e| refuse(field, format!("descriptor flags: {e}")))?;
    let flags = OFlag::from_bits_retain(flags);
    Ok((!flags.contains(OFlag::O_PATH)).then_some(flags & OFlag::O_ACCMODE))
}

fn require_regular(field: &str, file: &File) -> Result<(), Refusal> {
    let metadata = file.metadata().map_err(|e| refuse(field, format!("stat: {e}")))?;
    if metadata.is_file() { Ok(()) } else { Err(refuse(field, "not a regular file")) }
}

fn require_seqpacket(field: &str, socket: &OwnedFd) -> Result<(), Refusal> {
    match getsockopt(socket, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(()),
        Ok(_) => Err(refuse(field, "the socket is not SOCK_SEQPACKET")),
        Err(_) => Err(refuse(field, "not a socket")),
    }
}

fn len(field: &str, file: &File) -> Result<u64, Refusal> {
    Ok(file.metadata().map_err(|e| refuse(field, format!("stat: {e}")))?.len())
}

fn require_content(field: &str, file: &File) -> Result<(), Refusal> {
    if len(field, file)? == 0 {
        return Err(refuse(field, "the file is empty"));
    }
    Ok(())
}

pub(super) fn open_drives(
    fds: &mut Received,
    drives: Vec<(DriveId, DriveConfig)>,
) -> Result<Vec<Drive>, Refusal> {
    let open = |(index, (id, drive))| open_drive(fds, &format!("drives[{index}].source"), id, drive);
    drives.into_iter().enumerate().map(open).collect()
}

fn open_drive(fds: &mut Received, field: &str, id: DriveId, drive: DriveConfig) -> Result<Drive, Refusal> {
    let (content, len) = match drive.source {
        Source::Chunks(grant) => {
            let reader = fds.open_grant(&format!("{field}.chunks"), grant, DRIVE_KINDS)?;
            let len = reader.len();
            (DriveContent::Chunks(reader), len)
        }
        Source::Layered(Layered { base, layer }) => {
            let field = format!("{field}.layered");
            let reader = fds.open_grant(&format!("{field}.base"), base, LAYERED_KINDS)?;
            let layer_field = format!("{field}.layer");
            let layer = fds.open(&layer_field, Source::Fd(layer), DriveAccess::ReadWrite)?;
            let (wanted, found) = (reader.len(), len(&layer_field, &layer)?);
            if wanted != found {
                return Err(refuse(layer_field, format!("{found} bytes over a content of {wanted}")));
            }
            (DriveContent::Layered(reader, layer), wanted)
        }
        source => {
            let file = fds.open(field, source, drive.access)?;
            let len = len(field, &file)?;
            (DriveContent::File(file), len)
        }
    };
    if len == 0 || !len.is_multiple_of(SECTOR_LEN) {
        return Err(refuse(field, format!("{len} bytes are not one or more whole sectors of {SECTOR_LEN}")));
    }
    Ok(Drive { id, content, access: drive.access, len })
}

pub(super) fn take_broker(fds: &mut Received, vsock: &VsockConfig) -> Result<Vsock, Refusal> {
    let field = "vsock.broker_fd";
    let broker = fds.take(field, vsock.broker_fd)?;
    require_seqpacket(field, &broker)?;
    Ok(Vsock { guest_cid: vsock.guest_cid, broker })
}

/// What it is a descriptor of cannot be told without a system call that this process is not to make later; one that is no link is
/// down when its first frame is read.
pub(super) fn take_tap(fds: &mut Received, net: &NetConfig) -> Result<Net, Refusal> {
    let field = "net.tap_fd";
    let tap = File::from(fds.take(field, net.tap_fd)?);
    if open_mode(field, &tap)? != Some(OFlag::O_RDWR) {
        return Err(refuse(field, "the descriptor is not open for reading and writing"));
    }
    let flags = fcntl(&tap, FcntlArg::F_GETFL).map_err(|e| refuse(field, format!("flags: {e}")))?;
    if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
        return Err(refuse(field, "the descriptor would block: O_NONBLOCK is wanted"));
    }
    let metadata = tap.metadata().map_err(|e| refuse(field, format!("stat: {e}")))?;
    if metadata.is_file() || metadata.is_dir() {
        return Err(refuse(field, "a file is no tap"));
    }
    let limit = |rate: vmm_api::RateLimit| devices::RateLimit {
        bytes_per_second: rate.bytes_per_second,
        burst_bytes: rate.burst_bytes,
    };
    Ok(Net { tap, receive: limit(net.receive), transmit: limit(net.transmit) })
}

pub(super) fn open_serial(fds: &mut Received, serial: SerialConfig) -> Result<SerialOutput, Refusal> {
    let field = "serial.fd";
    match serial {
        SerialConfig::Null => Ok(SerialOutput::Null),
        SerialConfig::Stdout => Ok(SerialOutput::Stdout),
        SerialConfig::Fd(fd) => {
            let file = File::from(fds.take(field, fd)?);
            let flags = fcntl(&file, FcntlArg::F_GETFL).map_err(|e| refuse(field, format!("flags: {e}")))?;
            let flags = OFlag::from_bits_retain(flags);
            if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY || flags.contains(OFlag::O_PATH) {
                return Err(refuse(field, format!("descriptor {} cannot be written", file.as_raw_fd())));
            }
            Ok(SerialOutput::File(file))
        }
    }
}
