//! A descriptor chain, checked as a whole before a device looks at it.
//!
//! `virtio-queue` walks the descriptors and bounds loops; its iterator ends silently at a bad descriptor. Here a chain
//! that ends early, leaves guest memory, mixes directions or is longer than the queue is an error of the driver.

use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, Permissions};

use super::segments::Segments;
use crate::Memory;

/// The buffers of one chain.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// What the driver wrote.
    pub(crate) readable: Segments<'m>,
    /// What the device fills.
    pub(crate) writable: Segments<'m>,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No first descriptor.
    #[error("descriptor chain is empty")]
    Empty,
    /// A descriptor says that another follows, and none that can be read does.
    #[error("descriptor chain is broken or loops")]
    Broken,
    /// virtio 1.3 §2.7.5.3.1: a chain has no more descriptors than its queue, indirect ones included.
    #[error("descriptor chain is longer than its queue")]
    TooLong,
    /// virtio 1.3 §2.7.4.2: device-readable descriptors come first.
    #[error("descriptor chain has a device-readable descriptor after a device-writable one")]
    Order,
    /// A descriptor points outside of guest memory.
    #[error("descriptor of {len:#x} bytes at {address:#x} is outside of guest memory")]
    Outside {
        /// Guest address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
}

impl<'m> Buffers<'m> {
    /// Walks a chain of a queue of `queue_size` entries.
    pub(crate) fn of(
        memory: &'m Memory,
        chain: DescriptorChain<&'m Memory>,
        queue_size: u16,
    ) -> Result<Self, ChainError> {
        let mut buffers = Self { readable: Segments::default(), writable: Segments::default() };
        let mut last: Option<Descriptor> = None;
        for (index, descriptor) in chain.enumerate() {
            if index >= usize::from(queue_size) {
                return Err(ChainError::TooLong);
            }
            let after_writable = last.is_some_and(|last| last.is_write_only());
            let (half, access) = if descriptor.is_write_only() {
                (&mut buffers.writable, Permissions::Write)
            } else if after_writable {
                return Err(ChainError::Order);
            } else {
                (&mut buffers.readable, Permissions::Read)
            };
            let outside = ChainError::Outside { address: descriptor.addr().0, len: descriptor.len() };
            let len = usize::try_from(descriptor.len()).map_err(|_| outside)?;
            for piece in memory.get_slices(descriptor.addr(), len, access).map_err(|_| outside)? {
                half.push(piece.map_err(|_| outside)?);
            }
            last = Some(descriptor);
        }
        match last {
            None => Err(ChainError::Empty),
            Some(last) if last.has_next() => Err(ChainError::Broken),
            Some(_) => Ok(buffers),
        }
    }
}
