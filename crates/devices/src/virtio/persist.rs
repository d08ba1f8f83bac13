//! Saving a transport, and restoring one from a state that may be hostile.
//!
//! The VMM has stopped the vCPUs and the I/O thread before either.

use snapshot::Persist;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK,
};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::{Queue, QueueT};

use super::mmio::{Registers, STATUS_PATH, acceptable, lock};
use super::state::{QueueState, RestoreError, TransportState};
use crate::{MmioTransport, TransportResources};

impl Persist for MmioTransport {
    type State = TransportState;
    type Resources<'a> = TransportResources;
    type Error = RestoreError;

    /// The VMM has stopped the vCPUs and the I/O thread.
    fn save(&self) -> TransportState {
        let Self { device, memory: _, interrupt, kicks: _, device_id, offered_features: _, registers } = self;
        let Registers {
            status,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            config_generation,
            queue_fault,
            queues,
        } = registers;
        let device = lock(device);
        let queues = if device.queues().is_empty() { queues.as_slice() } else { device.queues() };
        TransportState {
            device_id: *device_id,
            status: *status,
            needs_reset: interrupt.needs_reset(),
            interrupt_status: interrupt.status(),
            device_features_sel: *device_features_sel,
            driver_features_sel: *driver_features_sel,
            driver_features: *driver_features,
            queue_sel: *queue_sel,
            config_generation: *config_generation,
            queue_fault: *queue_fault,
            queues: queues.iter().map(QueueState::of).collect(),
        }
    }

    fn restore(resources: TransportResources, state: &TransportState) -> Result<Self, RestoreError> {
        let mut transport = Self::new(resources).map_err(|_| RestoreError::Eventfd)?;
        if state.device_id != transport.device_id {
            return Err(RestoreError::DeviceId { state: state.device_id, device: transport.device_id });
        }
        if !STATUS_PATH.contains(&(state.status & !FAILED)) {
            return Err(RestoreError::Status(state.status));
        }
        if state.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0 {
            return Err(RestoreError::InterruptStatus(state.interrupt_status));
        }
        let negotiated = state.status & FEATURES_OK != 0;
        if negotiated && !acceptable(state.driver_features, transport.offered_features) {
            return Err(RestoreError::Features(state.driver_features));
        }
        let offered = lock(&transport.device).queue_sizes();
        if state.queues.len() != offered.len() {
            return Err(RestoreError::QueueCount { state: state.queues.len(), device: offered.len() });
        }
        let mut queues = Vec::with_capacity(offered.len());
        for (index, (queue, &max_size)) in state.queues.iter().zip(offered).enumerate() {
            queues.push(queue.restore(index, max_size, &transport.memory)?);
        }
        let runs = state.status & DRIVER_OK != 0 && !state.needs_reset;
        if let Some(index) = queues.iter().position(|queue| runs && !queue.ready()) {
            return Err(RestoreError::Queue { index });
        }
        transport.interrupt.set(state.interrupt_status, state.needs_reset);
        let mut held = Vec::with_capacity(queues.len());
        for (index, queue) in queues.iter().enumerate() {
            held.push(Queue::try_from(queue.state()).map_err(|_| RestoreError::Queue { index })?);
        }
        transport.registers = Registers {
            status: state.status,
            device_features_sel: state.device_features_sel,
            driver_features_sel: state.driver_features_sel,
            driver_features: state.driver_features,
            queue_sel: state.queue_sel,
            config_generation: state.config_generation,
            queue_fault: state.queue_fault,
            queues: held,
        };
        if runs {
            transport.hand_over(queues);
        }
        Ok(transport)
    }
}
