//! What a layer's bytes go through on the way: a bound, digests, decompression.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use sha2::{Digest as _, Sha256};

use crate::code::hex;

/// A reader whose bytes are summed up as they pass.
pub(super) struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R> Hashed<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, hash: Sha256::new() }
    }

    /// The reader, and the SHA-256 of what was read as lower-case hexadecimal.
    pub(super) fn into_parts(self) -> (R, String) {
        (self.from, hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let len = self.from.read(buffer)?;
        self.hash.update(&buffer[..len]);
        Ok(len)
    }
}

/// A reader has more than it may.
#[derive(Debug, thiserror::Error)]
#[error("it is longer than it may be")]
pub(super) struct Exhausted;

/// A reader that fails where it should have ended.
pub(super) struct Bounded<R> {
    from: R,
    left: u64,
}

impl<R> Bounded<R> {
    pub(super) fn new(from: R, left: u64) -> Self {
        Self { from, left }
    }

    /// The reader, and how much more could have come.
    pub(super) fn into_parts(self) -> (R, u64) {
        (self.from, self.left)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // One byte more than is left shows that there is more.
        let want = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let len = self.from.read(&mut buffer[..want])?;
        self.left = self.left.checked_sub(len as u64).ok_or_else(|| Error::other(Exhausted))?;
        Ok(len)
    }
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a layer is decompressed by.
pub(super) enum Decoder<R> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<Zstd<R>>),
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(from: R, compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Plain(from),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(from))),
            Compression::Zstd => Self::Zstd(Box::new(Zstd { from, decoder: FrameDecoder::new() })),
        }
    }

    /// What it was read from.
    pub(super) fn into_inner(self) -> R {
        match self {
            Self::Plain(from) => from,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(zstd) => zstd.from,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(from) => from.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(zstd) => zstd.read(buffer),
        }
    }
}

/// Frames of zstd one behind the other, as RFC 8878 §3 has them; those that are to be skipped are (`zstd:chunked` ends in one). The
/// decoder bounds the window that a frame may ask for.
pub(super) struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Self { from, decoder } = self;
        loop {
            if decoder.can_collect() > 0 {
                return decoder.read(buffer);
            }
            if !decoder.is_finished() {
                let decoded = decoder.decode_blocks(&mut *from, BlockDecodingStrategy::UptoBlocks(1));
                decoded.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
            } else if from.fill_buf()?.is_empty() {
                return Ok(0);
            } else {
                begin(decoder, from)?;
            }
        }
    }
}

/// Begins the next frame, or skips it.
fn begin(decoder: &mut FrameDecoder, from: &mut impl Read) -> Result<()> {
    match decoder.init(&mut *from) {
        Ok(()) => Ok(()),
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
            let len = u64::from(length);
            let skipped = std::io::copy(&mut from.take(len), &mut std::io::sink())?;
            if skipped == len { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
        }
        Err(error) => Err(Error::new(ErrorKind::InvalidData, error)),
    }
}
