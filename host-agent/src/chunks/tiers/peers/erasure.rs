//! A chunk's body in [`SHARDS`] shards, any [`NEEDED`] of which give it back; and who of those that gave shards has lied.
//! Bytes in, bytes out.
//!
//! ```text
//!  0  magic           "TNDRSHRD"
//!  8  version         u8      1
//!  9  index           u8      0 to 3: a quarter of the body, 4: what replaces any of them
//! 10  zero            u16
//! 12  length of body  u32
//! 16  name            32 bytes, of the chunk
//! 48  a quarter of the body, in whole pairs of bytes, with zeros behind the body's end
//! ```
//!
//! A shard has no tag: who has one can make any. The name is what a body is held to.

use bytes::{BufMut as _, Bytes, BytesMut};
use chunk_store::{ChunkName, MAX_BODY_LEN};

/// Shards that give a body.
pub(super) const NEEDED: usize = 4;

/// Shards there are of a chunk. One more than needed: a quarter more in bytes for that any one peer may be gone or slow.
pub(super) const SHARDS: usize = NEEDED + 1;

const MAGIC: [u8; 8] = *b"TNDRSHRD";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 48;

/// Longest shard, in bytes: of the longest body.
pub(crate) const MAX_SHARD_LEN: usize = HEADER_LEN + content_len(MAX_BODY_LEN);

/// Bytes of the body in each of its shards. The code works on pairs of bytes.
const fn content_len(body_len: usize) -> usize {
    body_len.div_ceil(NEEDED).next_multiple_of(2)
}

/// One of a chunk's shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    /// Below [`SHARDS`].
    pub(super) index: usize,
    body_len: usize,
    content: Bytes,
}

/// Bytes that are no shard of the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes that are no shard of the chunk")]
pub(super) struct NoShard(usize);

impl Shard {
    /// As it is kept and sent.
    pub(super) fn encode(&self, name: &ChunkName) -> Bytes {
        let mut file = BytesMut::with_capacity(HEADER_LEN + self.content.len());
        file.put_slice(&MAGIC);
        file.put_u8(VERSION);
        // Both are bounded: there are five shards, and a body is about 1 MiB at most.
        file.put_u8(self.index as u8);
        file.put_u16_le(0);
        file.put_u32_le(self.body_len as u32);
        file.put_slice(name.as_bytes());
        file.put_slice(&self.content);
        file.freeze()
    }

    /// A shard of that chunk, whose body has at most `max_len` bytes.
    ///
    /// # Errors
    /// It is not one. What it holds is not looked at.
    pub(super) fn decode(file: &Bytes, name: &ChunkName, max_len: usize) -> Result<Self, NoShard> {
        let decode = || {
            let (header, content) = file.split_first_chunk::<HEADER_LEN>()?;
            let (magic, rest) = header.split_first_chunk::<8>()?;
            let ([version, index, 0, 0], rest) = rest.split_first_chunk::<4>()? else { return None };
            let (body_len, named) = rest.split_first_chunk::<4>()?;
            let (index, body_len) = (usize::from(*index), u32::from_le_bytes(*body_len) as usize);
            let proper = *magic == MAGIC
                && *version == VERSION
                && named == name.as_bytes()
                && index < SHARDS
                && (1..=max_len.min(MAX_BODY_LEN)).contains(&body_len)
                && content.len() == content_len(body_len);
            proper.then(|| Self { index, body_len, content: file.slice(HEADER_LEN..) })
        };
        decode().ok_or(NoShard(file.len()))
    }
}

