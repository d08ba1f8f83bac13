//! Credit-based flow control of one connection, virtio 1.3 §5.10.6.3. Pure: counters in, decisions out.
//!
//! All counters are free-running and wrap at 2^32, as in the packets.

use std::num::Wrapping;

/// Bytes that a guest may have under way to the host on one connection, and so the most this process buffers for one
/// whose client does not read. Four of Linux's largest packets (64 KiB): the guest fills the next while one drains.
pub(crate) const BUF_ALLOC: u32 = 256 * 1024;

/// The guest is told of room unasked when it has used half of what it knows of.
const UPDATE_BELOW: u32 = BUF_ALLOC / 2;

/// Both directions of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credit {
    /// Bytes taken from the guest.
    received: Wrapping<u32>,
    /// Of these, bytes that the client's socket took.
    forwarded: Wrapping<u32>,
    /// What the guest was last told of `forwarded`.
    told: Wrapping<u32>,
    /// Bytes given to the guest.
    sent: Wrapping<u32>,
    /// The guest's word about its buffer and what it has consumed.
    peer_buf_alloc: u32,
    peer_fwd_cnt: Wrapping<u32>,
}

impl Credit {
    /// Takes the guest's word, which comes with every packet.
    pub(crate) fn learn(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = Wrapping(fwd_cnt);
    }

    /// Bytes that the guest has room for. A guest that contradicts itself has none.
    pub(crate) fn room_at_guest(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub((self.sent - self.peer_fwd_cnt).0)
    }

    /// Counts bytes given to the guest.
    pub(crate) fn send(&mut self, len: u32) {
        self.sent += len;
    }

    /// Counts bytes from the guest. False when it had no credit for them.
    #[must_use]
    pub(crate) fn receive(&mut self, len: u32) -> bool {
        let buffered = (self.received - self.forwarded).0;
        let fits = buffered.checked_add(len).is_some_and(|sum| sum <= BUF_ALLOC);
        if fits {
            self.received += len;
        }
        fits
    }

    /// Counts bytes that reached the client.
    pub(crate) fn forward(&mut self, len: u32) {
        self.forwarded += len;
    }

    /// Whether the guest should be told of room before it runs out.
    pub(crate) fn update_due(&self) -> bool {
        let room_it_knows = BUF_ALLOC.saturating_sub((self.received - self.told).0);
        room_it_knows < UPDATE_BELOW && self.forwarded != self.told
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that is about to be sent.
    pub(crate) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (BUF_ALLOC, self.forwarded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_guest_without_credit_is_found_out() {
        let mut credit = Credit::default();
        assert!(credit.receive(BUF_ALLOC));
        assert!(!credit.receive(1));
        credit.forward(1);
        assert!(credit.receive(1));
        assert!(!credit.receive(u32::MAX));
    }

    #[test]
    fn a_guest_that_contradicts_itself_has_no_room() {
        let mut credit = Credit::default();
        credit.learn(1000, 0);
        credit.send(400);
        assert_eq!(credit.room_at_guest(), 600);
        credit.learn(1000, 401);
        assert_eq!(credit.room_at_guest(), 0, "it consumed more than it got");
        credit.learn(100, 0);
        assert_eq!(credit.room_at_guest(), 0, "it shrank its buffer");
    }

    proptest! {
        /// A guest that keeps to its credit and hears every update never stalls and never overruns.
        #[test]
        fn an_honest_guest_is_never_stuck(
            steps in prop::collection::vec((1u32..70_000, 0u32..70_000), 1..200),
            start in any::<u32>(),
        ) {
            let start = Wrapping(start);
            let mut credit = Credit { received: start, forwarded: start, told: start, ..Credit::default() };
            let (mut sent, mut known, mut buffered) = (start, start, 0u32);
            for (want, drain) in steps {
                let len = want.min(BUF_ALLOC - (sent - known).0);
                prop_assert!(credit.receive(len));
                sent += len;
                buffered += len;
                let drained = drain.min(buffered);
                credit.forward(drained);
                buffered -= drained;
                if credit.update_due() {
                    known = Wrapping(credit.tell().1);
                }
                prop_assert!(buffered > 0 || (sent - known).0 <= BUF_ALLOC / 2 + 1);
            }
        }
    }
}
