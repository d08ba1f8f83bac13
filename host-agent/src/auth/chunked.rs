//! Bodies that come in chunks of a client's own (`aws-chunked`), each signed after the one before, and trailers behind them.
//!
//! ```text
//!  ┌──────────────────────────────────────────────┐
//!  ▼                                              │
//! Head ──size, signature──► Data ──all of it──► Break     Trailers ──empty line──► Done
//!  └──────────────────────size 0──────────────────────────────▲
//! ```
//!
//! A chunk is hashed as it arrives and verified at its end; whoever is given its bytes before that throws them away when
//! `next` or `finish` fails. What this keeps itself is one line.

use axum::http::HeaderMap;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use crc32fast::Hasher as Crc32;
use hmac::Mac as _;
use sha2::{Digest as _, Sha256};

use super::{header, mac, unhex};
use crate::{api::ApiError, code::hex, identity::Secret};

/// How long the decoded body is, which a client has to say.
const DECODED_LEN: &str = "x-amz-decoded-content-length";
/// Which trailers follow.
const TRAILER: &str = "x-amz-trailer";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Longest line, in bytes: a chunk's size and signature are 99, a checksum's name and value are fewer.
const MAX_LINE_LEN: usize = 256;

/// Most lines of trailers: a checksum and a signature are what there is.
const MAX_TRAILERS: usize = 8;

/// Shortest chunk but for the last, as S3 has it: who sends shorter ones would have the node verify a signature for each few bytes.
const MIN_CHUNK_LEN: usize = 8 * 1024;

/// Longest chunk, in hexadecimal digits: longer than any body.
const MAX_SIZE_DIGITS: usize = 8;

/// Whether something follows the last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailer {
    /// Nothing.
    None,
    /// What `X-Amz-Trailer` names.
    Announced,
}

/// What chunks are signed with, each after another.
#[derive(Debug)]
pub(super) struct ChunkSigner {
    pub(super) date: String,
    pub(super) scope: String,
    pub(super) signing_key: Secret<[u8; 32]>,
    /// In hexadecimal: the request's, then each chunk's.
    pub(super) last: String,
}

impl ChunkSigner {
    /// Verifies the next signature of a kind, over what is given as hashes of it.
    fn verify(&mut self, kind: &str, hashed: &[String], signature: &str) -> Result<(), ApiError> {
        let lines = [&[kind.to_owned(), self.date.clone(), self.scope.clone(), self.last.clone()], hashed];
        let expected = unhex(signature).ok_or_else(ApiError::wrong_signature)?;
        // Compares in constant time.
        mac(self.signing_key.expose())
            .chain_update(lines.concat().join("\n"))
            .verify_slice(&expected)
            .map_err(|_| ApiError::wrong_signature())?;
        signature.clone_into(&mut self.last);
        Ok(())
    }
}

/// A checksum among the trailers.
#[derive(Debug)]
enum Checksum {
    /// None is announced; or chunks are signed, which says more.
    None,
    Crc32(Crc32),
    Sha256(Sha256),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// A chunk's first line.
    Head,
    /// So many bytes are to come.
    Data(usize),
    /// The end of a chunk's line.
    Break,
    /// What follows the last chunk.
    Trailers,
    Done,
}

/// Reads such a body.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// What has come of a line.
    line: Vec<u8>,
    /// None: chunks are not signed.
    signer: Option<ChunkSigner>,
    /// The signature of the chunk that is being read, and its hash so far.
    signature: String,
    hash: Sha256,
    has_short_chunk: bool,
    /// What is still to come of the body.
    left: u64,
    /// The announced checksum's trailer.
    checksum: Checksum,
    announced: Vec<String>,
    trailers: Vec<(String, String)>,
}

impl Chunked {
    /// For a request's headers. Without a signer chunks have no signatures, and then a checksum that is announced is verified.
    pub(super) fn new(
        headers: &HeaderMap,
        signer: Option<ChunkSigner>,
        trailer: Trailer,
    ) -> Result<Self, ApiError> {
        let left = header(headers, DECODED_LEN).and_then(|len| len.parse().ok());
        let left = left.ok_or_else(|| malformed("X-Amz-Decoded-Content-Length is missing or no number."))?;
        let names = header(headers, TRAILER).unwrap_or_default();
        let announced: Vec<_> = names
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        if announced.is_empty() == (trailer == Trailer::Announced) || announced.len() > MAX_TRAILERS {
            return Err(malformed("X-Amz-Trailer does not name what follows the body."));
        }
        let mut checksum = Checksum::None;
        if signer.is_none() {
            checksum = match &announced[..] {
                [name] if name == "x-amz-checksum-crc32" => Checksum::Crc32(Crc32::new()),
                [name] if name == "x-amz-checksum-sha256" => Checksum::Sha256(Sha256::new()),
                _ => {
                    return Err(malformed(
                        "Of X-Amz-Trailer, this Tinderbox node verifies x-amz-checksum-crc32 and x-amz-checksum-sha256.",
                    ));
                }
            };
        }
        Ok(Self {
            state: State::Head,
            line: Vec::new(),
            signer,
            signature: String::new(),
            hash: Sha256::new(),
            has_short_chunk: false,
            left,
            checksum,
            announced,
            trailers: Vec::new(),
        })
    }

    /// The next bytes of the body in what has arrived, which it is taken from; none when all of that is read.
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, ApiError> {
        while !rest.is_empty() {
            match self.state {
                State::Data(left) => {
                    let (data, behind) = rest.split_at(left.min(rest.len()));
                    *rest = behind;
                    self.take(data, left)?;
                    return Ok(Some(data));
                }
                State::Done => return Err(malformed("The body goes on after its end.")),
                State::Head | State::Break | State::Trailers => {
                    let Some(line) = self.line(rest)? else { break };
                    self.read(&line)?;
                }
            }
        }
        Ok(None)
    }

