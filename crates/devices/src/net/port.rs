//! The host's side of the device: an uplink with its limits, and one descriptor that says when there is something to do.
//!
//! That descriptor is an epoll instance of the port's own. The link is watched by edges: frames that wait while the guest has
//! no room, or no tokens, do not wake anybody; that they wait is remembered instead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::rate::Bucket;
use super::{HEADER_LEN, MAX_FRAME_LEN, MIN_FRAME_LEN, SOURCE_MAC, Uplink};
use crate::Link;
use crate::virtio::segments::Segments;

const LINK_TOKEN: u64 = 0;
const ALARM_TOKEN: u64 = 1;

/// What a guest is given before each frame: nothing is left to do (no flag, no segmentation), and it is all in one buffer
/// (`num_buffers`). virtio 1.3 §5.1.6.4.
const RECEIVE_HEADER: [u8; HEADER_LEN] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// An uplink in use.
pub(super) struct Port {
    // Glue.
    events: Epoll,
    alarm: TimerFd,
    /// None when it has failed.
    link: Option<Box<dyn Link>>,
    // Volatile.
    receive: Bucket,
    transmit: Bucket,
    /// Whether the link may have a frame in: until it says that it has none.
    frames_wait: bool,
    /// How long whoever has no tokens waits, as far as is known in this wake-up.
    pause: Option<Duration>,
    /// When the alarm rings.
    alarm_at: Option<Instant>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It has passed, or it is none that does; so many bytes of the guest's buffer are filled.
    Over(usize),
    /// There is none, or there are no tokens for it.
    NotNow,
}

impl Port {
    pub(super) fn new(uplink: Uplink) -> io::Result<Self> {
        let Uplink { link, receive, transmit } = uplink;
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK.union(TimerFlags::TFD_CLOEXEC))?;
        events.add(
            link.readable(),
            EpollEvent::new(EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET), LINK_TOKEN),
        )?;
        events.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM_TOKEN))?;
        let now = Instant::now();
        Ok(Self {
            events,
            alarm,
            link: Some(link),
            receive: Bucket::new(receive, now),
            transmit: Bucket::new(transmit, now),
            frames_wait: false,
            pause: None,
            alarm_at: None,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn readable(&self) -> BorrowedFd<'_> {
        self.events.0.as_fd()
    }

    pub(super) fn frames_wait(&self) -> bool {
        self.frames_wait
    }

    /// Takes in why the descriptor is readable.
    pub(super) fn poll(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 2];
        let count = match self.events.wait(&mut events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        for event in events.iter().take(count) {
            if event.data() == LINK_TOKEN {
                self.frames_wait = true;
            } else {
                self.alarm_at = None;
                match self.alarm.wait() {
                    Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Sends a frame of the guest's, which is looked at and sent in a copy of ours: the guest may write to its own meanwhile.
    pub(super) fn send(&mut self, frame: Segments<'_>, guest: [u8; 6], now: Instant) -> Passage {
        let Some(link) = &mut self.link else { return Passage::Over(0) };
        if let Err(pause) = self.transmit.ready(now) {
            self.rest(pause);
            return Passage::NotNow;
        }
        // §5.1.6.2: what the header asks for was not offered, so that it says nothing.
        let mut bytes = [0; HEADER_LEN + MAX_FRAME_LEN];
        let len = frame.len();
        let Some(bytes) = bytes.get_mut(..len) else { return Passage::Over(0) };
        if frame.take_into(bytes).is_none() || len < HEADER_LEN + MIN_FRAME_LEN {
            return Passage::Over(0);
        }
        let frame = bytes.get(HEADER_LEN..).unwrap_or_default();
        self.transmit.charge(frame.len());
        if frame.get(SOURCE_MAC) == Some(guest.as_slice()) {
            link.send(frame);
        }
        Passage::Over(0)
    }

    /// Gives the guest the next frame that came in for it.
    pub(super) fn receive(&mut self, buffer: &Segments<'_>, now: Instant) -> Passage {
        // §5.1.6.3.1: a driver offers room for the longest frame. A buffer without comes back empty.
        if buffer.len() < HEADER_LEN + MAX_FRAME_LEN {
            return Passage::Over(0);
        }
        if let Err(pause) = self.receive.ready(now) {
            self.rest(pause);
            return Passage::NotNow;
        }
        // A byte more, to see that a frame is too long.
        let mut bytes = [0; HEADER_LEN + MAX_FRAME_LEN + 1];
        let (header, room) = bytes.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&RECEIVE_HEADER);
        let received = self.link.as_mut().map_or(Ok(None), |link| link.receive(room));
        match received {
            Ok(Some(len)) if (MIN_FRAME_LEN..=MAX_FRAME_LEN).contains(&len) => {
                self.receive.charge(len);
                Passage::Over(buffer.fill_from(bytes.get(..HEADER_LEN + len).unwrap_or_default()))
            }
            // No frame of this network: the buffer comes back empty, so that what is dropped is bounded as what is not.
            Ok(Some(len)) => {
                self.receive.charge(len);
                Passage::Over(0)
            }
            Ok(None) => {
                self.frames_wait = false;
                Passage::NotNow
            }
            Err(_) => {
                self.frames_wait = false;
                self.link = None;
                Passage::NotNow
            }
        }
    }

    fn rest(&mut self, pause: Duration) {
        self.pause = Some(self.pause.map_or(pause, |other| other.min(pause)));
    }

    /// The end of a wake-up: sees to it that there is another one when tokens have come in for who had none.
    pub(super) fn set_alarm(&mut self, now: Instant) -> io::Result<()> {
        let Some(pause) = self.pause.take() else { return Ok(()) };
        let Some(at) = now.checked_add(pause) else { return Ok(()) };
        if self.alarm_at.is_none_or(|set| at < set) {
            let expiration = Expiration::OneShot(TimeSpec::from_duration(pause));
            self.alarm.set(expiration, TimerSetTimeFlags::empty())?;
            self.alarm_at = Some(at);
        }
        Ok(())
    }
}
