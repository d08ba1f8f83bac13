//! A content as an agent has it open: its manifest, a cache, where what is not in the cache comes from, and who answers the
//! processes that read it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;

use anyhow::{Context, Result};
use chunk_store::{
    Answer, Cache, ChunkName, MAX_ASK_LEN, Manifest, NodeSecret, Reader, Source, SourceError, Table,
    decode_ask,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// More than any content here has.
const CAPACITY: u64 = 20 << 30;

/// A source that is counted.
pub(crate) struct Counted<S> {
    pub(crate) source: S,
    pub(crate) fetches: AtomicU64,
}

impl<S: Source> Source for Counted<S> {
    fn fetch(&self, name: &ChunkName, max_len: usize, attempt: u32) -> Result<Vec<u8>, SourceError> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.source.fetch(name, max_len, attempt)
    }
}

/// An open content.
pub(crate) struct Open<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) cache: &'a Cache,
    pub(crate) source: &'a (dyn Source + Sync),
    pub(crate) table: Table,
}

/// A cache with nothing in it.
pub(crate) fn empty_cache(folder: &Path) -> Result<Cache> {
    Cache::open(folder, NodeSecret::new([1; 32]), CAPACITY).context("open a cache")
}

impl<'a> Open<'a> {
    /// Makes its table, of what is in the cache.
    pub(crate) fn new(
        manifest: &'a Manifest,
        cache: &'a Cache,
        source: &'a (dyn Source + Sync),
    ) -> Result<Self> {
        let known =
            (0..manifest.chunks().len() as u32).map(|index| Some(cache.known(manifest.wanted(index)?)));
        let table = Table::new(manifest.content(), known)?;
        Ok(Self { manifest, cache, source, table })
    }

    /// Brings all of it into the cache.
    pub(crate) fn fill(&self) -> Result<()> {
        (0..self.manifest.chunks().len() as u32).try_for_each(|index| self.fetch(index).map(drop))
    }

    /// A reader, which a thread of this scope answers until it is dropped.
    pub(crate) fn reader<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<Reader> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        scope.spawn(move || self.answer(&ours));
        let slots = self.cache.slots(self.manifest.content().chunk_size)?;
        Ok(Reader::new(File::from(self.table.handed()?), slots, theirs)?)
    }

    fn answer(&self, socket: &OwnedFd) {
        let mut packet = [0; MAX_ASK_LEN];
        while let Ok(len @ 1..) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            let Some(index) = packet.get(..len).and_then(decode_ask) else { return };
            let answer = match self.fetch(index) {
                Ok(Some(found)) => Answer::Copy { tag: found.tag, copy: &found.copy }.encode(),
                Ok(None) => Answer::Failed("there is no such chunk").encode(),
                Err(error) => Answer::Failed(&error.to_string()).encode(),
            };
            if send(socket.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL).is_err() {
                return;
            }
        }
    }

    fn fetch(&self, index: u32) -> Result<Option<std::sync::Arc<chunk_store::Verified>>> {
        let Some(wanted) = self.manifest.wanted(index) else { return Ok(None) };
        let found = self.cache.get(wanted, self.source)?;
        if let Some(place) = found.place {
            self.table.set_place(index, place)?;
        }
        Ok(Some(found))
    }
}
