//! What a jailed process is given of a content, and how it reads it: three descriptors, no path, no key but those of that content's
//! chunks.
//!
//! ```text
//! table  where each chunk's copy is and how it is read; shared memory that the agent writes and everybody else reads
//! slots  this node's copies, a file of the cache, to be read only
//! asks   a socket: "chunk 7, please", for what the table does not know, or what is no longer where it says
//! ```
//!
//! The agent may overwrite or drop a copy at any time, and the table may be behind: a copy that is not the chunk does not
//! open, and is asked for. So nobody locks, nobody is told of an eviction, and a disk that lies costs time.
//!
//! [`Table`] and the answers are the agent's end, [`Reader`] is the other one. The reader believes nothing of the table but what
//! it is of; the agent believes nothing of what is asked.

mod ask;
mod bulk;
mod local;
mod reader;
mod table;
#[cfg(test)]
mod tests;

pub use ask::{Answer, MAX_ANSWER_LEN, MAX_ASK_LEN, decode_ask};
pub use local::{LocalContent, LocalContentError};
pub use reader::{Filled, ReadError, Reader};
pub use table::{Place, Table, TableError};