/// All shards of a body, by index; none of an empty one, or one that is longer than any chunk's.
pub(super) fn split(body: &Bytes) -> Option<[Shard; SHARDS]> {
    if !(1..=MAX_BODY_LEN).contains(&body.len()) {
        return None;
    }
    let len = content_len(body.len());
    let quarter = |index: usize| {
        let (from, to) = ((index * len).min(body.len()), ((index + 1) * len).min(body.len()));
        if to - from == len {
            return body.slice(from..to);
        }
        let mut padded = BytesMut::from(&body[from..to]);
        padded.resize(len, 0);
        padded.freeze()
    };
    let quarters: [Bytes; NEEDED] = std::array::from_fn(quarter);
    let parity = replacement(&quarters)?;
    let [a, b, c, d] = quarters;
    let contents = [a, b, c, d, parity];
    let mut index = 0..;
    Some(contents.map(|content| Shard {
        index: index.next().unwrap_or_default(),
        body_len: body.len(),
        content,
    }))
}

/// The body of that name, from some of its shards, if enough of them are what they say. With one more than needed, one of them may
/// be anything.
pub(super) fn join(name: &ChunkName, shards: &[Shard]) -> Option<Bytes> {
    let whole = |chosen: &[&Shard]| join_exactly(chosen).filter(|body| ChunkName::of(body) == *name);
    let all: Vec<&Shard> = shards.iter().collect();
    if all.len() <= NEEDED {
        return whole(&all);
    }
    (0..all.len()).rev().find_map(|left_out| {
        let others: Vec<&Shard> =
            all.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, shard)| *shard).collect();
        whole(&others)
    })
}

/// Whatever [`NEEDED`] different shards give; nothing when they are too few, too many, or do not agree on the length.
fn join_exactly(shards: &[&Shard]) -> Option<Bytes> {
    let body_len = shards.first()?.body_len;
    let mut places: [Option<&Bytes>; SHARDS] = [None; SHARDS];
    shards.iter().for_each(|shard| places[shard.index] = Some(&shard.content));
    let distinct = places.iter().flatten().count();
    if shards.len() != NEEDED || distinct != NEEDED || shards.iter().any(|shard| shard.body_len != body_len) {
        return None;
    }
    let there = places.iter().flatten().copied();
    let restored = if places[NEEDED].is_some() { Some(replacement(there)?) } else { None };
    let mut body = BytesMut::with_capacity(content_len(body_len) * NEEDED);
    for place in &places[..NEEDED] {
        body.put_slice(place.or(restored.as_ref())?);
    }
    body.truncate(body_len);
    Some(body.freeze())
}

