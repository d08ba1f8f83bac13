//! Memory for events and answers: an event has its until its answer begins, an answer has its until its client has it.
//!
//! The answers of one budget are so many bytes and no more, however many calls there are and however slowly their clients read. An
//! answer has all that it may need before the rest of it is read from its guest, so that no two wait for each other; what it did
//! not need it gives back. The bytes themselves hold it: it is free when the last of them is with the kernel, or nobody's.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// KiB for the answers of calls by the API: forty of the longest.
pub(crate) const API_ANSWERS_KIB: usize = 256 * 1024;

/// KiB for those of calls by functions' URLs: apart, because URLs are open to strangers, who shall not keep others from their
/// answers by reading slowly. Twenty of the longest, each of which counts twice: it is decoded into a body beside it.
pub(crate) const URL_ANSWERS_KIB: usize = 256 * 1024;

/// KiB for those of asynchronous calls, which wait for a disk and for no client: twenty of the longest.
pub(crate) const EVENT_ANSWERS_KIB: usize = 128 * 1024;

/// Longest wait for memory. Who reads at the least rate that there may be takes minutes for the longest answer, so this ends it
/// when all of the memory is with such. It is over before the grace that a sandbox has beyond its function's timeout
/// (`sandbox::life`): the caller is told what there was none of, and the sandbox goes on.
const PATIENCE: Duration = Duration::from_secs(1);

/// What some answers take together.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    free: Arc<Semaphore>,
    /// How often a byte counts.
    copies: usize,
}

/// What one answer may take of it.
#[derive(Debug)]
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    copies: usize,
}

/// Bytes, and what they take: one goes with the other.
struct Kept {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Answers {
    /// So many KiB, of which each byte takes its own.
    pub(crate) fn new(kib: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(kib)), copies: 1 }
    }

    /// So many KiB, of which each byte takes its own and a copy's.
    pub(crate) fn twofold(kib: usize) -> Self {
        Self { copies: 2, ..Self::new(kib) }
    }

    /// Room for an answer of at most `len` bytes; none if there is none for too long.
    pub(crate) async fn room(&self, len: usize) -> Option<Room> {
        timeout(PATIENCE, self.room_in_time(len)).await.ok()?
    }

    /// The same, however long it takes.
    pub(crate) async fn room_in_time(&self, len: usize) -> Option<Room> {
        let Self { free, copies } = self;
        // The semaphore is never closed, and the longest answer is far below any budget.
        let permit = Arc::clone(free).acquire_many_owned(kib(len, *copies)).await.ok()?;
        Some(Room { permit, copies: *copies })
    }
}

impl Room {
    /// The answer, which is as long as was said or shorter: it has its memory as long as anybody has it.
    pub(crate) fn keep(mut self, bytes: Bytes) -> Bytes {
        let needed = kib(bytes.len(), self.copies) as usize;
        drop(self.permit.split(self.permit.num_permits().saturating_sub(needed)));
        Bytes::from_owner(Kept { bytes, _permit: self.permit })
    }
}

fn kib(len: usize, copies: usize) -> u32 {
    u32::try_from((len / 1024 + 1) * copies).unwrap_or(u32::MAX)
}

/// An event, until its guest begins to answer. No guest is given it again then, so its memory is free.
#[derive(Debug)]
pub(crate) struct Handout {
    len: usize,
    event: Mutex<Bytes>,
}

impl Handout {
    /// To be given to some guest.
    pub(crate) fn new(event: Bytes) -> Self {
        Self { len: event.len(), event: Mutex::new(event) }
    }

    /// How long it is, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// It; nothing when it has been answered.
    pub(crate) fn event(&self) -> Bytes {
        self.lock().clone()
    }

    /// Its answer has begun.
    pub(crate) fn done(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.event.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_memory_as_long_as_anybody_has_the_answer() {
        let answers = Answers::new(8);
        let free = || answers.free.available_permits();
        let room = answers.room(6 * 1024).await.unwrap();
        assert_eq!(free(), 1);
        let mut answer = room.keep(vec![1; 2048].into());
        assert_eq!(free(), 5, "what it did not need is given back");
        let piece = answer.split_to(100);
        drop(answer);
        assert_eq!((free(), &piece[..]), (5, &[1; 100][..]));
        assert!(answers.room(6 * 1024).await.is_none(), "nobody waits for ever");
        drop(piece);
        assert_eq!(free(), 8);
    }

    #[tokio::test]
    async fn a_urls_answer_counts_twice() {
        let answers = Answers::twofold(8);
        let answer = answers.room(2 * 1024).await.unwrap().keep(vec![1; 1024].into());
        assert_eq!(answers.free.available_permits(), 4);
        drop(answer);
        assert_eq!(answers.free.available_permits(), 8);
    }

    #[test]
    fn an_event_is_nobodys_when_its_answer_has_begun() {
        let event = Bytes::from(vec![b'1'; 10]);
        let handout = Handout::new(event.clone());
        assert_eq!((handout.len(), handout.event()), (10, event.clone()));
        assert!(!event.is_unique());
        handout.done();
        assert!(event.is_unique() && handout.event().is_empty());
        assert_eq!(handout.len(), 10);
    }
}
