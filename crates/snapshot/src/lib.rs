//! What saved state is, and the files it is kept in.
//!
//! * [`SavedState`] and [`Persist`]: public plain data with a name and a version, written by `save` and read back as
//!   hostile input by `restore`. `devices` and `vmm` implement them.
//! * [`StateWriter`] and [`StateReader`]: the state file, named sections under a checksum and a tag. Bytes in, bytes out.
//! * [`PageIndex`]: which pages of memory are not zeros.
//! * [`Prefetch`]: which pages clones want first, at the head of a content of their own.
//! * [`Fingerprint`]: the processor a snapshot needs.
//!
//! It knows no device, no KVM and no file descriptor. The format is described in `docs/snapshot-format.md`; everything
//! here is bounded before it is allocated, and none of it panics, whatever the bytes (`tests/fuzz`, `snapshot_file`).

mod error;
mod fingerprint;
mod key;
mod layout;
mod pages;
mod prefetch;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::FormatError;
pub use fingerprint::{Feature, FeatureWord, Fingerprint, Mismatch, Register};
pub use key::{Key, Salt};
pub use layout::{MAX_SECTION_LEN, MAX_SECTIONS, MAX_STATE_LEN, VERSION};
pub use pages::{Chunk, MAX_CHUNK_PAGES, MAX_PAGES, PAGE_LEN, PageIndex, PageMask, runs};
pub use prefetch::{BLOCK_LEN, BLOCK_PAGES, MAX_PREFETCH_PAGES, PREFETCH_START_LEN, Prefetch};
pub use reader::StateReader;
pub use writer::{StateWriter, seal};

/// Plain data that a snapshot section holds. All fields are public and mean nothing until [`Persist::restore`] has
/// checked them.
pub trait SavedState: Serialize + DeserializeOwned {
    /// Section name, never reused for another shape.
    const NAME: &'static str;
    /// Raised with every change of shape or meaning.
    const VERSION: u32;
}

/// Something whose volatile state can be saved and built again from what was saved.
pub trait Persist: Sized {
    /// The saved form.
    type State: SavedState;
    /// What the state does not hold: files, descriptors, guest memory.
    type Resources<'a>;
    /// Why a state was refused.
    type Error: std::error::Error;

    /// Copies the volatile state out. The caller has stopped whatever changes it.
    fn save(&self) -> Self::State;

    /// Builds the object from a state that an attacker may have written.
    ///
    /// # Errors
    /// When a field holds a value that `save` cannot have produced, or one that does not fit the resources.
    fn restore(resources: Self::Resources<'_>, state: &Self::State) -> Result<Self, Self::Error>;
}
