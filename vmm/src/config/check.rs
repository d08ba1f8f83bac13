//! The pure half: every rule that needs no file.

use std::collections::BTreeSet;

use vmm_api::{
    DriveAccess, DriveConfig, Grant, Layered, MAX_BURST_BYTES, MAX_BYTES_PER_SECOND, MIN_BURST_BYTES,
    MIN_BURST_MS, MIN_BYTES_PER_SECOND, MachineConfig, NetConfig, RateLimit, Refusal, SerialConfig, Source,
    VsockConfig,
};

use super::{Cmdline, DriveId, MemSize, VcpuCount};

/// Six vCPUs are what the largest function gets; 16 leave room for other guests and fit the APIC ids of one cluster.
pub(super) const MAX_VCPUS: u8 = 16;
/// Smallest memory of a function; a kernel and an init need about 40 MiB.
pub(super) const MIN_MEM_SIZE_MIB: u32 = 128;
/// Largest memory of a function (10,240) and what the platform adds for the guest's kernel and init (256).
pub(super) const MAX_MEM_SIZE_MIB: u32 = 10_240 + 256;
/// Runtime, code, scratch and five layers.
pub(super) const MAX_DRIVES: usize = 8;
/// `COMMAND_LINE_SIZE` of Linux on x86 is 2048 with its zero byte.
const MAX_CMDLINE_LEN: usize = 2047;
/// Length of a virtio-blk serial, virtio 1.3 §5.2.6.
const MAX_DRIVE_ID_LEN: usize = 20;
/// 0 to 2 are the hypervisor, the loopback and the host (virtio 1.3 §5.10.4); all ones is "any".
const FIRST_GUEST_CID: u32 = 3;
const LAST_GUEST_CID: u32 = u32::MAX - 1;

/// Everything but the files themselves.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) vcpus: VcpuCount,
    pub(super) memory: MemSize,
    pub(super) kernel: Source,
    pub(super) initrd: Option<Source>,
    pub(super) cmdline: Cmdline,
    pub(super) drives: Vec<(DriveId, DriveConfig)>,
    pub(super) vsock: Option<VsockConfig>,
    pub(super) net: Option<NetConfig>,
    pub(super) entropy: bool,
    pub(super) serial: SerialConfig,
}

pub(super) fn refuse(field: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal { field: Some(field.into()), message: message.into() }
}

/// `fd_count` descriptors came with the request.
pub(super) fn check(wanted: MachineConfig, fd_count: usize) -> Result<Checked, Refusal> {
    let MachineConfig {
        vcpu_count,
        mem_size_mib,
        kernel,
        initrd,
        cmdline,
        drives,
        vsock,
        net,
        entropy,
        serial,
        allow_snapshots: _,
    } = wanted;
    let mut fds = Descriptors::new(fd_count);
    let vcpus = check_vcpus(vcpu_count)?;
    let memory = check_memory(mem_size_mib)?;
    fds.check_source("kernel", &kernel)?;
    if let Some(source) = &initrd {
        fds.check_source("initrd", source)?;
    }
    let cmdline = check_cmdline(cmdline)?;
    let drives = check_drives(drives, &mut fds)?;
    if let Some(vsock) = &vsock {
        check_vsock(vsock, &mut fds)?;
    }
    if let Some(net) = &net {
        check_net(net, &mut fds)?;
    }
    check_serial(&serial, &mut fds)?;
    Ok(Checked { vcpus, memory, kernel, initrd, cmdline, drives, vsock, net, entropy, serial })
}

/// Which descriptors have an owner already.
pub(super) struct Descriptors {
    count: usize,
    used: BTreeSet<usize>,
}

impl Descriptors {
    pub(super) fn new(count: usize) -> Self {
        Self { count, used: BTreeSet::new() }
    }

    fn claim(&mut self, field: &str, fd: usize) -> Result<(), Refusal> {
        if fd >= self.count {
            let count = self.count;
            return Err(refuse(field, format!("no descriptor {fd}: {count} came with the request")));
        }
        if !self.used.insert(fd) {
            return Err(refuse(field, format!("descriptor {fd} is used by another field already")));
        }
        Ok(())
    }

    /// Of a file.
    pub(super) fn check_source(&mut self, field: &str, source: &Source) -> Result<(), Refusal> {
        match source {
            Source::Chunks(_) | Source::Layered(_) => Err(refuse(field, "a file is wanted, not chunks")),
            Source::Fd(fd) => self.claim(&format!("{field}.fd"), *fd),
            Source::Path(path) if path.as_os_str().is_empty() => {
                Err(refuse(format!("{field}.path"), "empty path"))
            }
            Source::Path(_) => Ok(()),
        }
    }

    pub(super) fn check_grant(&mut self, field: &str, grant: &Grant) -> Result<(), Refusal> {
        let Grant { table, slots, asks } = *grant;
        let parts = [("table", table), ("slots", slots), ("asks", asks)];
        parts.into_iter().try_for_each(|(part, fd)| self.claim(&format!("{field}.{part}"), fd))
    }
}

