//! A manifest as bytes, before it is sealed. `docs/chunk-format.md` has the picture. One manifest has one form: what is read
//! and written again is the same.

use zeroize::Zeroizing;

use super::{Content, InvalidManifest, Kind, Manifest};
use crate::bytes::Bytes;
use crate::chunk::{ChunkKey, Entry};
use crate::cipher::TAG_LEN;
use crate::name::{ChunkName, NAME_LEN};
use crate::secret::KEY_LEN;
use crate::size::{ChunkSize, MAX_CHUNKS};

/// Kind, chunk size, length of the working set, of the content, salt.
const HEADER_LEN: usize = 32;
/// A name and a key.
const ENTRY_LEN: usize = NAME_LEN + KEY_LEN;
/// A number in the working set.
const NUMBER_LEN: usize = 4;

/// The longest: every chunk of the longest content stored, and all of them in the working set. 68 MiB.
pub const MAX_PLAIN_LEN: usize = plain_len(MAX_CHUNKS as usize, MAX_CHUNKS as usize, MAX_CHUNKS as usize);

const fn plain_len(chunks: usize, stored: usize, working_set: usize) -> usize {
    HEADER_LEN + chunks.div_ceil(8) + stored * ENTRY_LEN + working_set * NUMBER_LEN
}

/// The bytes of `manifest`, with room for a tag: keys would be left behind where a vector that grows was before.
pub(super) fn encode(manifest: &Manifest) -> Zeroizing<Vec<u8>> {
    let Manifest { content: Content { kind, len, chunk_size, salt }, chunks, working_set } = manifest;
    let stored = chunks.iter().flatten().count();
    let plain_len = plain_len(chunks.len(), stored, working_set.len());
    let mut plain = Zeroizing::new(Vec::with_capacity(plain_len + TAG_LEN));
    plain.extend_from_slice(&[*kind as u8, chunk_size.log2(), 0, 0]);
    // No longer than the list of chunks, and that is counted in 32 bits.
    plain.extend_from_slice(&(working_set.len() as u32).to_le_bytes());
    plain.extend_from_slice(&len.to_le_bytes());
    plain.extend_from_slice(salt);
    for eight in chunks.chunks(8) {
        let bits = eight.iter().zip(0..).map(|(chunk, bit)| u8::from(chunk.is_some()) << bit);
        plain.push(bits.fold(0, |byte, bit| byte | bit));
    }
    for Entry { name, key } in chunks.iter().flatten() {
        plain.extend_from_slice(name.as_bytes());
        plain.extend_from_slice(key.bytes());
    }
    working_set.iter().for_each(|index| plain.extend_from_slice(&index.to_le_bytes()));
    plain
}

/// The manifest of bytes that anybody may have written. The list of chunks takes at most 65 MiB,
/// however few bytes say so: a memory of zeros is a bitmap.
pub(super) fn decode(plain: &[u8]) -> Result<Manifest, InvalidManifest> {
    let mut fields = Bytes::new(plain);
    let (content, wanted) = header(&mut fields)?;
    let count = content.chunk_size.count(content.len).ok_or(InvalidManifest::ContentLen(content.len))?;
    let count = count as usize;
    let bits = fields.take(count.div_ceil(8)).ok_or(InvalidManifest::Truncated)?;
    let stored: usize = bits.iter().map(|byte| byte.count_ones() as usize).sum();
    let past_end = bits.last().is_some_and(|byte| !count.is_multiple_of(8) && byte >> (count % 8) != 0);
    if past_end {
        return Err(InvalidManifest::Reserved);
    }
    let expected = plain_len(count, stored, wanted);
    if plain.len() != expected {
        return Err(InvalidManifest::Len { found: plain.len(), expected });
    }
    let mut chunks = Vec::with_capacity(count);
    for index in 0..count {
        let is_stored = bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
        chunks.push(if is_stored { Some(entry(&mut fields)?) } else { None });
    }
    let numbers = fields.rest().as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
    Manifest::new(content, chunks)?.with_working_set(numbers)
}

/// What it is of, and the length of the working set.
fn header(fields: &mut Bytes<'_>) -> Result<(Content, usize), InvalidManifest> {
    let [kind, log2, reserved @ ..] = fields.array::<4>().ok_or(InvalidManifest::Truncated)?;
    let wanted = fields.u32().ok_or(InvalidManifest::Truncated)?;
    let len = fields.u64().ok_or(InvalidManifest::Truncated)?;
    let salt = fields.array().ok_or(InvalidManifest::Truncated)?;
    if reserved != [0; 2] {
        return Err(InvalidManifest::Reserved);
    }
    let kind = Kind::from_u8(kind).ok_or(InvalidManifest::Kind(kind))?;
    let chunk_size = ChunkSize::from_log2(log2).ok_or(InvalidManifest::ChunkSize(log2))?;
    Ok((Content { kind, len, chunk_size, salt }, wanted as usize))
}

fn entry(fields: &mut Bytes<'_>) -> Result<Entry, InvalidManifest> {
    let name = fields.array().ok_or(InvalidManifest::Truncated)?;
    let key = fields.array().ok_or(InvalidManifest::Truncated)?;
    Ok(Entry { name: ChunkName::from_bytes(name), key: ChunkKey::new(key) })
}
