//! The end of a grant that reads: for one thread of a process that can do nothing but read and ask.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};
use zeroize::Zeroizing;

use super::ask::{Answer, MAX_ANSWER_LEN, MAX_COPY_LEN, encode_ask};
use super::bulk::Bulk;
use super::table::{self, ENTRY_LEN, HEADER_LEN, Known, Place, TableError};
use crate::local::{LocalError, LocalKey};
use crate::manifest::Kind;
use crate::size::ChunkSize;

/// How long an answer may take: the agent's own limits for a chunk that it fetches are shorter, and after them it says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Entries that are read at once: one page.
const WINDOW: usize = 4096 / ENTRY_LEN;

/// Why a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The descriptors are not those of a content.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table cannot be read.
    #[error("read the table of chunks")]
    Entry(#[source] io::Error),
    /// There is no such chunk, or the buffer is not of its length.
    #[error("chunk {index} has {expected} bytes, not {found}")]
    Len {
        /// Which.
        index: u32,
        /// Bytes it has; none where there is no such chunk.
        expected: usize,
        /// Bytes of the buffer.
        found: usize,
    },
    /// The socket.
    #[error("ask for chunk {index}")]
    Ask {
        /// Which.
        index: u32,
        /// Why not.
        source: io::Error,
    },
    /// There is no copy of it, and none was to be had.
    #[error("chunk {index} is not to be had: {reason}")]
    Failed {
        /// Which.
        index: u32,
        /// The agent's words.
        reason: String,
    },
    /// What was answered is not the chunk.
    #[error("chunk {index} was answered wrong")]
    Wrong {
        /// Which.
        index: u32,
        /// Why not.
        source: LocalError,
    },
}

/// What a buffer was filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Nothing but zeros, which nobody stores.
    Zeros,
    /// The chunk, verified.
    Chunk,
}

/// Reads a content by chunks.
#[derive(Debug)]
pub struct Reader {
    table: File,
    slots: File,
    asks: OwnedFd,
    kind: Kind,
    len: u64,
    chunk_size: ChunkSize,
    /// Entries as they were when they were read, and the first one's number.
    window: Option<(u32, Zeroizing<Vec<u8>>)>,
    copy: Vec<u8>,
    /// Copies that were read together, where the content is read from its beginning to its end.
    bulk: Option<Bulk>,
    asked: u64,
}

impl Reader {
    /// Of these three descriptors.
    ///
    /// # Errors
    /// The first one is no table, or of chunks that are too long to be asked for.
    pub fn new(table: File, slots: File, asks: OwnedFd) -> Result<Self, ReadError> {
        let mut head = [0; HEADER_LEN];
        table.read_exact_at(&mut head, 0).map_err(ReadError::Entry)?;
        let (kind, len, chunk_size) = table::decode_head(&head)?;
        if chunk_size.bytes() > MAX_COPY_LEN {
            return Err(TableError::Invalid("its chunks are longer than an answer").into());
        }
        let end = table::entry_at(chunk_size.count(len).unwrap_or(0));
        table.read_exact_at(&mut [0], end - 1).map_err(ReadError::Entry)?;
        Ok(Self {
            table,
            slots,
            asks,
            kind,
            len,
            chunk_size,
            window: None,
            copy: Vec::new(),
            bulk: None,
            asked: 0,
        })
    }

    /// What the content is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the content.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a content of a guest is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How it is cut.
    #[must_use]
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Bytes of chunk `index`; zero past the end.
    #[must_use]
    pub fn chunk_len(&self, index: u32) -> usize {
        self.chunk_size.len_of(index, self.len)
    }

    /// How many chunks were asked for.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// From now on copies that lie side by side are read together; and not by way of the page cache, when they are not there: whoever
    /// reads a content once, all of it, has no use for pages of ciphertext. The descriptor of the slots must be nobody else's
    /// ([`for_reading`](crate::for_reading)).
    pub fn in_bulk(&mut self) {
        let last = self.chunk_size.count(self.len).unwrap_or(1).saturating_sub(1);
        let samples = [0, last / 2, last].map(|index| self.entry(index).ok().flatten()?.place);
        self.bulk = Some(Bulk::new(&self.slots, self.chunk_size, samples.into_iter().flatten()));
    }

    /// Whether copies are read past the page cache: they were not in it.
    #[must_use]
    pub fn is_past_cache(&self) -> bool {
        self.bulk.as_ref().is_some_and(Bulk::is_past_cache)
    }

    /// Fills `plaintext`, which is as long as the chunk, with chunk `index`, verified. After an error it holds nothing of it.
    ///
    /// # Errors
    /// The chunk is not to be had, or there is no such chunk.
    pub fn read(&mut self, index: u32, plaintext: &mut [u8]) -> Result<Filled, ReadError> {
        if let Some(filled) = self.read_here(index, plaintext)? {
            return Ok(filled);
        }
        let key = self.entry(index)?.and_then(|known| known.key);
        self.ask(index, key, plaintext).map(|()| Filled::Chunk)
    }

    /// The same without a question; none if it takes one.
    ///
    /// # Errors
    /// There is no such chunk, or the table cannot be read.
    pub fn read_here(&mut self, index: u32, plaintext: &mut [u8]) -> Result<Option<Filled>, ReadError> {
        let expected = self.chunk_len(index);
        if expected == 0 || plaintext.len() != expected {
            return Err(ReadError::Len { index, expected, found: plaintext.len() });
        }
        let was_there = self.window.is_some();
        let Some(Known { key, place }) = self.entry(index)? else {
            plaintext.fill(0);
            return Ok(Some(Filled::Zeros));
        };
        if self.open_known(index, key.as_ref(), place, plaintext) {
            return Ok(Some(Filled::Chunk));
        }
        if was_there {
            // Somebody else who reads the content may have asked since.
            self.window = None;
            let now = self.entry(index)?.filter(|now| now.place != place);
            if now.is_some_and(|now| self.open_known(index, now.key.as_ref(), now.place, plaintext)) {
                return Ok(Some(Filled::Chunk));
            }
        }
        Ok(None)
    }

