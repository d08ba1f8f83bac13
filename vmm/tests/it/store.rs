//! Contents of the chunk store, as an agent grants them: sealed under keys of their own, and somebody to ask, or nobody.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};

use chunk_store::{Answer, ChunkSize, Kind, LocalContent, decode_ask};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use vmm_api::Grant;

/// Where a table's entries begin, how long each is, and what in it is where: tag, place.
const ENTRIES_AT: u64 = 64;
const ENTRY_LEN: usize = 64;
const TAG_AT: usize = 32;
const PLACE_AT: usize = 48;

/// The agent's end of a content.
pub(crate) struct Content {
    content: LocalContent,
    /// To read what it says.
    table: File,
    chunk_len: usize,
    len: u64,
}

impl Content {
    pub(crate) fn seal(file: &File, kind: Kind, chunk_size: ChunkSize) -> Self {
        let slots = tempfile::tempfile().unwrap();
        let content = LocalContent::seal(file, kind, chunk_size, slots).unwrap();
        let table = content.table.handed().unwrap().into();
        let len = file.metadata().unwrap().len();
        Self { content, table, chunk_len: chunk_size.bytes(), len }
    }

    /// An image of these bytes.
    pub(crate) fn image(bytes: &[u8]) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Self::seal(&file, Kind::Image, ChunkSize::IMAGE)
    }

    /// What a process is given, where nobody can be asked.
    pub(crate) fn handed(&self) -> [OwnedFd; 3] {
        self.content.handed().unwrap()
    }

    /// The same, with another socket.
    pub(crate) fn handed_with(&self, asks: OwnedFd) -> [OwnedFd; 3] {
        let [table, slots, _nobody] = self.handed();
        [table, slots, asks]
    }

    /// Its table and its copies as nobody is given them.
    pub(crate) fn writable(&self) -> [OwnedFd; 2] {
        [&self.table, &self.content.slots].map(|file| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            OpenOptions::new().read(true).write(true).open(path).unwrap().into()
        })
    }

    /// The copies, to be damaged.
    pub(crate) fn slots(&self) -> &File {
        &self.content.slots
    }

    /// Changes a byte in the middle of the copy of a chunk.
    pub(crate) fn damage(&self, index: u32) {
        let (_, place, len) = self.entry(index);
        let (mut byte, at) = ([0], place + len / 2);
        self.slots().read_exact_at(&mut byte, at).unwrap();
        self.slots().write_all_at(&[!byte[0]], at).unwrap();
    }

    /// Answers to who asks for chunks that there are, as they are now.
    pub(crate) fn answers(&self) -> impl Fn(u32) -> Vec<u8> + Send + use<> {
        let chunks = self.len.div_ceil(self.chunk_len as u64) as u32;
        let answer = |index: u32| {
            let (tag, place, len) = self.entry(index);
            let mut copy = vec![0; len as usize];
            // Of a chunk of zeros there is none.
            match self.slots().read_exact_at(&mut copy, place) {
                Ok(()) => Answer::Copy { tag, copy: &copy }.encode(),
                Err(_) => Vec::new(),
            }
        };
        let answers: Vec<_> = (0..chunks).map(answer).collect();
        move |index| answers[index as usize].clone()
    }

    /// Tag, place and length of a copy.
    fn entry(&self, index: u32) -> ([u8; 16], u64, u64) {
        let mut entry = [0; ENTRY_LEN];
        let at = ENTRIES_AT + u64::from(index) * ENTRY_LEN as u64;
        self.table.read_exact_at(&mut entry, at).unwrap();
        let tag = entry[TAG_AT..PLACE_AT].try_into().unwrap();
        let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        (tag, number(PLACE_AT), number(PLACE_AT + 8))
    }
}

/// The positions of three descriptors from `first` on.
pub(crate) fn grant(first: usize) -> Grant {
    Grant { table: first, slots: first + 1, asks: first + 2 }
}

/// A socket at whose other end somebody gives these answers until it is closed, and says then what was asked for.
pub(crate) fn somebody(answer: impl Fn(u32) -> Vec<u8> + Send + 'static) -> (OwnedFd, JoinHandle<Vec<u32>>) {
    let (theirs, ours) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let serve = move || {
        let mut asked = Vec::new();
        let mut packet = [0; 16];
        let mut next = || {
            let len = recv(ours.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
            decode_ask(&packet[..len])
        };
        while let Some(index) = next() {
            asked.push(index);
            // Who asked may be gone.
            let _ = send(ours.as_raw_fd(), &answer(index), MsgFlags::MSG_NOSIGNAL);
        }
        asked
    };
    (theirs, thread::spawn(serve))
}
