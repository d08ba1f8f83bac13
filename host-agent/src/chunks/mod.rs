//! What sandboxes read: images of runtimes, code, and what snapshots consist of, cut into chunks (`crates/chunk-store`).
//!
//! ```text
//!  publish ─► STATE/chunks/origin   chunks and roots, one for each content   (what is acknowledged)
//!                 │ fetched, here or from others (`tiers`), verified by name, sealed anew
//!                 ▼
//!             STATE/chunks/cache    this node's copies, bounded              (may be lost)
//!                 │ read by VMMs themselves, through descriptors
//!                 ▼
//!  hand ───►  table, slots, asks    a chunk that is not there is asked for: `asks`
//! ```
//!
//! A content is named by a label. It is there from the end of its publication to its deletion; what has it open then goes on
//! with it until it is closed.

mod asks;
mod content;
mod keys;
mod node;
mod publish;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tiers;
mod upkeep;

pub(crate) use content::{Content, Handed, ReadAllError};
pub(crate) use keys::{Age, Roots};
pub(crate) use node::{Chunks, ChunksError};
pub(crate) use publish::Plain;
