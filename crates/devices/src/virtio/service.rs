//! The loop every queue is served by: take chains, hand each to the device, give it back, interrupt once.

use std::io;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Buffers, ChainError};
use crate::{DeviceInterrupt, Memory};

/// Why a device stopped and asked for a reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The rings make no sense.
    #[error("virtqueue cannot be used")]
    Ring(#[from] virtio_queue::Error),
    /// A chain makes no sense.
    #[error("driver made a chain that cannot be")]
    Chain(#[from] ChainError),
    /// The interrupt or an eventfd failed.
    #[error("notification failed")]
    Notify(#[source] io::Error),
    /// The host side failed.
    #[error("backend failed")]
    Backend(#[source] io::Error),
}

/// Whether a queue may hold more than was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Empty, and the driver will notify.
    All,
    /// The budget ran out: the caller comes back by itself.
    Partly,
}

/// What the device did with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done: this many bytes were written to its writable half.
    Used(u32),
    /// Done, and that was enough for this wake-up.
    UsedLast(u32),
    /// Not now: the chain stays available, and the caller comes back when something changes.
    Keep,
}

/// Serves up to `limit` chains.
pub(crate) fn serve<'m>(
    queue: &mut Queue,
    memory: &'m Memory,
    interrupt: &DeviceInterrupt,
    limit: usize,
    mut each: impl FnMut(Buffers<'m>) -> Result<Outcome, DeviceError>,
) -> Result<Served, DeviceError> {
    let mut used = false;
    let result = serve_quietly(queue, memory, limit, &mut used, &mut each);
    if used && queue.needs_notification(memory)? {
        interrupt.signal_used().map_err(DeviceError::Notify)?;
    }
    result
}

fn serve_quietly<'m>(
    queue: &mut Queue,
    memory: &'m Memory,
    limit: usize,
    used: &mut bool,
    each: &mut impl FnMut(Buffers<'m>) -> Result<Outcome, DeviceError>,
) -> Result<Served, DeviceError> {
    queue.disable_notification(memory)?;
    let size = queue.size();
    for _ in 0..limit {
        let Some(chain) = queue.iter(memory)?.next() else {
            // A driver that added a chain just before it saw notifications enabled is served in the next round.
            if queue.enable_notification(memory)? {
                queue.disable_notification(memory)?;
                continue;
            }
            return Ok(Served::All);
        };
        let head = chain.head_index();
        let outcome = each(Buffers::of(memory, chain, size)?)?;
        let (Outcome::Used(len) | Outcome::UsedLast(len)) = outcome else {
            queue.iter(memory)?.go_to_previous_position();
            // Notifications stay off: the device knows when it wants the chain.
            return Ok(Served::All);
        };
        queue.add_used(memory, head, len)?;
        *used = true;
        if matches!(outcome, Outcome::UsedLast(_)) {
            break;
        }
    }
    Ok(Served::Partly)
}

/// New eventfds for `count` queues.
pub(crate) fn new_kicks(count: usize) -> io::Result<Vec<EventFd>> {
    (0..count).map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)).collect()
}

/// Consumes the notification, so that the descriptor is readable again only for a new one.
pub(crate) fn consume(kick: &EventFd) -> Result<(), DeviceError> {
    match kick.read() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(DeviceError::Notify(error)),
    }
}

/// Makes the I/O thread come back to this queue after the other devices had their turn.
pub(crate) fn come_back(kick: &EventFd) -> Result<(), DeviceError> {
    kick.write(1).map_err(DeviceError::Notify)
}
