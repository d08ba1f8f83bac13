//! What nobody may see: wiped when dropped, never printed.

use std::fmt;

use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

/// A secret key, or what is derived from one.
#[derive(Clone, Deserialize)]
#[serde(from = "T")]
pub(crate) struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// To sign with, or to tell its owner.
    pub(crate) fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
