//! Snapshots on this node's disk: made beside their place and moved there whole, found by what they are of, deleted with
//! it.
//!
//! ```text
//! STATE/snapshot.key            authenticates all of them; this node's alone
//! STATE/snapshots/ID/state      vCPUs and devices           ┐ written by a `vmm` through descriptors
//! STATE/snapshots/ID/memory     guest memory, sparse        ┘
//! STATE/snapshots/ID/scratch    the guest's /tmp as it was then
//! STATE/snapshots/ID/meta.json  what it is of, what it was made from
//! STATE/snapshots/ID/prefetch   the pages that its clones want first, once one has told
//! STATE/snapshots/new-*         being made   ┐ removed at the next start
//! STATE/snapshots/gone-*        being deleted┘
//! STATE/runtimes/               images of runtimes that they need: `images`
//! ```
//!
//! Deleting is renaming first: whoever has the files open goes on with them, nobody opens them any more, and a crash
//! leaves nothing that looks whole. What is in the files is the VMM's matter: only the making of a
//! prefetch file reads the list of pages.

mod identity;
mod images;
mod key;
mod lessons;
mod prefetch;
mod shelf;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use identity::{Content, Host as HostIdentity, Owner, Resumable};
pub(crate) use shelf::MAX_SNAPSHOTS as MAX_RUNTIME_SNAPSHOTS;
pub(crate) use snapshot::{Lesson, Snapshot};
pub(crate) use store::{Draft, SnapshotError, SnapshotStore};
