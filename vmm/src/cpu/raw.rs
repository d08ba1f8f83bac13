//! KVM's own structures in a snapshot: their bytes, as the kernel's ABI fixes them for ever.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One structure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw<T>(pub(crate) T);

/// Several of one kind, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawList<T>(pub(crate) Vec<T>);

impl<T: IntoBytes + Immutable> Serialize for Raw<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<T: IntoBytes + Immutable> Serialize for RawList<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_slice().as_bytes())
    }
}

impl<'de, T: FromBytes> Deserialize<'de> for Raw<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |bytes: &[u8]| T::read_from_bytes(bytes).ok();
        deserializer.deserialize_bytes(Bytes(read, PhantomData)).map(Self)
    }
}

impl<'de, T: FromBytes> Deserialize<'de> for RawList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |bytes: &[u8]| {
            let pieces = bytes.chunks_exact(size_of::<T>());
            pieces.remainder().is_empty().then(|| pieces.filter_map(|p| T::read_from_bytes(p).ok()).collect())
        };
        deserializer.deserialize_bytes(Bytes(read, PhantomData)).map(Self)
    }
}

/// Makes a value of bytes of the right length.
struct Bytes<F, T>(F, PhantomData<T>);

impl<T, F: Fn(&[u8]) -> Option<T>> Visitor<'_> for Bytes<F, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes of a {}", std::any::type_name::<T>())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.0)(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }
}