/// The fifth of four shards' contents. A Reed-Solomon code with one shard more than needed is the sum of the others, in which
/// all five are alike: each is the replacement of any other. The library's decoder, made for thousands of shards, finds the same
/// in 265 µs where this takes one (16 KiB); and it would be asked for four reads of five.
fn replacement<'a>(contents: impl IntoIterator<Item = &'a Bytes>) -> Option<Bytes> {
    reed_solomon_simd::encode(NEEDED, SHARDS - NEEDED, contents).ok()?.pop().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body() -> impl Strategy<Value = Bytes> {
        let short = proptest::collection::vec(any::<u8>(), 1..200);
        let long = (any::<u8>(), 4_000usize..6_000)
            .prop_map(|(first, len)| (0..len).map(|at| (at / 7) as u8 ^ first).collect::<Vec<u8>>());
        prop_oneof![short, long].prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn any_four_give_the_body(body in body(), lost in 0..SHARDS, turn in 0..SHARDS) {
            let name = ChunkName::of(&body);
            let mut shards = split(&body).unwrap().to_vec();
            shards.remove(lost);
            shards.rotate_left(turn % NEEDED);
            prop_assert_eq!(join(&name, &shards), Some(body));
        }

        #[test]
        fn three_give_nothing(body in body(), lost in 0..NEEDED) {
            let name = ChunkName::of(&body);
            let mut shards = split(&body).unwrap().to_vec();
            shards.pop();
            shards.remove(lost);
            prop_assert_eq!(join(&name, &shards), None);
        }

        #[test]
        fn one_of_five_may_lie(body in body(), liar in 0..SHARDS, at: prop::sample::Index, change in 1u8..) {
            let name = ChunkName::of(&body);
            let mut shards = split(&body).unwrap().to_vec();
            let mut content = shards[liar].content.to_vec();
            // Not in the zeros behind the end: they are nobody's.
            let own = body.len().saturating_sub(liar % NEEDED * content.len()).clamp(1, content.len());
            content[at.index(own)] ^= change;
            shards[liar].content = content.into();
            prop_assert_eq!(join(&name, &shards), Some(body));
            shards.remove((liar + 1) % SHARDS);
            let others = join(&name, &shards);
            prop_assert!(others.is_none() || others.is_some_and(|joined| ChunkName::of(&joined) == name));
        }

        #[test]
        fn a_shard_comes_back_as_it_was(body in body(), index in 0..SHARDS) {
            let name = ChunkName::of(&body);
            let shard = split(&body).unwrap()[index].clone();
            prop_assert_eq!(Shard::decode(&shard.encode(&name), &name, body.len()), Ok(shard));
        }

        #[test]
        fn no_bytes_break_it(mut file in proptest::collection::vec(any::<u8>(), 0..120), real: bool) {
            let name = ChunkName::of(b"x");
            if real && file.len() > HEADER_LEN {
                file[..8].copy_from_slice(&MAGIC);
                file[8] = VERSION;
                file[10..12].fill(0);
                file[16..48].copy_from_slice(name.as_bytes());
            }
            let _ = Shard::decode(&file.into(), &name, MAX_BODY_LEN).map(|shard| join(&name, &[shard]));
        }
    }

    #[test]
    fn every_byte_of_a_header_counts() {
        let body = Bytes::from_static(b"tinderbox");
        let name = ChunkName::of(&body);
        let shard = split(&body).unwrap()[2].encode(&name);
        for at in 0..HEADER_LEN {
            let mut changed = shard.to_vec();
            changed[at] ^= 0x40;
            assert_eq!(Shard::decode(&changed.into(), &name, 100), Err(NoShard(shard.len())), "byte {at}");
        }
        assert!(Shard::decode(&shard.slice(..shard.len() - 1), &name, 100).is_err());
        assert!(Shard::decode(&shard, &name, body.len() - 1).is_err());
        assert!(Shard::decode(&shard, &ChunkName::of(b"another"), 100).is_err());
    }

    /// What [`replacement`] rests on, against the library's own decoder.
    #[test]
    fn each_shard_replaces_any_other() {
        let body: Bytes = (0..1000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into();
        let shards = split(&body).unwrap();
        for lost in 0..NEEDED {
            let there =
                (0..NEEDED).filter(|index| *index != lost).map(|index| (index, &shards[index].content));
            let parity = [(0, &shards[NEEDED].content)];
            let restored = reed_solomon_simd::decode(NEEDED, SHARDS - NEEDED, there, parity).unwrap();
            let others = shards.iter().filter(|shard| shard.index != lost).map(|shard| &shard.content);
            assert_eq!(replacement(others).unwrap(), restored[&lost]);
        }
    }

    #[test]
    fn shards_that_disagree_give_nothing() {
        let (one, other) = (Bytes::from(vec![1; 100]), Bytes::from(vec![1; 99]));
        let name = ChunkName::of(&one);
        let (mut shards, others) = (split(&one).unwrap().to_vec(), split(&other).unwrap());
        shards.truncate(NEEDED);
        shards[1] = others[1].clone();
        assert_eq!(join(&name, &shards), None);
        shards[1] = shards[0].clone();
        assert_eq!(join(&name, &shards), None);
        assert!(split(&Bytes::new()).is_none() && split(&vec![0; MAX_BODY_LEN + 1].into()).is_none());
        assert_eq!(split(&vec![0; MAX_BODY_LEN].into()).unwrap()[0].encode(&name).len(), MAX_SHARD_LEN);
    }
}
