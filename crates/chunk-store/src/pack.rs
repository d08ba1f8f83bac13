//! A pack: one file that carries a content which anybody may read, with the runtimes of an appliance in mind. It is put together
//! where they are built, and a node's cache fetches from it as from any other [`Source`]: it is not believed.
//!
//! ```text
//!  0  magic "TNDRPACK", version u32, number of bodies u32, bytes of all bodies u64, bytes of the manifest u32, zeros u32
//! 32  hash of bytes 0 to 32 and of everything behind the bodies
//! 64  bodies, in the order in which the manifest first names them ─► their lengths, u32 each ─► the manifest, not sealed
//! ```
//!
//! The hash is against damage: it says nothing of who wrote the file. The same content, cut and salted alike, gives the same
//! bytes; what comes last is known last, so the content is read once and nothing of it is held.

use std::collections::HashSet;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use crate::bytes::Bytes;
use crate::cache::{Source, SourceError};
use crate::chunk::{ChunkError, MAX_BODY_LEN, Sealed, seal};
use crate::manifest::{Content, InvalidManifest, Kind, MAX_PLAIN_LEN, Manifest};
use crate::name::ChunkName;
use crate::salt::Salt;
use crate::size::{ChunkSize, MAX_CHUNKS};

const MAGIC: [u8; 8] = *b"TNDRPACK";
const VERSION: u32 = 1;
/// What the hash covers of the header.
const FIELDS_LEN: usize = 32;
const HASH_LEN: usize = 32;
const HEADER_LEN: usize = FIELDS_LEN + HASH_LEN;
/// A body's length.
const NUMBER_LEN: usize = 4;
/// Bytes that are written at once: bodies of what compresses well are short.
const BATCH_LEN: usize = 1 << 20;

