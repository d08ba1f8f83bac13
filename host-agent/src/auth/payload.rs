//! How a body is read whose signature is to be verified: whole, by its hash, or in chunks that are signed themselves.

use axum::http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};
use sha2::{Digest as _, Sha256};

use super::chunked::Chunked;
use crate::api::ApiError;

/// How clients call a body that comes in chunks.
const AWS_CHUNKED: &str = "aws-chunked";

/// A body that is being read.
pub(crate) enum Payload {
    /// As it arrives.
    Whole(Sha256),
    /// Taken out of chunks.
    Chunked(Box<Chunked>),
}

/// A body that was read.
#[derive(Debug)]
pub(crate) enum PayloadRead {
    /// With this hash, which the signature is over.
    Whole([u8; 32]),
    /// Each of its chunks was verified.
    Chunks,
}

impl Payload {
    /// As it arrives.
    pub(crate) fn whole() -> Self {
        Self::Whole(Sha256::new())
    }

    /// The next bytes of the body in what has arrived, which it is taken from; none when all of that is read. Nothing may be done with
    /// any of them before [`Self::finish`] has said that it is well.
    pub(crate) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, ApiError> {
        match self {
            Self::Chunked(chunked) => chunked.next(rest),
            Self::Whole(_) if rest.is_empty() => Ok(None),
            Self::Whole(hash) => {
                let all = std::mem::take(rest);
                hash.update(all);
                Ok(Some(all))
            }
        }
    }

    /// What was read when no more comes.
    pub(crate) fn finish(self) -> Result<PayloadRead, ApiError> {
        match self {
            Self::Whole(hash) => Ok(PayloadRead::Whole(hash.finalize().into())),
            Self::Chunked(chunked) => chunked.finish().map(|()| PayloadRead::Chunks),
        }
    }
}

impl PayloadRead {
    /// Takes away what headers say of chunks that are no more.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let Self::Chunks = self else { return };
        let coded = headers.remove(CONTENT_ENCODING);
        let coded = coded.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        let rest: Vec<_> = coded.split(',').map(str::trim).filter(|coding| *coding != AWS_CHUNKED).collect();
        if let Ok(rest) = HeaderValue::from_str(&rest.join(", "))
            && !rest.is_empty()
        {
            headers.insert(CONTENT_ENCODING, rest);
        }
    }
}
