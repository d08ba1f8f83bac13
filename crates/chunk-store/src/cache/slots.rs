//! Copies in slots of equal length, all of one length in one file, and beside it an index that says what is in each. One process
//! writes them; the file of copies is handed to others for reading.
//!
//! ```text
//! ROOT/slots-14  copies of chunks of 16 KiB contents, one a slot; nothing but holes where none is
//! ROOT/index-14  records of 64 bytes: name 32, tag 16, length of the chunk u32, of its copy u32, check u32, zeros; all zeros: the
//!                slot is free
//! ROOT/slots-16, ROOT/index-16, …
//! ```
//!
//! Nothing is flushed and nothing is written in any order that counts. After a crash a record may name what is not in its slot:
//! whoever reads a copy verifies all of it anyway, and can fetch it again. The check finds records that were torn.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::bytes::Bytes;
use crate::cipher::TAG_LEN;
use crate::grant::Place;
use crate::handed::for_reading;
use crate::name::{ChunkName, NAME_LEN};
use crate::size::ChunkSize;

const RECORD_LEN: usize = 64;
/// What the check covers.
const CHECKED_LEN: usize = NAME_LEN + TAG_LEN + 4 + 4;
/// Records that are read at once when a cache is opened, 256 KiB.
const BATCH: usize = 4096;

/// A copy that is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) size: ChunkSize,
    pub(super) slot: u32,
    /// Bytes of the chunk.
    pub(super) len: u32,
    /// Bytes of the copy, which is without the zeros at the chunk's end.
    pub(super) copy_len: u32,
    pub(super) tag: [u8; TAG_LEN],
    /// Which of all copies, so that one that comes again to where it was is another one. Not on the disk.
    pub(super) turn: u64,
}

impl Held {
    /// Offset in the file of copies, bytes.
    fn at(&self) -> u64 {
        u64::from(self.slot) << self.size.log2()
    }

    /// What a table says of it.
    pub(super) fn place(&self) -> Place {
        Place { at: self.at(), len: self.copy_len, tag: self.tag }
    }
}

/// All slots of one length.
#[derive(Debug)]
pub(super) struct Slots {
    size: ChunkSize,
    copies: File,
    index: File,
}

impl Slots {
    /// The slots in `root`, no more than `most`, made where there are none.
    pub(super) fn open(root: &Path, size: ChunkSize, most: u32) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let path = |what: &str| -> PathBuf { root.join(format!("{what}-{}", size.log2())) };
        let open = |what, slot_len: u64| {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(path(what))?;
            let most = u64::from(most) * slot_len;
            if file.metadata()?.len() > most {
                file.set_len(most)?;
            }
            io::Result::Ok(file)
        };
        let (copies, index) = (open("slots", size.bytes() as u64)?, open("index", RECORD_LEN as u64)?);
        Ok(Self { size, copies, index })
    }

    /// Whether there are any in `root`.
    pub(super) fn exist(root: &Path, size: ChunkSize) -> io::Result<bool> {
        root.join(format!("slots-{}", size.log2())).try_exists()
    }

    pub(super) fn size(&self) -> ChunkSize {
        self.size
    }

    /// A descriptor of the copies that nothing can be written through, and that nobody else has a part in.
    pub(super) fn handed(&self) -> io::Result<File> {
        for_reading(&self.copies).map(File::from)
    }

    /// All of a copy.
    pub(super) fn read(&self, held: &Held) -> io::Result<Vec<u8>> {
        let mut copy = vec![0; held.copy_len as usize];
        self.copies.read_exact_at(&mut copy, held.at())?;
        Ok(copy)
    }

    /// Puts a copy into a slot that is nobody's.
    pub(super) fn write(&self, name: &ChunkName, held: &Held, copy: &[u8]) -> io::Result<()> {
        self.copies.write_all_at(copy, held.at())?;
        self.index.write_all_at(&encode(name, held), record_at(held.slot))
    }

    /// Forgets what is in a slot.
    pub(super) fn clear(&self, slot: u32) -> io::Result<()> {
        self.index.write_all_at(&[0; RECORD_LEN], record_at(slot))
    }

    /// Gives the room of these slots back to the disk.
    pub(super) fn punch(&self, slots: Range<u32>) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let at = |slot: u32| i64::from(slot) << self.size.log2();
        Ok(fallocate(&self.copies, flags, at(slots.start), at(slots.end) - at(slots.start))?)
    }

    /// Calls `each` for every slot that has been used at any time, in order, with what its record says, if that counts. How many
    /// there are.
    pub(super) fn survey(&self, mut each: impl FnMut(u32, Option<(ChunkName, Held)>)) -> io::Result<u32> {
        let records = self.index.metadata()?.len() / RECORD_LEN as u64;
        let copies = self.copies.metadata()?.len().div_ceil(1 << self.size.log2());
        let used = u32::try_from(records.max(copies)).map_err(io::Error::other)?;
        let mut batch = vec![0; BATCH * RECORD_LEN];
        for slot in 0..used {
            let place = slot as usize % BATCH;
            if place == 0 {
                batch.fill(0);
                read_up_to(&self.index, &mut batch, record_at(slot))?;
            }
            let record = batch.get(place * RECORD_LEN..).and_then(<[u8]>::first_chunk);
            each(slot, record.and_then(|record| decode(record, self.size, slot)));
        }
        Ok(used)
    }
}

fn record_at(slot: u32) -> u64 {
    u64::from(slot) * RECORD_LEN as u64
}

fn encode(name: &ChunkName, held: &Held) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    let (len, copy_len) = (held.len.to_le_bytes(), held.copy_len.to_le_bytes());
    let parts: [&[u8]; 4] = [name.as_bytes(), &held.tag, &len, &copy_len];
    for (to, from) in record.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    let check = check_of(&record);
    for (to, from) in record.iter_mut().skip(CHECKED_LEN).zip(check) {
        *to = from;
    }
    record
}

/// What a record says of its slot; none of one that says nothing.
fn decode(record: &[u8; RECORD_LEN], size: ChunkSize, slot: u32) -> Option<(ChunkName, Held)> {
    let mut bytes = Bytes::new(record);
    let (name, tag, len, copy_len) = (bytes.array()?, bytes.array()?, bytes.u32()?, bytes.u32()?);
    let is_whole = bytes.array::<4>()? == check_of(record);
    let fits = (1..=size.bytes()).contains(&(len as usize)) && (1..=len).contains(&copy_len);
    let held = Held { size, slot, len, copy_len, tag, turn: 0 };
    (is_whole && fits).then(|| (ChunkName::from_bytes(name), held))
}

/// Against torn writes, not against anybody: a copy that does not belong to its name does not open.
fn check_of(record: &[u8; RECORD_LEN]) -> [u8; 4] {
    let hash = blake3::hash(record.get(..CHECKED_LEN).unwrap_or_default());
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                buffer = buffer.get_mut(len..).unwrap_or_default();
                at += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
