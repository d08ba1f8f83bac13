//! Saved form of a transport and its queues. Plain data; `mmio.rs` checks it on the way back.

use serde::{Deserialize, Serialize};
use snapshot::SavedState;
use virtio_queue::{Queue, QueueT};

use crate::Memory;

/// A saved [`MmioTransport`](crate::MmioTransport).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Device type that the state belongs to.
    pub device_id: u32,
    /// Status register without DEVICE_NEEDS_RESET.
    pub status: u32,
    /// DEVICE_NEEDS_RESET.
    pub needs_reset: bool,
    /// InterruptStatus register.
    pub interrupt_status: u32,
    /// DeviceFeaturesSel register.
    pub device_features_sel: u32,
    /// DriverFeaturesSel register.
    pub driver_features_sel: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// QueueSel register.
    pub queue_sel: u32,
    /// ConfigGeneration register.
    pub config_generation: u32,
    /// Whether the driver wrote a queue size or address that cannot be.
    pub queue_fault: bool,
    /// All queues.
    pub queues: Vec<QueueState>,
}

impl SavedState for TransportState {
    const NAME: &'static str = "virtio-mmio";
    const VERSION: u32 = 1;
}

/// A saved split virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Largest size that the device offers.
    pub max_size: u16,
    /// Size that the driver chose.
    pub size: u16,
    /// Whether the driver enabled it.
    pub ready: bool,
    /// Whether event indices were negotiated.
    pub event_idx: bool,
    /// Next available entry.
    pub next_avail: u16,
    /// Next used entry.
    pub next_used: u16,
    /// Guest address of the descriptor table.
    pub desc_table: u64,
    /// Guest address of the available ring.
    pub avail_ring: u64,
    /// Guest address of the used ring.
    pub used_ring: u64,
}

impl QueueState {
    pub(crate) fn of(queue: &Queue) -> Self {
        let virtio_queue::QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = queue.state();
        Self {
            max_size,
            size,
            ready,
            event_idx: event_idx_enabled,
            next_avail,
            next_used,
            desc_table,
            avail_ring,
            used_ring,
        }
    }

    /// Builds the queue again; `max_size` is what the device offers, so a state cannot choose it.
    pub(crate) fn restore(
        &self,
        index: usize,
        max_size: u16,
        memory: &Memory,
    ) -> Result<Queue, RestoreError> {
        let bad = RestoreError::Queue { index };
        if self.max_size != max_size {
            return Err(bad);
        }
        let queue = Queue::try_from(virtio_queue::QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        })
        .map_err(|_| RestoreError::Queue { index })?;
        if queue.ready() && !queue.is_valid(memory) {
            return Err(bad);
        }
        Ok(queue)
    }
}

/// Why a saved transport was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It was saved from another kind of device.
    #[error("state is of virtio device type {state}, the device is of type {device}")]
    DeviceId {
        /// Type in the state.
        state: u32,
        /// Type of the device.
        device: u32,
    },
    /// The status register cannot hold that.
    #[error("virtio status {0:#x} is none that a driver can reach")]
    Status(u32),
    /// The interrupt status register cannot hold that.
    #[error("interrupt status {0:#x} has unknown bits")]
    InterruptStatus(u32),
    /// The driver cannot have accepted these.
    #[error("accepted features {0:#x} are not all offered")]
    Features(u64),
    /// Another number of queues than the device has.
    #[error("state has {state} queues, the device has {device}")]
    QueueCount {
        /// Queues in the state.
        state: usize,
        /// Queues of the device.
        device: usize,
    },
    /// A queue with sizes or addresses that cannot be.
    #[error("state of queue {index} is not valid")]
    Queue {
        /// Which.
        index: usize,
    },
    /// The eventfds of the device could not be shared or used.
    #[error("could not duplicate or use an eventfd")]
    Eventfd,
}
