//! A blob as it comes, over as many connections as it takes: one that breaks off goes on where it was. Its length is bounded by what its
//! manifest says, and its digest is compared at the end, so whoever sends the rest can only waste time.

use sha2::{Digest as _, Sha256};

use super::{
    Refusal,
    client::{Body, Client},
};
use crate::code::hex;

/// Most times that the blobs of an image break off.
const MAX_BREAKS: u32 = 16;

/// Most connections one after the other that bring nothing more.
const MAX_FRUITLESS: u32 = 3;

/// How often blobs of an image may still break off.
pub(super) struct Patience(u32);

impl Patience {
    /// For a whole image.
    pub(super) fn new() -> Self {
        Self(MAX_BREAKS)
    }
}

/// What has come of a blob.
pub(super) struct Blob<'a> {
    client: &'a mut Client,
    patience: &'a mut Patience,
    digits: &'a str,
    size: u64,
    body: Body,
    hash: Sha256,
    len: u64,
    /// How much had come when it last broke off, and how often nothing has come since.
    broken_at: u64,
    fruitless: u32,
}

impl<'a> Blob<'a> {
    /// `digits`: its SHA-256, lower-case hexadecimal; `size`: its bytes, as the manifest says.
    ///
    /// # Errors
    /// The registry does not give it.
    pub(super) async fn open(
        client: &'a mut Client,
        patience: &'a mut Patience,
        digits: &'a str,
        size: u64,
    ) -> Result<Self, Refusal> {
        let body = client.blob(digits, 0).await?;
        let hash = Sha256::new();
        Ok(Self { client, patience, digits, size, body, hash, len: 0, broken_at: 0, fruitless: 0 })
    }

    /// The next piece; none after the last one, when all of it is what its digest says.
    ///
    /// # Errors
    /// It is another one, or breaks off too often.
    pub(super) async fn piece(&mut self) -> Result<Option<bytes::Bytes>, Refusal> {
        loop {
            let why = match self.body.piece().await {
                Ok(Some(piece)) => return self.taken(piece).map(Some),
                Ok(None) if self.len < self.size => self.other("is cut off"),
                Err(why) if self.len < self.size => why,
                // Whatever the connection's end was like: nothing is missing.
                Ok(None) | Err(_) => return self.whole().map(|()| None),
            };
            self.go_on(why).await?;
        }
    }

    fn taken(&mut self, piece: bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
        self.len += piece.len() as u64;
        if self.len > self.size {
            return Err(self.other("is longer than its manifest says"));
        }
        self.hash.update(&piece);
        Ok(piece)
    }

    fn whole(&mut self) -> Result<(), Refusal> {
        if hex(&std::mem::take(&mut self.hash).finalize()) != self.digits {
            return Err(self.other("is not what its digest says"));
        }
        Ok(())
    }

    /// The rest by another connection, if there is hope.
    async fn go_on(&mut self, mut why: Refusal) -> Result<(), Refusal> {
        loop {
            self.fruitless = if self.len > self.broken_at { 0 } else { self.fruitless + 1 };
            self.broken_at = self.len;
            // Of which nothing has come at all, the registry does not have now.
            let is_hopeless = self.len == 0 || self.fruitless == MAX_FRUITLESS || self.patience.0 == 0;
            if is_hopeless || !matches!(why, Refusal::Unavailable(_)) {
                return Err(why);
            }
            self.patience.0 -= 1;
            tokio::time::sleep(self.client.pace().pause * 2_u32.pow(self.fruitless)).await;
            match self.client.blob(self.digits, self.len).await {
                Ok(body) => {
                    self.body = body;
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
    }

    fn other(&self, problem: &str) -> Refusal {
        Refusal::Unavailable(format!("blob sha256:{} of {} {problem}", self.digits, self.body.place()))
    }
}