    /// A second reader of the same descriptors, for [`Self::read_here`]: of two that ask at the same socket, one gets the other's answer.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            table: self.table.try_clone()?,
            slots: self.slots.try_clone()?,
            asks: self.asks.try_clone()?,
            window: None,
            copy: Vec::new(),
            bulk: self.bulk.as_ref().map(Bulk::another),
            asked: 0,
            ..*self
        })
    }

    /// What the table says of a chunk, or said not long ago.
    fn entry(&mut self, index: u32) -> Result<Option<Known>, ReadError> {
        let first = index - index % WINDOW as u32;
        if self.window.as_ref().is_none_or(|(held, _)| *held != first) {
            let left = self.chunk_size.count(self.len).unwrap_or(0).saturating_sub(first) as usize;
            let mut entries = Zeroizing::new(vec![0; left.min(WINDOW) * ENTRY_LEN]);
            self.table.read_exact_at(&mut entries, table::entry_at(first)).map_err(ReadError::Entry)?;
            self.window = Some((first, entries));
        }
        let entries = self.window.as_ref().map(|(_, entries)| entries.as_slice()).unwrap_or_default();
        let at = (index - first) as usize * ENTRY_LEN;
        let entry = entries.get(at..).and_then(<[u8]>::first_chunk);
        Ok(table::decode(entry.ok_or(TableError::NoChunk(index))?)?)
    }

    fn open_known(
        &mut self,
        index: u32,
        key: Option<&LocalKey>,
        place: Option<Place>,
        plaintext: &mut [u8],
    ) -> bool {
        key.zip(place).is_some_and(|(key, place)| self.open(index, key, place, plaintext))
    }

    /// Whether the copy at that place is the chunk; then it is in `plaintext`.
    fn open(&mut self, index: u32, key: &LocalKey, place: Place, plaintext: &mut [u8]) -> bool {
        if place.len as usize > plaintext.len() {
            return false;
        }
        let Some(mut bulk) = self.bulk.take() else {
            self.copy.resize(place.len as usize, 0);
            return self.slots.read_exact_at(&mut self.copy, place.at).is_ok()
                && key.open_copy(&self.copy, &place.tag, plaintext).is_ok();
        };
        let next = self.places_after(index);
        let copy = bulk.copy(&self.slots, place, next);
        let opens = copy.is_ok_and(|copy| key.open_copy(copy, &place.tag, plaintext).is_ok());
        if !opens {
            // What was read with it may be as old.
            bulk.forget();
        }
        self.bulk = Some(bulk);
        opens
    }

    /// Where the chunks behind one are, as far as that is known without another look.
    fn places_after(&self, index: u32) -> impl Iterator<Item = Place> + '_ {
        let (first, entries) = self.window.as_ref().map_or((index, &[][..]), |(first, held)| (*first, held));
        let behind = index.saturating_sub(first) as usize + 1;
        let known = |entry: &[u8]| table::decode(entry.first_chunk()?).ok().flatten()?.place;
        entries.chunks(ENTRY_LEN).skip(behind).filter_map(known)
    }

    fn ask(&mut self, index: u32, key: Option<LocalKey>, plaintext: &mut [u8]) -> Result<(), ReadError> {
        // What is answered is where the table says from now on.
        self.window = None;
        self.asked += 1;
        let packet = self.exchange(index).map_err(|source| ReadError::Ask { index, source })?;
        let wrong = |source| ReadError::Wrong { index, source };
        match Answer::decode(&packet) {
            Some(Answer::Copy { tag, copy }) => {
                let opens = |key: LocalKey, plaintext: &mut [u8]| key.open_copy(copy, &tag, plaintext);
                if key.is_some_and(|key| opens(key, plaintext).is_ok()) {
                    return Ok(());
                }
                // It came with the answer, or was half there before.
                let key = self.entry(index)?.and_then(|known| known.key);
                opens(key.ok_or(wrong(LocalError::Damaged))?, plaintext).map_err(wrong)
            }
            Some(Answer::Failed(reason)) => Err(ReadError::Failed { index, reason: reason.to_owned() }),
            None => Err(wrong(LocalError::Damaged)),
        }
    }

    fn exchange(&self, index: u32) -> io::Result<Vec<u8>> {
        let socket = self.asks.as_raw_fd();
        self.forget_answers()?;
        let question = encode_ask(index);
        sendmsg::<()>(socket, &[io::IoSlice::new(&question)], &[], MsgFlags::MSG_NOSIGNAL, None)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut packet = vec![0; MAX_ANSWER_LEN];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.asks.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Err(Errno::EINTR) => continue,
                ready => ready?,
            };
            let mut buffers = [io::IoSliceMut::new(&mut packet)];
            match recvmsg::<()>(socket, &mut buffers, None, MsgFlags::MSG_DONTWAIT)
                .map(|message| message.bytes)
            {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                len => {
                    packet.truncate(len?);
                    return Ok(packet);
                }
            }
        }
    }
    /// What came too late for its question, which would be taken for the answer to the next one.
    fn forget_answers(&self) -> io::Result<()> {
        loop {
            let mut byte = [0];
            let mut buffers = [io::IoSliceMut::new(&mut byte)];
            match recvmsg::<()>(self.asks.as_raw_fd(), &mut buffers, None, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                message if message?.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }
}
