//! Socket device, virtio 1.3 §5.10: stream sockets between the guest and clients on the host.
//!
//! This file is the virtio side: queues in, queues out. Connections live in the muxer; they reach the host through a
//! [`Broker`]. Seqpacket and datagram sockets are not offered.

mod broker;
mod connection;
mod credit;
mod muxer;
mod packet;
mod state;
#[cfg(test)]
mod test_guest;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use snapshot::Persist;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

pub use self::broker::{Accepted, Broker, SocketBroker};
use self::muxer::Muxer;
pub use self::state::{VsockRestoreError, VsockState};
use crate::virtio::service::{Outcome, Served, come_back, new_kicks, serve};
use crate::{Activation, DeviceError, VirtioDevice};

/// Sizes of the queues rx, tx and event, virtio 1.3 §5.10.2.
///
/// Linux keeps rx filled with 4 KiB buffers: 128 take 512 KiB of guest memory and hold eight of the largest packets
/// of the other direction. The event queue takes one event in the device's life.
const QUEUE_SIZES: &[u16] = &[128, 128, 8];
/// Packets of each direction a wake-up: 64 packets of 64 KiB are 4 MiB. A guest's own may be longer, up to the credit of a
/// connection, 256 KiB: 16 MiB.
const WAKE_PACKETS: usize = 64;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, virtio 1.3 §5.10.6.7.
const EVENT_TRANSPORT_RESET: u32 = 0;

/// The socket device.
pub struct Vsock {
    // Glue.
    kicks: Vec<EventFd>,
    // Connections, with glue and address of their own.
    muxer: Muxer,
    // After a restore: the guest has connections that this process never saw.
    transport_reset_owed: bool,
    // From DRIVER_OK to reset.
    active: Option<Activation>,
}

impl Vsock {
    /// A device for a guest of this address (3 to 2^32 - 2).
    ///
    /// # Errors
    /// When no epoll or eventfd can be made or the broker's descriptor cannot be waited for.
    pub fn new(guest_cid: u32, broker: Box<dyn Broker>) -> io::Result<Self> {
        Ok(Self {
            kicks: new_kicks(QUEUE_SIZES.len())?,
            muxer: Muxer::new(guest_cid.into(), broker)?,
            transport_reset_owed: false,
            active: None,
        })
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    /// §5.10.3: without a socket type among the features, streams are meant.
    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::device::read_config_bytes(&self.muxer.guest_cid().to_le_bytes(), offset, data);
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn backend(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.readable())
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn reset(&mut self) {
        let Self { kicks: _, muxer, transport_reset_owed, active } = self;
        muxer.reset();
        *transport_reset_owed = false;
        *active = None;
    }

    fn activation(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn poll_backend(&mut self) -> Result<(), DeviceError> {
        self.muxer.poll().map_err(DeviceError::Backend)
    }

    /// What the guest sent, then what it gets; an answer leaves in the same wake-up as its question.
    fn process(&mut self) -> Result<(), DeviceError> {
        let Self { kicks, muxer, transport_reset_owed, active } = self;
        let Some(Activation { memory, queues, interrupt, .. }) = active else { return Ok(()) };
        let ([rx, tx, event], [rx_kick, tx_kick, _]) = (queues.as_mut_slice(), kicks.as_slice()) else {
            return Ok(());
        };
        if *transport_reset_owed {
            serve(event, memory, interrupt, 1, |buffers| {
                let len = buffers.writable.fill_from(&EVENT_TRANSPORT_RESET.to_le_bytes());
                *transport_reset_owed = false;
                Ok(Outcome::Used(u32::try_from(len).unwrap_or(0)))
            })?;
        }
        let sent = serve(tx, memory, interrupt, WAKE_PACKETS, |buffers| {
            if !muxer.can_take() {
                return Ok(Outcome::Keep);
            }
            muxer.take_packet(buffers.readable);
            Ok(Outcome::Used(0))
        })?;
        let blocked = !muxer.can_take();
        if muxer.has_packets() {
            let received = serve(rx, memory, interrupt, WAKE_PACKETS, |buffers| {
                Ok(muxer.put_packet(buffers.writable).map_or(Outcome::Keep, Outcome::Used))
            })?;
            if received == Served::Partly && muxer.has_packets() {
                come_back(rx_kick)?;
            }
        }
        if sent == Served::Partly || blocked && muxer.can_take() {
            come_back(tx_kick)?;
        }
        Ok(())
    }
}

impl Persist for Vsock {
    type State = VsockState;
    type Resources<'a> = Box<dyn Broker>;
    type Error = VsockRestoreError;

    /// Connections are not saved: their sockets cannot be. The restored guest is told that they are gone.
    fn save(&self) -> VsockState {
        let Self { kicks: _, muxer, transport_reset_owed: _, active: _ } = self;
        VsockState { guest_cid: muxer.guest_cid(), next_host_port: muxer.next_host_port() }
    }

    fn restore(broker: Box<dyn Broker>, state: &VsockState) -> Result<Self, VsockRestoreError> {
        let bad_cid = VsockRestoreError::GuestCid(state.guest_cid);
        let guest_cid = match u32::try_from(state.guest_cid) {
            Ok(cid) if cid > 2 && cid < u32::MAX => cid,
            _ => return Err(bad_cid),
        };
        let mut vsock = Self::new(guest_cid, broker)?;
        vsock.muxer.set_next_host_port(state.next_host_port);
        vsock.transport_reset_owed = true;
        Ok(vsock)
    }
}
