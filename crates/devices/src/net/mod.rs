//! Network device, virtio 1.3 §5.1: one queue each way, frames copied between the guest and a [`Link`].
//!
//! Offered is what a link needs and nothing that saves work: no checksums and no segmentation by the host, for which what a
//! guest writes before its frames would be parsed by the host's kernel; no buffers that are merged, whose number and lengths the
//! device would have to keep account of; no control queue, by which a guest sets filters; no second pair of queues. A guest thus
//! cuts and sums its own frames, on its own time, and nothing of it but whole frames of at most 1,514 bytes goes on.
//!
//! A device may have no uplink: its link is down, and what the guest sends is dropped. So a machine that was saved with one can
//! go on without, and the other way round.

mod link;
mod port;
mod rate;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use snapshot::Persist;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

pub use self::link::{Link, Uplink};
use self::port::{Passage, Port};
pub use self::rate::RateLimit;
pub use self::state::{NetRestoreError, NetState};
use crate::virtio::service::{Outcome, Served, come_back, new_kicks, serve};
use crate::{Activation, DeviceError, VirtioDevice};

/// Longest frame, bytes: an Ethernet header and a packet of 1,500. Longer ones do not pass.
pub const MAX_FRAME_LEN: usize = 1514;
/// Shortest frame, bytes: an Ethernet header. Taps do not fill up to what a wire needs.
const MIN_FRAME_LEN: usize = 14;
/// Where a frame says who sent it.
const SOURCE_MAC: Range<usize> = 6..12;
/// Length of what is before each frame in a buffer, virtio 1.3 §5.1.6.
const HEADER_LEN: usize = 12;
/// Sizes of the queues for receiving and for sending, virtio 1.3 §5.1.2.
///
/// Linux keeps the first one filled, with 1.5 KiB a buffer, which are part of every snapshot: 64 are what a wake-up moves, and a
/// tap keeps 500 more.
const QUEUE_SIZES: &[u16] = &[64, 64];
/// Frames of each direction a wake-up: 95 KiB are copied.
const WAKE_FRAMES: usize = 64;

/// The network device.
pub struct Net {
    // Glue.
    kicks: Vec<EventFd>,
    // The host's side, with glue of its own.
    port: Option<Port>,
    // Fixed.
    mac: [u8; 6],
    // From DRIVER_OK to reset.
    active: Option<Activation>,
}

impl Net {
    /// A device for a guest of this Ethernet address.
    ///
    /// # Errors
    /// When no epoll, timer or eventfd can be made, or the link's descriptor cannot be waited for.
    pub fn new(mac: [u8; 6], uplink: Option<Uplink>) -> io::Result<Self> {
        let port = uplink.map(Port::new).transpose()?;
        Ok(Self { kicks: new_kicks(QUEUE_SIZES.len())?, port, mac, active: None })
    }

    /// What the guest is told of its link.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.port.as_ref().is_some_and(Port::is_up)
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    /// §5.1.4: the address, then the link's status.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d, e, f] = self.mac;
        let status = if self.link_is_up() { VIRTIO_NET_S_LINK_UP as u8 } else { 0 };
        crate::virtio::device::read_config_bytes(&[a, b, c, d, e, f, status, 0], offset, data);
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn backend(&self) -> Option<BorrowedFd<'_>> {
        self.port.as_ref().map(Port::readable)
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    /// The port stays: what it knows is of the host alone.
    fn reset(&mut self) {
        let Self { kicks: _, port: _, mac: _, active } = self;
        *active = None;
    }

    fn activation(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn poll_backend(&mut self) -> Result<(), DeviceError> {
        self.port.as_mut().map_or(Ok(()), Port::poll).map_err(DeviceError::Backend)
    }

    fn process(&mut self) -> Result<(), DeviceError> {
        let Self { kicks, port, mac, active } = self;
        let Some(Activation { memory, queues, interrupt, .. }) = active else { return Ok(()) };
        let ([receive, transmit], [receive_kick, transmit_kick]) = (queues.as_mut_slice(), kicks.as_slice())
        else {
            return Ok(());
        };
        let now = Instant::now();
        let sent = serve(transmit, memory, interrupt, WAKE_FRAMES, |buffers| {
            let passage =
                port.as_mut().map_or(Passage::Over(0), |port| port.send(buffers.readable, *mac, now));
            Ok(outcome(passage))
        })?;
        if sent == Served::Partly {
            come_back(transmit_kick)?;
        }
        let Some(port) = port.as_mut().filter(|port| port.is_up()) else { return Ok(()) };
        if port.frames_wait() {
            let received = serve(receive, memory, interrupt, WAKE_FRAMES, |buffers| {
                Ok(outcome(port.receive(&buffers.writable, now)))
            })?;
            if received == Served::Partly && port.frames_wait() {
                come_back(receive_kick)?;
            }
        }
        if !port.is_up() {
            // §5.1.4.2. The field is one that is read at once, so that its generation need not change.
            interrupt.signal_config().map_err(DeviceError::Notify)?;
        }
        port.set_alarm(now).map_err(DeviceError::Backend)
    }
}

fn outcome(passage: Passage) -> Outcome {
    match passage {
        Passage::Over(filled) => Outcome::Used(u32::try_from(filled).unwrap_or(0)),
        Passage::NotNow => Outcome::Keep,
    }
}

impl Persist for Net {
    type State = NetState;
    type Resources<'a> = ([u8; 6], Option<Uplink>);
    type Error = NetRestoreError;

    /// Tokens are not saved: the limits are those of the next host.
    fn save(&self) -> NetState {
        let Self { kicks: _, port: _, mac, active: _ } = self;
        NetState { mac: *mac, link_up: self.link_is_up() }
    }

    /// The uplink may be another one, or none. Who restores the transport then tells the driver with
    /// [`MmioTransport::change_config`](crate::MmioTransport::change_config) when the link's status is not the saved one.
    fn restore((mac, uplink): Self::Resources<'_>, state: &NetState) -> Result<Self, NetRestoreError> {
        if state.mac != mac {
            return Err(NetRestoreError::Mac(state.mac));
        }
        Ok(Self::new(mac, uplink)?)
    }
}
