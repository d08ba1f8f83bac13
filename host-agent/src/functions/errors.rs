//! Why a function was not changed, and why the store of functions did not open.

use cluster_store::StoreError;

use super::{images::ImageError, layers::LayerStoreError, view::ViewError};
use crate::code::CodeError;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The name is taken.
    #[error("the function exists")]
    Exists,
    /// No such function.
    #[error("the function does not exist")]
    Absent,
    /// The client's precondition does not hold.
    #[error("the revision is not the one that was named")]
    Stale,
    /// Others changed the function again and again, or its update goes on.
    #[error("the function is being changed")]
    Busy,
    /// It waits for its image, or has none: it is in that state.
    #[error("the function is {0}")]
    Unfinished(&'static str),
    /// Its code and its layers make no image.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record could not be encoded.
    #[error("the record cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// Why a node's functions cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The functions themselves.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Their layers.
    #[error(transparent)]
    Layers(#[from] LayerStoreError),
    /// Their images.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