/// Why a content cannot be packed, or a file is no pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The content or the pack.
    #[error("read or write a pack")]
    File(#[from] io::Error),
    /// A chunk.
    #[error("make a chunk of a pack")]
    Chunk(#[from] ChunkError),
    /// The manifest in it, or the one it would have.
    #[error("a pack's manifest contradicts itself")]
    Manifest(#[from] InvalidManifest),
    /// Another program's, or damaged.
    #[error("this is no pack: {0}")]
    Invalid(&'static str),
}

/// A pack that is open. Blocking, for any number of threads.
#[derive(Debug)]
pub struct Pack {
    file: File,
    manifest: Manifest,
    /// Where each body is.
    bodies: HashMap<ChunkName, Body>,
}

#[derive(Clone, Copy, Debug)]
struct Body {
    at: u64,
    len: u32,
}

/// Packs all of `content` into `out`, which is open for writing and has nothing in it afterwards but the pack. Nothing is flushed.
///
/// # Errors
/// The content is too long or changes meanwhile; or a file.
pub fn write_pack(
    content: &File,
    kind: Kind,
    chunk_size: ChunkSize,
    salt: &Salt,
    out: &File,
) -> Result<Manifest, PackError> {
    let about = Content { kind, len: content.metadata()?.len(), chunk_size, salt: salt.id() };
    let count = chunk_size.count(about.len).ok_or(InvalidManifest::ContentLen(about.len))?;
    out.set_len(0)?;
    let mut bodies = BufWriter::with_capacity(BATCH_LEN, At { file: out, at: HEADER_LEN as u64 });
    let (mut chunks, mut known, mut lens) = (Vec::new(), HashSet::new(), Vec::new());
    let mut bodies_len = 0;
    for index in 0..count {
        let mut plaintext = vec![0; chunk_size.len_of(index, about.len)];
        content.read_exact_at(&mut plaintext, u64::from(index) << chunk_size.log2())?;
        let Sealed::Chunk { entry, body } = seal(&plaintext, salt)? else {
            chunks.push(None);
            continue;
        };
        if known.insert(entry.name) {
            // No longer than the longest body.
            lens.extend_from_slice(&(body.len() as u32).to_le_bytes());
            bodies_len += body.len() as u64;
            bodies.write_all(&body)?;
        }
        chunks.push(Some(entry));
    }
    let manifest = Manifest::new(about, chunks)?;
    let plain = manifest.encode();
    let fields = Fields { bodies: known.len() as u32, bodies_len, manifest_len: plain.len() as u32 }.encode();
    bodies.write_all(&lens)?;
    bodies.write_all(&plain)?;
    bodies.flush()?;
    let hash = hash_of(&fields, &[&lens, plain.as_slice()]);
    out.write_all_at(&[fields, hash].concat(), 0)?;
    Ok(manifest)
}

impl Pack {
    /// The pack in a file that anybody may have written. Of the bodies only their places are read.
    ///
    /// # Errors
    /// It is none, or damaged; or the file.
    pub fn open(file: File) -> Result<Self, PackError> {
        let mut header = [0; HEADER_LEN];
        let len = file.metadata()?.len();
        if len < HEADER_LEN as u64 {
            return Err(PackError::Invalid("it is cut off"));
        }
        file.read_exact_at(&mut header, 0)?;
        let (fields, hash) =
            header.split_first_chunk::<FIELDS_LEN>().ok_or(PackError::Invalid("it is cut off"))?;
        let found = Fields::decode(fields)?;
        if found.end() != Some(len) {
            return Err(PackError::Invalid("it is cut off, or there is something behind it"));
        }
        let lens_len = found.bodies as usize * NUMBER_LEN;
        let mut behind = vec![0; lens_len + found.manifest_len as usize];
        file.read_exact_at(&mut behind, HEADER_LEN as u64 + found.bodies_len)?;
        if hash_of(fields, &[&behind]) != *hash {
            return Err(PackError::Invalid("it is damaged"));
        }
        let (lens, plain) = behind.split_at_checked(lens_len).unwrap_or_default();
        let manifest = Manifest::decode(plain)?;
        let bodies = places(&manifest, lens, found.bodies_len)?;
        Ok(Self { file, manifest, bodies })
    }

    /// What it carries.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl Source for Pack {
    fn fetch(&self, name: &ChunkName, max_len: usize, _attempt: u32) -> Result<Vec<u8>, SourceError> {
        let Body { at, len } = *self.bodies.get(name).ok_or(SourceError::Absent)?;
        if len as usize > max_len {
            return Err(SourceError::Failed(format!("a body of {len} bytes, {max_len} were asked for")));
        }
        let mut body = vec![0; len as usize];
        self.file.read_exact_at(&mut body, at).map_err(|error| SourceError::Failed(error.to_string()))?;
        Ok(body)
    }
}

/// Where the bodies are that a manifest names, by their lengths, which are together `total`.
fn places(manifest: &Manifest, lens: &[u8], total: u64) -> Result<HashMap<ChunkName, Body>, PackError> {
    let mut lens = lens.as_chunks().0.iter().map(|len| u32::from_le_bytes(*len));
    let mut bodies = HashMap::with_capacity(lens.len());
    let mut at = HEADER_LEN as u64;
    for name in manifest.names() {
        let Slot::Vacant(slot) = bodies.entry(name) else { continue };
        let len = lens.next().ok_or(PackError::Invalid("a body that the manifest names is not in it"))?;
        if len as usize > MAX_BODY_LEN {
            return Err(PackError::Invalid("a body is longer than any"));
        }
        slot.insert(Body { at, len });
        at += u64::from(len);
    }
    if lens.next().is_some() || at - HEADER_LEN as u64 != total {
        return Err(PackError::Invalid("its bodies are not those that the manifest names"));
    }
    Ok(bodies)
}

/// The lengths in the header.
struct Fields {
    bodies: u32,
    bodies_len: u64,
    manifest_len: u32,
}

impl Fields {
    fn encode(&self) -> [u8; FIELDS_LEN] {
        let mut fields = [0; FIELDS_LEN];
        let parts: [&[u8]; 5] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.bodies.to_le_bytes(),
            &self.bodies_len.to_le_bytes(),
            &self.manifest_len.to_le_bytes(),
        ];
        for (to, from) in fields.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        fields
    }

    fn decode(fields: &[u8; FIELDS_LEN]) -> Result<Self, PackError> {
        let mut bytes = Bytes::new(fields);
        if bytes.array() != Some(MAGIC) || bytes.u32() != Some(VERSION) {
            return Err(PackError::Invalid("another format"));
        }
        let (Some(bodies), Some(bodies_len), Some(manifest_len), Some(0)) =
            (bytes.u32(), bytes.u64(), bytes.u32(), bytes.u32())
        else {
            return Err(PackError::Invalid("bits are set that mean nothing"));
        };
        if u64::from(bodies) > MAX_CHUNKS || manifest_len as usize > MAX_PLAIN_LEN {
            return Err(PackError::Invalid("it is longer than any"));
        }
        Ok(Self { bodies, bodies_len, manifest_len })
    }

    /// Bytes of the file; none of one that there cannot be.
    fn end(&self) -> Option<u64> {
        let behind = u64::from(self.bodies) * NUMBER_LEN as u64 + u64::from(self.manifest_len);
        self.bodies_len.checked_add(HEADER_LEN as u64 + behind)
    }
}

fn hash_of(fields: &[u8; FIELDS_LEN], behind: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields);
    for part in behind {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Writes a file that is somebody else's from a place on, wherever they are in it.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write_at(bytes, self.at)?;
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open;
    use crate::tests::damage::{changes, places};

    const SIZE: ChunkSize = ChunkSize::MEMORY;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Noise, text, zeros, the text again, noise of 100 bytes.
    fn content() -> Vec<u8> {
        let mut noise = vec![0; SIZE.bytes() + 100];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"text".repeat(SIZE.bytes() / 4);
        let (first, last) = noise.split_at(SIZE.bytes());
        [first, &text, &vec![0; SIZE.bytes()], &text, last].concat()
    }

    fn packed(content: &[u8]) -> (Manifest, File) {
        let out = file(b"what was there before");
        let manifest = write_pack(&file(content), Kind::Image, SIZE, &Salt::public(), &out).unwrap();
        (manifest, out)
    }

    /// All of the content by its manifest; none when a body is refused.
    fn unpacked(pack: &Pack, manifest: &Manifest) -> Option<Vec<u8>> {
        let chunk = |index| {
            let len = manifest.chunk_len(index);
            let Some(entry) = manifest.chunk(index) else { return Some(vec![0; len]) };
            open(entry, &pack.fetch(&entry.name, MAX_BODY_LEN, 0).ok()?, len).ok()
        };
        (0..manifest.chunks().len() as u32)
            .map(chunk)
            .collect::<Option<Vec<_>>>()
            .map(|chunks| chunks.concat())
    }

    #[test]
    fn a_content_comes_back_and_is_packed_the_same_again() {
        let (manifest, out) = packed(&content());
        assert_eq!(bytes(&out), bytes(&packed(&content()).1));
        let pack = Pack::open(out).unwrap();
        assert_eq!((pack.manifest(), pack.bodies.len()), (&manifest, 3), "the same text is in it once");
        assert_eq!(unpacked(&pack, &manifest), Some(content()));
        assert!(matches!(pack.fetch(&ChunkName::of(b"x"), MAX_BODY_LEN, 0), Err(SourceError::Absent)));
        let name = manifest.chunk(0).unwrap().name;
        assert!(matches!(pack.fetch(&name, 100, 0), Err(SourceError::Failed(_))), "longer than asked for");
    }

    #[test]
    fn contents_without_bodies_are_packed() {
        for content in [vec![], vec![0; 100_000]] {
            let (manifest, out) = packed(&content);
            let pack = Pack::open(out).unwrap();
            assert_eq!(unpacked(&pack, &manifest), Some(content));
        }
    }

    #[test]
    fn every_byte_of_a_pack_counts() {
        let content = content();
        let (manifest, out) = packed(&content);
        let good = bytes(&out);
        for at in places(good.len()) {
            for change in changes(at, good[at]) {
                out.write_all_at(&[good[at] ^ change], at as u64).unwrap();
                let read = Pack::open(out.try_clone().unwrap()).map(|pack| unpacked(&pack, &manifest));
                assert!(!matches!(read, Ok(Some(_))), "byte {at} ^ {change:#x} was not found out");
            }
            out.write_all_at(&good[at..=at], at as u64).unwrap();
        }
        for len in (0..good.len()).step_by(97).chain([HEADER_LEN, good.len() - 1, good.len() + 1]) {
            out.set_len(len as u64).unwrap();
            assert!(Pack::open(out.try_clone().unwrap()).is_err(), "cut to {len} bytes");
            out.write_all_at(&good, 0).unwrap();
        }
    }

    /// A pack whose hash is right: what only somebody who makes packs could have written.
    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let (_, out) = packed(&content());
        let good = bytes(&out);
        let bodies = usize::try_from(u64::from_le_bytes(*good[16..].first_chunk().unwrap())).unwrap();
        let refusal = |at: usize, changed: &[u8]| {
            let mut pack = good.clone();
            pack[at..at + changed.len()].copy_from_slice(changed);
            let hash = hash_of(pack.first_chunk().unwrap(), &[&pack[HEADER_LEN + bodies..]]);
            pack[FIELDS_LEN..HEADER_LEN].copy_from_slice(&hash);
            Pack::open(file(&pack)).expect_err("refused").to_string()
        };
        let lens = HEADER_LEN + bodies;
        for (at, changed) in [
            (8, [2, 0, 0, 0]),
            (12, [2, 0, 0, 0]),
            (12, [0xff; 4]),
            (16, [1, 0, 0, 0]),
            (20, [0xff; 4]),
            (24, [0xff; 4]),
            (28, [1, 0, 0, 0]),
            (lens, [1, 0, 0, 0]),
            (lens, [0xff; 4]),
        ] {
            let refused = refusal(at, &changed);
            assert!(refused.starts_with("this is no pack"), "{changed:?} at {at}: {refused}");
        }
        assert_eq!(refusal(lens + 12, &[0xff]), "a pack's manifest contradicts itself");
    }
}