    /// Whether the whole body has come.
    pub(super) fn finish(&self) -> Result<(), ApiError> {
        if self.state == State::Done {
            Ok(())
        } else {
            Err(malformed("The body ends before its last chunk."))
        }
    }

    /// A part of a chunk, of which so much was to come.
    fn take(&mut self, data: &[u8], left: usize) -> Result<(), ApiError> {
        self.hash.update(data);
        match &mut self.checksum {
            Checksum::None => {}
            Checksum::Crc32(sum) => sum.update(data),
            Checksum::Sha256(sum) => sum.update(data),
        }
        self.state = State::Data(left - data.len());
        if left == data.len() {
            self.verify_chunk()?;
            self.state = State::Break;
        }
        Ok(())
    }

    fn verify_chunk(&mut self) -> Result<(), ApiError> {
        let hash = hex(&std::mem::take(&mut self.hash).finalize());
        let Some(signer) = &mut self.signer else { return Ok(()) };
        let nothing = hex(&Sha256::digest(b""));
        signer.verify("AWS4-HMAC-SHA256-PAYLOAD", &[nothing, hash], &self.signature)
    }

    /// A whole line without its end, if it has come.
    fn line(&mut self, rest: &mut &[u8]) -> Result<Option<String>, ApiError> {
        while let Some((&byte, behind)) = rest.split_first() {
            *rest = behind;
            if byte == b'\n' {
                let mut line = std::mem::take(&mut self.line);
                line.pop_if(|last| *last == b'\r')
                    .ok_or_else(|| malformed("A line ends without a return."))?;
                return String::from_utf8(line).map(Some).map_err(|_| malformed("A line is no text."));
            }
            if self.line.len() == MAX_LINE_LEN {
                return Err(malformed("A line is too long."));
            }
            self.line.push(byte);
        }
        Ok(None)
    }

    fn read(&mut self, line: &str) -> Result<(), ApiError> {
        match self.state {
            State::Head => self.begin(line),
            State::Break if line.is_empty() => {
                self.state = State::Head;
                Ok(())
            }
            State::Break => Err(malformed("A chunk is longer than its size.")),
            _ if line.is_empty() => self.end(),
            _ => {
                let (name, value) = line.split_once(':').ok_or_else(|| malformed("A trailer is none."))?;
                self.trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
                if self.trailers.len() > MAX_TRAILERS {
                    return Err(malformed("There are too many trailers."));
                }
                Ok(())
            }
        }
    }

    /// The first line of a chunk.
    fn begin(&mut self, line: &str) -> Result<(), ApiError> {
        let (size, signature) = match (line.split_once(";chunk-signature="), &self.signer) {
            (Some((size, signature)), Some(_)) => (size, signature),
            (None, None) => (line, ""),
            _ => return Err(malformed("A chunk does not begin as it has to.")),
        };
        let is_size =
            (1..=MAX_SIZE_DIGITS).contains(&size.len()) && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = is_size.then(|| usize::from_str_radix(size, 16).ok()).flatten();
        let size = size.ok_or_else(|| malformed("A chunk's size is no number."))?;
        let left = self.left.checked_sub(size as u64);
        self.left = left.ok_or_else(|| malformed("The body is longer than X-Amz-Decoded-Content-Length."))?;
        if size > 0 && self.has_short_chunk {
            return Err(malformed(&format!("Only the last chunk may have less than {MIN_CHUNK_LEN} bytes.")));
        }
        self.has_short_chunk = size < MIN_CHUNK_LEN;
        signature.clone_into(&mut self.signature);
        if size > 0 {
            self.state = State::Data(size);
            return Ok(());
        }
        if self.left > 0 {
            return Err(malformed("The body is shorter than X-Amz-Decoded-Content-Length."));
        }
        self.state = State::Trailers;
        self.verify_chunk()
    }

    /// What follows the last chunk is there.
    fn end(&mut self) -> Result<(), ApiError> {
        let signature = self.trailers.pop_if(|(name, _)| name == TRAILER_SIGNATURE);
        let names: Vec<_> = self.trailers.iter().map(|(name, _)| name.clone()).collect();
        if names != self.announced {
            return Err(malformed("The trailers are not those of X-Amz-Trailer."));
        }
        match (&mut self.signer, signature) {
            (None, None) => {}
            (Some(_), None) if names.is_empty() => {}
            (Some(signer), Some((_, signature))) if !names.is_empty() => {
                let lines: String =
                    self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
                signer.verify("AWS4-HMAC-SHA256-TRAILER", &[hex(&Sha256::digest(lines))], &signature)?;
            }
            _ => return Err(ApiError::wrong_signature()),
        }
        let sum = match std::mem::replace(&mut self.checksum, Checksum::None) {
            Checksum::None => None,
            Checksum::Crc32(sum) => Some(BASE64_STANDARD.encode(sum.finalize().to_be_bytes())),
            Checksum::Sha256(sum) => Some(BASE64_STANDARD.encode(sum.finalize())),
        };
        if sum.is_some() && sum.as_ref() != self.trailers.first().map(|(_, value)| value) {
            return Err(malformed("The body is not what its checksum says."));
        }
        self.state = State::Done;
        Ok(())
    }
}

fn malformed(message: &str) -> ApiError {
    ApiError::invalid_content(message)
}
