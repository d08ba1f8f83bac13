//! A drive that is read by chunks of the store, on the I/O thread: what the guest asks for is verified, decrypted and copied into
//! its memory. The last few chunks are kept in memory of this process alone, as a guest reads a file a page at a time.
//!
//! A chunk that cannot be had is an error of the request, which the guest's file system makes one of the file: it ends nobody
//! else.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use chunk_store::{ReadError, Reader};
use devices::{Segments, Storage};
use vmm_api::MAX_DRIVE_CHUNKS;

use crate::describe::describe;

/// Chunks that are kept, 256 KiB: a file that is read, its directory and the file system's tables, and one to change over.
const HELD_CHUNKS: usize = 4;

/// Log lines about chunks that cannot be had. A guest that reads one again and again must not fill the host's log.
const MAX_COMPLAINTS: u32 = 16;

/// Chunks by number, in the order in which they were read first: at most [`MAX_DRIVE_CHUNKS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstReads(Arc<Mutex<Vec<u32>>>);

impl FirstReads {
    /// As far as it has come.
    pub(crate) fn list(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, index: u32) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < MAX_DRIVE_CHUNKS && !list.contains(&index) {
            list.push(index);
        }
    }
}

/// The drive.
#[derive(Debug)]
pub(crate) struct ChunkDrive {
    /// As the log calls it.
    id: String,
    reader: Reader,
    /// The one used last is the first.
    held: Vec<Held>,
    first_reads: FirstReads,
    complaints_left: u32,
}

#[derive(Debug)]
struct Held {
    index: u32,
    plaintext: Vec<u8>,
}

impl ChunkDrive {
    pub(crate) fn new(id: &str, reader: Reader) -> Self {
        Self {
            id: id.to_owned(),
            reader,
            held: Vec::with_capacity(HELD_CHUNKS),
            first_reads: FirstReads::default(),
            complaints_left: MAX_COMPLAINTS,
        }
    }

    /// Bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.reader.len()
    }

    /// Which chunks have been read, now and later.
    pub(crate) fn first_reads(&self) -> FirstReads {
        self.first_reads.clone()
    }

    /// What its chunk has from `offset` on; nothing behind the end.
    ///
    /// # Errors
    /// The chunk cannot be had.
    pub(crate) fn piece(&mut self, offset: u64) -> io::Result<&[u8]> {
        let log2 = self.reader.chunk_size().log2();
        let index = u32::try_from(offset >> log2).map_err(|_| io::ErrorKind::InvalidInput)?;
        if let Err(error) = self.hold(index) {
            self.complain(&error);
            return Err(io::ErrorKind::InvalidData.into());
        }
        let chunk = self.held.first().map(|held| held.plaintext.as_slice()).unwrap_or_default();
        let skip = (offset - (u64::from(index) << log2)) as usize;
        Ok(chunk.get(skip..).unwrap_or_default())
    }

    /// Has all of a chunk, as the first of those that are held.
    fn hold(&mut self, index: u32) -> Result<(), ReadError> {
        match self.held.iter().position(|held| held.index == index) {
            Some(at) => self.held.get_mut(..=at).unwrap_or_default().rotate_right(1),
            None => {
                let held = self.fetch(index)?;
                self.held.insert(0, held);
            }
        }
        Ok(())
    }

    /// Reads a chunk into the place of the one that was not used for longest, which is gone then.
    fn fetch(&mut self, index: u32) -> Result<Held, ReadError> {
        let oldest = (self.held.len() == HELD_CHUNKS).then(|| self.held.pop()).flatten();
        let mut plaintext = oldest.map(|held| held.plaintext).unwrap_or_default();
        plaintext.resize(self.reader.chunk_len(index), 0);
        if self.reader.read(index, &mut plaintext)? == chunk_store::Filled::Chunk {
            self.first_reads.record(index);
        }
        Ok(Held { index, plaintext })
    }

    fn complain(&mut self, error: &ReadError) {
        if let Some(left) = self.complaints_left.checked_sub(1) {
            self.complaints_left = left;
            eprintln!("vmm: drive {}: a read failed: {}", self.id, describe(error));
        }
    }
}

