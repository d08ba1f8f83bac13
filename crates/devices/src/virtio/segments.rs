//! A run of guest bytes that may lie in pieces: half of a descriptor chain.
//!
//! Devices must not assume how a driver cuts a message into descriptors (virtio 1.3 §2.7.4), so they take bytes off
//! the front and never look at the pieces.

use crate::Slice;

/// Pieces of guest memory, in order, none empty.
#[derive(Clone, Debug, Default)]
pub struct Segments<'m> {
    pieces: Vec<Slice<'m>>,
}

impl<'m> Segments<'m> {
    pub(crate) fn push(&mut self, piece: Slice<'m>) {
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// The pieces, for a vectored system call.
    pub(crate) fn pieces(&self) -> &[Slice<'m>] {
        &self.pieces
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Slice::len).sum()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Splits at `at`: the front stays, the rest is returned. None when there are fewer bytes.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Option<Segments<'m>> {
        let mut left = at;
        let mut index = 0;
        while left > 0 {
            let piece = self.pieces.get(index)?;
            if left < piece.len() {
                break;
            }
            left -= piece.len();
            index += 1;
        }
        let mut rest = self.pieces.split_off(index);
        if left > 0 {
            let first = rest.first_mut()?;
            let (front, back) = (first.subslice(0, left).ok()?, first.offset(left).ok()?);
            *first = back;
            self.pieces.push(front);
        }
        Some(Segments { pieces: rest })
    }

    /// Copies the front into `bytes` and returns what follows it. None when there are fewer bytes.
    pub(crate) fn take_into(mut self, bytes: &mut [u8]) -> Option<Segments<'m>> {
        let rest = self.split_off(bytes.len())?;
        let mut at = 0;
        for piece in &self.pieces {
            let (_, target) = bytes.split_at_mut_checked(at)?;
            at += piece.copy_to(target);
        }
        Some(rest)
    }

    /// Copies as much of `bytes` as fits to the front; returns how much that was.
    pub fn fill_from(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        for piece in &self.pieces {
            let Some((_, source)) = bytes.split_at_checked(at) else { break };
            let count = source.len().min(piece.len());
            if count == 0 {
                break;
            }
            piece.copy_from(&source[..count]);
            at += count;
        }
        at
    }
}

impl<'m> FromIterator<Slice<'m>> for Segments<'m> {
    fn from_iter<I: IntoIterator<Item = Slice<'m>>>(pieces: I) -> Self {
        Self { pieces: pieces.into_iter().filter(|piece| !piece.is_empty()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::Memory;

    /// Room for all of a test's bytes.
    const LEN: usize = 128;

    fn memory(bytes: &[u8]) -> Memory {
        let memory = Memory::from_ranges(&[(GuestAddress(0), LEN)]).unwrap();
        memory.write_slice(bytes, GuestAddress(0)).unwrap();
        memory
    }

    fn over<'m>(memory: &'m Memory, len: usize, cuts: &[usize]) -> Segments<'m> {
        let mut segments = Segments::default();
        let mut rest = memory.get_slice(GuestAddress(0), len).unwrap();
        for &cut in cuts {
            let cut = cut.min(rest.len());
            segments.push(rest.subslice(0, cut).unwrap());
            rest = rest.offset(cut).unwrap();
        }
        segments.push(rest);
        segments
    }

    proptest! {
        #[test]
        fn cuts_do_not_show(
            expected in prop::collection::vec(any::<u8>(), 0..100),
            cuts in prop::collection::vec(0usize..30, 0..8),
            at in 0usize..120,
        ) {
            let memory = memory(&expected);
            let segments = over(&memory, expected.len(), &cuts);
            prop_assert_eq!(segments.len(), expected.len());
            let mut front = vec![0; at];
            match segments.take_into(&mut front) {
                None => prop_assert!(at > expected.len()),
                Some(rest) => {
                    prop_assert_eq!(&front, &expected[..at]);
                    let mut back = vec![0; expected.len() - at];
                    prop_assert!(rest.take_into(&mut back).unwrap().is_empty());
                    prop_assert_eq!(&back, &expected[at..]);
                }
            }
        }

        #[test]
        fn fills_from_the_front(
            len in 0usize..100,
            cuts in prop::collection::vec(0usize..30, 0..8),
            source in prop::collection::vec(1u8..255, 0..120),
        ) {
            let memory = memory(&[]);
            let filled = over(&memory, len, &cuts).fill_from(&source);
            let mut bytes = vec![0; len];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            prop_assert_eq!(filled, len.min(source.len()));
            prop_assert_eq!(&bytes[..filled], &source[..filled]);
            prop_assert!(bytes[filled..].iter().all(|&byte| byte == 0));
        }
    }
}
