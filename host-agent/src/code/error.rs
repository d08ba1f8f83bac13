//! What may go wrong with code on this node.

use std::path::PathBuf;

use super::BuildError;
use crate::{chunks::ChunksError, disk::DiskError};

/// Why code could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// There is no image.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The disk has no room for it.
    #[error("the code was not stored")]
    Disk(#[from] DiskError),
    /// Its image cannot be kept.
    #[error("the code's image was not kept")]
    Chunks(#[from] ChunksError),
    /// A directory or file of the store.
    #[error("cannot {attempted} {}", path.display())]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The object store.
    #[error("cannot {attempted} the zip of {sha256}")]
    Object {
        /// What was attempted.
        attempted: &'static str,
        /// Of which code.
        sha256: String,
        /// Why not.
        source: object_store::Error,
    },
    /// A container image that is not on this node any more: there is nothing to make it of.
    #[error("the image sha256:{digest} is not on this node any more")]
    Gone {
        /// Which.
        digest: String,
    },
    /// The object store gave back other bytes than it was given.
    #[error("the zip of {sha256} is damaged: its bytes have {actual}")]
    Damaged {
        /// Of which code.
        sha256: String,
        /// SHA-256 of what was read.
        actual: String,
    },
}
