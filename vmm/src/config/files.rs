//! The descriptors of snapshot requests, checked and taken. These requests come to processes that are confined, or about to
//! be, and that open nothing: a path is refused.

use std::fs::File;
use std::os::fd::OwnedFd;

use chunk_store::{Kind, Reader};
use vmm_api::{
    DriveAccess, LoadConfig, MAX_IDENTITIES, MAX_IDENTITY_LEN, Refusal, Shape, SnapshotConfig, Source,
};

use super::check::{self, Descriptors, refuse};
use super::open::{self, Received};
use super::{MemSize, VcpuCount};
use crate::machine::Connections;

/// What a snapshot to load is in, and what its machine is connected to.
#[derive(Debug)]
pub(crate) struct LoadFiles {
    /// Readable.
    pub state: File,
    /// Of that kind.
    pub memory: Reader,
    /// Of that kind.
    pub prefetch: Option<Reader>,
    /// Drives, sockets, console.
    pub connections: Connections,
}

/// Files to write a snapshot to.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    /// Readable and writable.
    pub state: File,
    /// Readable and writable.
    pub memory: File,
}

/// # Errors
/// As for the same fields of a configuration.
pub(crate) fn check_shape(shape: Shape) -> Result<(VcpuCount, MemSize), Refusal> {
    Ok((check::check_vcpus(shape.vcpu_count)?, check::check_memory(shape.mem_size_mib)?))
}

impl LoadFiles {
    /// # Errors
    /// The first field that is wrong.
    pub(crate) fn new(wanted: &LoadConfig, fds: Vec<OwnedFd>) -> Result<Self, Refusal> {
        let mut descriptors = Descriptors::new(fds.len());
        let sources = wanted.drives.iter().map(|drive| &drive.source);
        sources.chain([&wanted.state]).try_for_each(require_descriptor)?;
        descriptors.check_source("state", &wanted.state)?;
        descriptors.check_grant("memory", &wanted.memory)?;
        if let Some(prefetch) = &wanted.prefetch {
            descriptors.check_grant("prefetch", prefetch)?;
        }
        let drives = check::check_drives(wanted.drives.clone(), &mut descriptors)?;
        if let Some(vsock) = &wanted.vsock {
            check::check_vsock(vsock, &mut descriptors)?;
        }
        if let Some(net) = &wanted.net {
            check::check_net(net, &mut descriptors)?;
        }
        check::check_serial(&wanted.serial, &mut descriptors)?;
        let mut fds = Received::new(fds);
        let state = fds.open("state", wanted.state.clone(), DriveAccess::ReadOnly)?;
        let memory = fds.open_grant("memory", wanted.memory, &[Kind::Memory])?;
        let prefetch =
            wanted.prefetch.map(|grant| fds.open_grant("prefetch", grant, &[Kind::Prefetch])).transpose()?;
        Ok(Self {
            state,
            memory,
            prefetch,
            connections: Connections {
                generation: wanted.generation,
                drives: open::open_drives(&mut fds, drives)?,
                vsock: wanted.vsock.as_ref().map(|vsock| open::take_broker(&mut fds, vsock)).transpose()?,
                net: wanted.net.as_ref().map(|net| open::take_tap(&mut fds, net)).transpose()?,
                serial: open::open_serial(&mut fds, wanted.serial.clone())?,
            },
        })
    }
}

impl SnapshotFiles {
    /// # Errors
    /// The first field that is wrong.
    pub(crate) fn new(wanted: &SnapshotConfig, fds: Vec<OwnedFd>) -> Result<Self, Refusal> {
        let mut descriptors = Descriptors::new(fds.len());
        for (field, source) in [("state", &wanted.state), ("memory", &wanted.memory)] {
            require_descriptor(source)?;
            descriptors.check_source(field, source)?;
        }
        let entries = &wanted.identity.0;
        let fits = |text: &String| text.len() <= MAX_IDENTITY_LEN;
        if entries.len() > MAX_IDENTITIES || !entries.iter().all(|(name, value)| fits(name) && fits(value)) {
            let message = format!("at most {MAX_IDENTITIES} entries of {MAX_IDENTITY_LEN} bytes each");
            return Err(refuse("identity", message));
        }
        let mut fds = Received::new(fds);
        Ok(Self {
            state: fds.open("state", wanted.state.clone(), DriveAccess::ReadWrite)?,
            memory: fds.open("memory", wanted.memory.clone(), DriveAccess::ReadWrite)?,
        })
    }
}

fn require_descriptor(source: &Source) -> Result<(), Refusal> {
    match source {
        Source::Fd(_) | Source::Chunks(_) | Source::Layered(_) => Ok(()),
        Source::Path(path) => {
            let path = path.display();
            Err(Refusal {
                field: None,
                message: format!("{path} cannot be opened here: a descriptor is wanted"),
            })
        }
    }
}
