//! Whether the machine's kernel still answers: a machine that is stuck says nothing, keeps its clients' connections open and
//! would be waited for, for ever. A kernel answers the question for its hardware address (ARP, RFC 826) whatever its
//! programs do, so silence is the machine's and not that of a program in it.

use super::{MACHINE_ADDRESS, OUR_ADDRESS, OUR_HARDWARE_ADDRESS};
use smoltcp::phy::{Device, TxToken};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

/// Questions before a machine that answers none is given up.
const QUESTIONS: u32 = 12;

/// When the machine was heard and asked.
pub(super) struct Pulse {
    /// How long a machine may say nothing.
    patience: Duration,
    /// None until its first frame: one that boots has no network yet.
    heard: Option<Instant>,
    asked: Instant,
}

impl Pulse {
    pub(super) fn new(patience: Duration) -> Pulse {
        Pulse { patience, heard: None, asked: Instant::ZERO }
    }

    /// The machine sent something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// Asks when it is time to; whether the machine has been silent for too long.
    pub(super) fn check(&mut self, now: Instant, card: &mut impl Device) -> bool {
        let Some(heard) = self.heard else { return false };
        if now >= heard + self.patience {
            return true;
        }
        if now >= self.due(heard)
            && let Some(room) = card.transmit(now)
        {
            self.asked = now;
            ask(room);
        }
        false
    }

    /// How long [`Pulse::check`] has nothing to do.
    pub(super) fn delay(&self, now: Instant) -> Option<Duration> {
        let due = self.due(self.heard?);
        Some(if due > now { due - now } else { Duration::ZERO })
    }

    fn due(&self, heard: Instant) -> Instant {
        heard.max(self.asked) + self.patience / QUESTIONS
    }
}

/// Sends the question.
fn ask(room: impl TxToken) {
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: OUR_HARDWARE_ADDRESS,
        source_protocol_addr: OUR_ADDRESS,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: MACHINE_ADDRESS,
    };
    let header = EthernetRepr {
        src_addr: OUR_HARDWARE_ADDRESS,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    room.consume(EthernetFrame::<&[u8]>::buffer_len(question.buffer_len()), |frame| {
        let mut frame = EthernetFrame::new_unchecked(frame);
        header.emit(&mut frame);
        question.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
}
