//! Block device, virtio 1.3 §5.2: one queue, requests done in order on the I/O thread.
//!
//! Its bytes are a [`Storage`]'s: a file, or whatever else `vmm` has. The length at the start is the capacity.

mod request;
mod state;
mod storage;
#[cfg(test)]
mod tests;

use std::io;

use snapshot::Persist;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

pub use self::state::{BlockRestoreError, BlockState};
pub use self::storage::Storage;
use crate::virtio::chain::Buffers;
use crate::virtio::segments::Segments;
use crate::virtio::service::{Outcome, Served, come_back, new_kicks, serve};
use crate::{Activation, DeviceError, VirtioDevice};
use request::{Header, Kind, Status};

/// Unit of addresses and lengths, virtio 1.3 §5.2.5.
const SECTOR: u64 = 512;
/// Length of the answer to GET_ID, virtio 1.3 §5.2.6.
const ID_LEN: usize = 20;
/// Linux fills a request of 254 pages (1 MiB) into one such queue; the rings take 6 KiB of guest memory.
const QUEUE_SIZE: u16 = 256;
/// Data descriptors a request: all of a queue but header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Logical block size told to the guest.
const BLOCK_SIZE: u32 = 512;
/// Longest data of one request. Linux splits at 1.25 MiB unless told otherwise; one request is one piece of work that
/// nothing interrupts, so a chain of overlapping descriptors must not make it 4 GiB.
const REQUEST_DATA_MAX: u64 = 16 << 20;
/// Requests a wake-up, and bytes after which it ends: other devices share the thread.
const WAKE_REQUESTS: usize = 64;
const WAKE_BYTES: u64 = 4 << 20;
/// What a flush counts for, in bytes: the thread waits for the host's disk, which may take milliseconds. So a wake-up has four.
const FLUSH_BYTES: u64 = WAKE_BYTES / 4;

/// Whether the guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// VIRTIO_BLK_F_RO is offered and writes fail.
    ReadOnly,
    /// Writes reach the storage; VIRTIO_BLK_F_FLUSH is offered.
    ReadWrite,
}

/// A drive's name: 1 to 20 bytes of `[a-zA-Z0-9_-]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveId([u8; ID_LEN]);

impl TryFrom<&str> for DriveId {
    type Error = BlockError;

    fn try_from(name: &str) -> Result<Self, BlockError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let mut id = [0; ID_LEN];
        match id.get_mut(..name.len()) {
            Some(front) if !front.is_empty() && name.bytes().all(allowed) => {
                front.copy_from_slice(name.as_bytes());
                Ok(Self(id))
            }
            _ => Err(BlockError::Id(name.to_owned())),
        }
    }
}

/// Why a block device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The name is not one.
    #[error("drive id {0:?} is not 1 to 20 bytes of [a-zA-Z0-9_-]")]
    Id(String),
    /// The length is not whole sectors.
    #[error("drive image of {0} bytes is not whole sectors of 512 bytes")]
    Length(u64),
    /// The length could not be read, or no eventfd be made.
    #[error("could not set up the drive")]
    Io(#[from] io::Error),
}

/// The block device.
#[derive(Debug)]
pub struct Block {
    // Glue.
    kicks: Vec<EventFd>,
    // Fixed.
    disk: Disk,
    // From DRIVER_OK to reset.
    active: Option<Activation>,
}

/// The storage and what the guest knows about it.
#[derive(Debug)]
struct Disk {
    id: DriveId,
    storage: Box<dyn Storage>,
    access: Access,
    sectors: u64,
}

/// What a request came to.
struct Done {
    /// Bytes of its writable half that were written.
    used: u32,
    /// Bytes of a wake-up's budget that it took.
    cost: u64,
}

impl Block {
    /// Capacity in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.disk.sectors
    }

    /// A device over all of `storage`, which can do what `access` says.
    ///
    /// # Errors
    /// When it is not whole sectors.
    pub fn new(id: DriveId, mut storage: Box<dyn Storage>, access: Access) -> Result<Self, BlockError> {
        let len = storage.length()?;
        if !len.is_multiple_of(SECTOR) {
            return Err(BlockError::Length(len));
        }
        let disk = Disk { id, storage, access, sectors: len / SECTOR };
        Ok(Self { kicks: new_kicks(1)?, disk, active: None })
    }
}