impl Storage for ChunkDrive {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.reader.len())
    }

    fn read(&mut self, offset: u64, mut into: Segments<'_>) -> io::Result<()> {
        let mut offset = offset;
        while !into.is_empty() {
            let filled = into.fill_from(self.piece(offset)?);
            if filled == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = into.split_off(filled).unwrap_or_default();
            offset += filled as u64;
        }
        Ok(())
    }

    /// No guest gets here: the device is offered as one that cannot be written.
    fn write(&mut self, _offset: u64, _from: Segments<'_>) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use chunk_store::{ChunkSize, Kind, LocalContent};
    use devices::Memory;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::memory;

    /// Six chunks and a short one.
    pub(crate) const LEN: usize = 6 * CHUNK_LEN + 1536;
    pub(crate) const CHUNK_LEN: usize = 64 << 10;

    /// The content, its copies, and a drive over them that has nobody to ask. Its third chunk is zeros.
    pub(crate) fn drive() -> (Vec<u8>, File, ChunkDrive) {
        let byte = |at: usize| if at / CHUNK_LEN == 2 { 0 } else { (at / 7 + at / CHUNK_LEN) as u8 };
        let bytes: Vec<u8> = (0..LEN).map(byte).collect();
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&bytes, 0).expect("written");
        let slots = tempfile::tempfile().expect("a file");
        let content = LocalContent::seal(&file, Kind::Code, ChunkSize::IMAGE, slots).expect("sealed");
        let (asks, _nobody) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("sockets");
        let table: OwnedFd = content.table.handed().expect("a descriptor");
        let slots = content.slots.try_clone().expect("a descriptor");
        let reader = Reader::new(table.into(), slots, asks).expect("a content");
        (bytes, content.slots, ChunkDrive::new("code", reader))
    }

    /// The first `len` bytes of memory, in buffers that are cut there.
    fn buffers<'m>(memory: &'m Memory, cuts: &[usize], len: usize) -> Segments<'m> {
        let mut left = memory.get_slice(GuestAddress(0), len).expect("inside of memory");
        let mut pieces = Vec::new();
        for cut in cuts {
            let cut = *cut.min(&left.len());
            pieces.push(left.subslice(0, cut).expect("inside"));
            left = left.offset(cut).expect("inside");
        }
        pieces.push(left);
        pieces.into_iter().collect()
    }

    /// What a guest gets of `len` bytes from `offset` on.
    pub(crate) fn read(
        drive: &mut impl Storage,
        memory: &Memory,
        offset: usize,
        cuts: &[usize],
        len: usize,
    ) -> io::Result<Vec<u8>> {
        drive.read(offset as u64, buffers(memory, cuts, len))?;
        let mut found = vec![0; len];
        memory.read_slice(&mut found, GuestAddress(0)).expect("inside of memory");
        Ok(found)
    }

    /// A guest writes `bytes` to where `offset` is.
    pub(crate) fn write(
        drive: &mut impl Storage,
        memory: &Memory,
        offset: usize,
        cuts: &[usize],
        bytes: &[u8],
    ) -> io::Result<()> {
        memory.write_slice(bytes, GuestAddress(0)).expect("inside of memory");
        drive.write(offset as u64, buffers(memory, cuts, bytes.len()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn reads_of_any_place_are_what_was_sealed(
            reads in prop::collection::vec(
                (0..LEN, 1..3 * CHUNK_LEN, prop::collection::vec(0..CHUNK_LEN, 0..4)),
                1..12,
            ),
        ) {
            let (bytes, _slots, mut drive) = drive();
            let memory = memory::create(1 << 20).expect("memory");
            for (offset, len, cuts) in reads {
                let len = len.min(LEN - offset);
                let found = read(&mut drive, &memory, offset, &cuts, len).expect("whole");
                prop_assert!(found == bytes[offset..offset + len], "{len} bytes at {offset}");
                prop_assert!(drive.held.len() <= HELD_CHUNKS);
            }
            let reads = drive.first_reads().list();
            let each_once: std::collections::BTreeSet<_> = reads.iter().collect();
            prop_assert!(each_once.len() == reads.len() && !reads.contains(&2), "{reads:?}");
        }
    }

    #[test]
    fn the_last_few_chunks_are_kept_and_the_one_that_was_not_used_for_longest_goes() {
        let (_, slots, mut drive) = drive();
        let memory = memory::create(1 << 20).expect("memory");
        let mut touch = |chunk: usize| read(&mut drive, &memory, chunk * CHUNK_LEN + 512, &[], 512).is_ok();
        assert!([0, 1, 3, 4, 0, 1, 5].into_iter().all(&mut touch));
        slots.set_len(0).expect("lost");
        // The third of them has made room.
        assert_eq!([5, 1, 0, 4, 3, 4, 0].map(&mut touch), [true, true, true, true, false, true, true]);
        assert_eq!(drive.first_reads().list(), [0, 1, 3, 4, 5]);
    }

    #[test]
    fn what_is_damaged_is_not_read_and_what_is_past_the_end_is_not_made_up() {
        let (bytes, slots, mut drive) = drive();
        let memory = memory::create(1 << 20).expect("memory");
        // The copy of the chunk before last: the third has none.
        slots.write_all_at(&[!bytes[0]; 64], 4 * CHUNK_LEN as u64).expect("damaged");
        assert!(read(&mut drive, &memory, 5 * CHUNK_LEN - 512, &[], 1024).is_err());
        assert_eq!(memory.read_obj::<u64>(GuestAddress(512)).expect("inside"), 0, "nothing of it is seen");
        assert!(read(&mut drive, &memory, 6 * CHUNK_LEN, &[100], 1536).is_ok());
        assert!(
            read(&mut drive, &memory, LEN, &[], 1).is_err()
                && read(&mut drive, &memory, 1 << 40, &[], 1).is_err()
        );
        assert!(drive.write(0, Segments::default()).is_err());
        assert_eq!(drive.length().ok(), Some(LEN as u64));
    }
}
