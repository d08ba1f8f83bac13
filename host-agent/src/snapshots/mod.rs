//! Snapshots on this node's disk: made beside their place and moved there whole, found by what they are of, deleted with
//! it.
//!
//! ```text
//! STATE/snapshot.key            authenticates all of them; this node's alone
//! STATE/snapshots/ID/meta.json  what it is of, what it was made from, what its contents are called by
//! STATE/snapshots/ID/drives.json  which chunks of its drives clones read
//! STATE/snapshots/new-*         being made   ┐ removed at the next start
//! STATE/snapshots/gone-*        being deleted┘
//! STATE/chunks/                 what they consist of: `contents`
//! ```
//!
//! A `vmm` writes files of a draft, from which contents are published; then the draft has none any more and gets its name. Deleting is
//! renaming first: whoever has the contents open goes on with them, nobody opens them any more, and a crash leaves nothing that
//! looks whole. What is in the contents is the VMM's matter.

mod contents;
mod identity;
mod key;
mod lessons;
mod prefetch;
mod runtimes;
mod shelf;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use contents::ContentsError;
pub(crate) use identity::{Content, Host as HostIdentity, Owner, Resumable, image_in};
pub(crate) use runtimes::RuntimeImage;
pub(crate) use shelf::MAX_SNAPSHOTS as MAX_RUNTIME_SNAPSHOTS;
pub(crate) use snapshot::{Lesson, Opened, Snapshot};
pub(crate) use store::{Draft, SnapshotError, SnapshotStore};