pub(super) fn check_vcpus(count: u8) -> Result<VcpuCount, Refusal> {
    if (1..=MAX_VCPUS).contains(&count) {
        return Ok(VcpuCount(count));
    }
    Err(refuse("vcpu_count", format!("{count} vCPUs, expected 1 to {MAX_VCPUS}")))
}

pub(super) fn check_memory(mib: u32) -> Result<MemSize, Refusal> {
    if (MIN_MEM_SIZE_MIB..=MAX_MEM_SIZE_MIB).contains(&mib) {
        return Ok(MemSize { mib });
    }
    let message = format!("{mib} MiB of memory, expected {MIN_MEM_SIZE_MIB} to {MAX_MEM_SIZE_MIB}");
    Err(refuse("mem_size_mib", message))
}

fn check_cmdline(cmdline: String) -> Result<Cmdline, Refusal> {
    let len = cmdline.len();
    if len > MAX_CMDLINE_LEN {
        return Err(refuse("cmdline", format!("{len} bytes, at most {MAX_CMDLINE_LEN} fit")));
    }
    if let Some(at) = cmdline.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(refuse("cmdline", format!("byte {at} is not printable ASCII")));
    }
    Ok(Cmdline(cmdline))
}

pub(super) fn check_drives(
    drives: Vec<DriveConfig>,
    fds: &mut Descriptors,
) -> Result<Vec<(DriveId, DriveConfig)>, Refusal> {
    let count = drives.len();
    if count > MAX_DRIVES {
        return Err(refuse("drives", format!("{count} drives, at most {MAX_DRIVES}")));
    }
    let mut ids = BTreeSet::new();
    let mut checked = Vec::with_capacity(count);
    for (index, drive) in drives.into_iter().enumerate() {
        let field = format!("drives[{index}].id");
        let id = check_drive_id(&field, &drive.id)?;
        if !ids.insert(drive.id.clone()) {
            return Err(refuse(field, format!("drive id {:?} is used twice", drive.id)));
        }
        let field = format!("drives[{index}].source");
        match &drive.source {
            Source::Chunks(_) if drive.access != DriveAccess::ReadOnly => {
                return Err(refuse(field, "chunks are not written to"));
            }
            Source::Layered(_) if drive.access != DriveAccess::ReadWrite => {
                return Err(refuse(field, "a layer is there to be written to"));
            }
            Source::Chunks(grant) => fds.check_grant(&format!("{field}.chunks"), grant)?,
            Source::Layered(Layered { base, layer }) => {
                fds.check_grant(&format!("{field}.layered.base"), base)?;
                fds.claim(&format!("{field}.layered.layer"), *layer)?;
            }
            source => fds.check_source(&field, source)?,
        }
        checked.push((id, drive));
    }
    Ok(checked)
}

fn check_drive_id(field: &str, id: &str) -> Result<DriveId, Refusal> {
    let well_formed = (1..=MAX_DRIVE_ID_LEN).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if well_formed {
        return Ok(DriveId(id.to_owned()));
    }
    Err(refuse(
        field,
        format!("{id:?} is no drive id: 1 to {MAX_DRIVE_ID_LEN} of a-z, A-Z, 0-9, _ and - expected"),
    ))
}

pub(super) fn check_vsock(vsock: &VsockConfig, fds: &mut Descriptors) -> Result<(), Refusal> {
    let cid = vsock.guest_cid;
    if !(FIRST_GUEST_CID..=LAST_GUEST_CID).contains(&cid) {
        let message = format!("guest address {cid}, expected {FIRST_GUEST_CID} to {LAST_GUEST_CID}");
        return Err(refuse("vsock.guest_cid", message));
    }
    fds.claim("vsock.broker_fd", vsock.broker_fd)
}

pub(super) fn check_net(net: &NetConfig, fds: &mut Descriptors) -> Result<(), Refusal> {
    check_rate("net.receive", net.receive)?;
    check_rate("net.transmit", net.transmit)?;
    fds.claim("net.tap_fd", net.tap_fd)
}

fn check_rate(field: &str, rate: RateLimit) -> Result<(), Refusal> {
    let RateLimit { bytes_per_second: rate, burst_bytes: burst } = rate;
    if !(MIN_BYTES_PER_SECOND..=MAX_BYTES_PER_SECOND).contains(&rate) {
        let message =
            format!("{rate} bytes a second, expected {MIN_BYTES_PER_SECOND} to {MAX_BYTES_PER_SECOND}");
        return Err(refuse(format!("{field}.bytes_per_second"), message));
    }
    let least = MIN_BURST_BYTES.max(rate.div_ceil(1000) * MIN_BURST_MS);
    if !(least..=MAX_BURST_BYTES).contains(&burst) {
        let message = format!("a burst of {burst} bytes, expected {least} to {MAX_BURST_BYTES}");
        return Err(refuse(format!("{field}.burst_bytes"), message));
    }
    Ok(())
}

pub(super) fn check_serial(serial: &SerialConfig, fds: &mut Descriptors) -> Result<(), Refusal> {
    match serial {
        SerialConfig::Fd(fd) => fds.claim("serial.fd", *fd),
        SerialConfig::Null | SerialConfig::Stdout => Ok(()),
    }
}
