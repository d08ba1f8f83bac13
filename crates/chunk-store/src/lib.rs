//! Contents cut into chunks, each encrypted under a key that comes of itself: who stores the same bytes under the same salt
//! stores them once, and who has not got a manifest reads none of it.
//!
//! * [`seal`] and [`open`]: one chunk. [`Sealed`], [`Entry`]: its name, key and body.
//! * [`Manifest`]: the chunks of a content, sealed for one tenant; [`TenantKey`] and [`RootKey`] are who opens it.
//! * [`NodeSecret`] and [`LocalKey`]: a chunk as a node keeps it, verified and decrypted in one pass.
//! * [`Table`] and [`Reader`]: what a jailed process is given of a content, and how it reads it.
//! * [`Cache`]: such chunks in a directory, bounded in bytes, in front of a [`Source`].
//! * [`Pack`]: one file that carries a content which anybody may read.
//! * [`Store`]: a directory that keeps what is published, and collects what nobody needs any more.
//!
//! The last three keep files; all else is bytes in, bytes out. They block; nothing starts a thread, and nothing knows guests or
//! tenants' functions. The format is described in `docs/chunk-format.md`, the reasons in `docs/adr/0020-chunks.md`; everything that
//! is read is bounded before it is allocated, and none of it panics, whatever the bytes (`tests/fuzz`, `chunk_manifest` and
//! `chunk_grant`).

mod bytes;
mod cache;
mod chunk;
mod cipher;
mod flights;
mod grant;
mod handed;
mod local;
mod manifest;
mod name;
mod pack;
mod salt;
mod secret;
mod size;
mod store;
mod tenant;
#[cfg(test)]
mod tests;

pub use cache::{Cache, CacheError, CacheStats, Source, SourceError, Verified, Wanted};
pub use chunk::{ChunkError, ChunkKey, Entry, MAX_BODY_LEN, Sealed, open, seal};
pub use grant::{
    Answer, Filled, LocalContent, LocalContentError, MAX_ANSWER_LEN, MAX_ASK_LEN, Place, ReadError, Reader,
    Table, TableError, decode_ask,
};
pub use handed::for_reading;
pub use local::{LocalError, LocalKey, NodeSecret};
pub use manifest::{
    Content, InvalidManifest, Kind, MAX_MANIFEST_LEN, MAX_PLAIN_LEN, Manifest, ManifestError,
};
pub use name::{ChunkName, NameError};
pub use pack::{Pack, PackError, write_pack};
pub use salt::{Salt, SaltId};
pub use size::{ChunkSize, MAX_CHUNKS, MAX_CONTENT_LEN};
pub use store::{Collected, Health, Label, LabelError, Publish, Repaired, Store, StoreError, StoreStats};
pub use tenant::{KeyError, RootId, RootKey, TenantKey, WRAPPED_LEN, root_of};