impl Disk {
    /// Does one request.
    fn serve(&mut self, buffers: Buffers<'_>) -> Done {
        let Buffers { readable, writable: mut data_in } = buffers;
        let moved = (readable.len() + data_in.len()) as u64;
        // §5.2.6: the last writable byte is the status. Without one there is nowhere to answer.
        let Some(status_at) = data_in.len().checked_sub(1) else { return Done { used: 0, cost: moved } };
        let Some(status_byte) = data_in.split_off(status_at) else { return Done { used: 0, cost: moved } };
        let (status, written, cost) = match Header::take(readable) {
            Some((header, data_out)) => {
                let cost = if header.kind == Kind::Flush { FLUSH_BYTES } else { moved };
                let (status, written) = self.execute(&header, data_out, data_in);
                (status, written, cost)
            }
            None => (Status::IoError, 0, moved),
        };
        status_byte.fill_from(&[status as u8]);
        // §2.7.8: how much was written. After a failure the data is undefined and only the status counts.
        let used = match status {
            Status::Ok if written == status_at => u32::try_from(written + 1).unwrap_or(u32::MAX),
            _ => 1,
        };
        Done { used, cost }
    }

    /// Returns the status and how many bytes of `data_in` were filled.
    fn execute(&mut self, header: &Header, data_out: Segments<'_>, data_in: Segments<'_>) -> (Status, usize) {
        let room = data_in.len();
        match header.kind {
            Kind::In => match self.extent(header.sector, room) {
                Some(at) if data_out.is_empty() => done(self.storage.read(at, data_in), room),
                _ => (Status::IoError, 0),
            },
            Kind::Out => match self.extent(header.sector, data_out.len()) {
                Some(at) if self.access == Access::ReadWrite => done(self.storage.write(at, data_out), 0),
                _ => (Status::IoError, 0),
            },
            Kind::Flush => match self.access {
                Access::ReadWrite => done(self.storage.flush(), 0),
                Access::ReadOnly => (Status::Unsupported, 0),
            },
            // §5.2.6: 20 bytes, zero-padded; a driver may ask for more room than that, not for less.
            Kind::GetId if room >= ID_LEN => (Status::Ok, data_in.fill_from(&self.id.0)),
            Kind::GetId => (Status::IoError, 0),
            Kind::Other => (Status::Unsupported, 0),
        }
    }

    /// Where in the storage `len` bytes from `sector` are; none when they are no whole sectors of this disk.
    fn extent(&self, sector: u64, len: usize) -> Option<u64> {
        let len =
            u64::try_from(len).ok().filter(|&len| len.is_multiple_of(SECTOR) && len <= REQUEST_DATA_MAX)?;
        let end = sector.checked_add(len / SECTOR)?;
        (end <= self.sectors).then(|| sector * SECTOR)
    }
}

fn done(result: io::Result<()>, written: usize) -> (Status, usize) {
    match result {
        Ok(()) => (Status::Ok, written),
        Err(_) => (Status::IoError, 0),
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let by_access = match self.disk.access {
            Access::ReadOnly => 1 << VIRTIO_BLK_F_RO,
            Access::ReadWrite => 1 << VIRTIO_BLK_F_FLUSH,
        };
        by_access
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        request::read_config(self.disk.sectors, offset, data);
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn reset(&mut self) {
        let Self { kicks: _, disk: _, active } = self;
        *active = None;
    }

    fn activation(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Self { kicks, disk, active } = self;
        let (Some(kick), Some(Activation { memory, queues, interrupt, .. })) = (kicks.first(), active) else {
            return Ok(());
        };
        let Some(queue) = queues.first_mut() else { return Ok(()) };
        let mut budget = WAKE_BYTES;
        let served = serve(queue, memory, interrupt, WAKE_REQUESTS, |buffers| {
            let Done { used, cost } = disk.serve(buffers);
            budget = budget.saturating_sub(cost);
            Ok(if budget == 0 { Outcome::UsedLast(used) } else { Outcome::Used(used) })
        })?;
        if served == Served::Partly {
            come_back(kick)?;
        }
        Ok(())
    }
}

impl Persist for Block {
    type State = BlockState;
    type Resources<'a> = (DriveId, Box<dyn Storage>, Access);
    type Error = BlockRestoreError;

    fn save(&self) -> BlockState {
        let Self { kicks: _, disk: Disk { id, storage: _, access, sectors }, active: _ } = self;
        BlockState { id: id.0, read_only: *access == Access::ReadOnly, sectors: *sectors }
    }

    /// The storage may be another one. Its capacity may differ from the saved one; who restores the transport then tells the
    /// driver with [`MmioTransport::change_config`](crate::MmioTransport::change_config).
    fn restore(
        (id, storage, access): (DriveId, Box<dyn Storage>, Access),
        state: &BlockState,
    ) -> Result<Self, Self::Error> {
        if id.0 != state.id || (access == Access::ReadOnly) != state.read_only {
            return Err(BlockRestoreError::Mismatch);
        }
        Ok(Self::new(id, storage, access)?)
    }
}
