//! What all virtio devices share: the device contract, the mmio transport, chains of guest buffers, saved queues.

pub(crate) mod chain;
pub(crate) mod device;
#[cfg(test)]
mod hostile;
pub(crate) mod mmio;
mod persist;
pub(crate) mod registers;
pub(crate) mod segments;
pub(crate) mod service;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod test_driver;
