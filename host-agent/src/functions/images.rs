//! Container images that were uploaded to the node, or pulled by an operator, by name and tag: what functions can be made of.
//!
//! ```text
//! images/NAME:TAG   the image that the tag names, as JSON
//! ```
//!
//! A tag is resolved once, when a function is given its image: the function's record says which one that is by its digest
//! (`model::ContainerImage`), and keeps it whatever the tag names later, or when it is removed. All of them are in memory, and one change
//! is made at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use cluster_store::{KeyRange, Op, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Functions, now_ms};
use crate::{
    code::{
        CodeError, CodeStore, Package,
        image::{Description, RunSettings, documents::sha256},
    },
    invoke::CodeImage,
};

/// What all keys begin with.
const PREFIX: &str = "images/";

/// Longest name of an image: what registries take.
const MAX_NAME_LEN: usize = 255;

/// Longest tag, as the OCI distribution specification has it.
const MAX_TAG_LEN: usize = 128;

/// Most tags of a node: all of them are in memory, each with what its image says of how it is run.
const MAX_TAGS: usize = 1000;

/// What a name and a tag, or a digest, are written as: `NAME:TAG`, `NAME@sha256:DIGITS`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageUri {
    /// With a registry's host or without.
    pub(crate) name: String,
    /// Which of that name.
    pub(crate) which: Which,
}

/// Which image of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    /// The one that is tagged so.
    Tag(String),
    /// The one that this is the digest of: lower-case hexadecimal.
    Digest(String),
}

impl std::fmt::Display for ImageUri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.which {
            Which::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Which::Digest(digest) => write!(f, "{}@sha256:{digest}", self.name),
        }
    }
}

/// Why some text is no image's name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not NAME:TAG or NAME@sha256:DIGEST")]
pub(crate) struct ImageUriError(String);

impl std::str::FromStr for ImageUri {
    type Err = ImageUriError;

    fn from_str(text: &str) -> Result<Self, ImageUriError> {
        let wrong = || ImageUriError(text.escape_debug().take(MAX_NAME_LEN).collect());
        let (name, which) = if let Some((name, digest)) = text.split_once('@') {
            (name, Which::Digest(sha256(digest).ok_or_else(wrong)?.into()))
        } else {
            // A port has a slash behind it.
            let (name, tag) = text.rsplit_once(':').filter(|(_, tag)| is_tag(tag)).ok_or_else(wrong)?;
            (name, Which::Tag(tag.into()))
        };
        if is_name(name) { Ok(Self { name: name.into(), which }) } else { Err(wrong()) }
    }
}

/// As the OCI distribution specification has them, with a host before it or not; hosts may have a port.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let ends = [part.bytes().next(), part.bytes().last()];
        ends.iter().all(|byte| byte.is_some_and(plain))
            && part.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
    };
    let is_host = |host: &str| {
        let (host, port) = host.split_once(':').unwrap_or((host, "0"));
        is_part(host) && !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    let several = name.contains('/');
    name.len() <= MAX_NAME_LEN && (is_part(first) || several && is_host(first)) && parts.all(is_part)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_LEN
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

/// An image that a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaggedImage {
    /// Its name.
    pub(crate) name: String,
    /// Its tag.
    pub(crate) tag: String,
    /// SHA-256 of its manifest, lower-case hexadecimal.
    pub(crate) digest: String,
    /// Bytes of configuration and layers as they were stored.
    pub(crate) size: u64,
    /// Bytes of its layers unpacked.
    pub(crate) unpacked: u64,
    /// How it is run.
    pub(crate) run: RunSettings,
    /// Milliseconds since the Unix epoch.
    pub(crate) pushed_ms: i64,
    /// Whether it came from its registry, which says what the tag names.
    #[serde(default)]
    pub(crate) pulled: bool,
}

impl TaggedImage {
    /// What is known of its image.
    pub(crate) fn description(&self) -> Description {
        let Self { digest, size, unpacked, run, .. } = self.clone();
        Description { digest, size, unpacked, run }
    }
}

/// Why images were not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The archive, or the disk.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be written, or read.
    #[error("the record of an image")]
    Record(#[from] serde_json::Error),
    /// As many as there may be.
    #[error("{MAX_TAGS} tags are the most that a node has")]
    TooMany,
}

/// A tagged image, which stays while this lives.
#[derive(Clone, Debug)]
pub(crate) struct HeldImage {
    pub(crate) tagged: Arc<TaggedImage>,
    _image: Arc<CodeImage>,
}

impl HeldImage {
    pub(super) fn new(tagged: TaggedImage, image: Arc<CodeImage>) -> Self {
        Self { tagged: Arc::new(tagged), _image: image }
    }
}

/// The node's images.
pub(crate) struct Images {
    store: Arc<dyn Store>,
    /// By name and tag.
    map: RwLock<BTreeMap<(String, String), HeldImage>>,
    /// One change at a time, so that store and memory say the same.
    turn: Mutex<()>,
}

impl Images {
    /// Reads all tags, and holds their images.
    pub(super) async fn open(store: Arc<dyn Store>, code: &CodeStore) -> Result<Self, ImageError> {
        let mut map = BTreeMap::new();
        let (entries, _) = store.range(KeyRange::prefix(PREFIX.as_bytes()), usize::MAX).await?;
        for entry in entries {
            let tagged: TaggedImage = serde_json::from_slice(&entry.value)?;
            let _image = code.image(&Package::container(&tagged.digest)).await;
            let key = (tagged.name.clone(), tagged.tag.clone());
            map.insert(key, HeldImage { tagged: Arc::new(tagged), _image });
        }
        Ok(Self { store, map: RwLock::new(map), turn: Mutex::default() })
    }

    /// All of them, by name and tag.
    pub(crate) fn list(&self) -> Vec<Arc<TaggedImage>> {
        self.read().values().map(|held| Arc::clone(&held.tagged)).collect()
    }

    /// The image that is meant, if it is here. What a tag names that was pulled is its registry's to say, not this node's.
    pub(crate) fn find(&self, uri: &ImageUri) -> Option<HeldImage> {
        let map = self.read();
        let found = match &uri.which {
            Which::Tag(tag) => map.get(&(uri.name.clone(), tag.clone())).filter(|held| !held.tagged.pulled),
            Which::Digest(digest) => {
                let from_name = map.range((uri.name.clone(), String::new())..);
                let of_name = from_name.take_while(|((name, _), _)| *name == uri.name);
                of_name.map(|(_, held)| held).find(|held| held.tagged.digest == *digest)
            }
        };
        found.cloned()
    }

    async fn put(&self, held: HeldImage) -> Result<(), ImageError> {
        let _turn = self.turn.lock().await;
        let key = (held.tagged.name.clone(), held.tagged.tag.clone());
        if self.read().len() >= MAX_TAGS && !self.read().contains_key(&key) {
            return Err(ImageError::TooMany);
        }
        let value = serde_json::to_vec(&*held.tagged)?;
        self.write(Op::Put { key: store_key(&key), value, lease: None }).await?;
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(key, held);
        Ok(())
    }

    async fn remove(&self, name: &str, tag: &str) -> Result<bool, ImageError> {
        let _turn = self.turn.lock().await;
        let key = (name.to_owned(), tag.to_owned());
        if !self.read().contains_key(&key) {
            return Ok(false);
        }
        self.write(Op::Delete(store_key(&key))).await?;
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(true)
    }

    async fn write(&self, op: Op) -> Result<(), ImageError> {
        self.store.txn(Txn { compares: Vec::new(), ops: vec![op] }).await?;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<(String, String), HeldImage>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// The image that is meant, if it is here and whole.
    pub(crate) async fn find_image(&self, uri: &ImageUri) -> Option<HeldImage> {
        let held = self.images.find(uri)?;
        match self.code.restore(&Package::container(&held.tagged.digest)).await {
            Ok(()) => Some(held),
            Err(error) => {
                tracing::error!(
                    image = held.tagged.name,
                    tag = held.tagged.tag,
                    "it cannot be used: {error}"
                );
                None
            }
        }
    }

    /// Verifies and flattens the image of an archive, and has a tag name it from now on: durable when this returns.
    ///
    /// # Errors
    /// What is wrong with the archive, and the node's.
    pub(crate) async fn push_image(
        self: &Arc<Self>,
        (name, tag): (String, String),
        archive: std::fs::File,
    ) -> Result<Arc<TaggedImage>, ImageError> {
        let (described, image) = self.code.ingest_image(archive).await?;
        let (digest, size, unpacked, run) =
            (described.digest, described.size, described.unpacked, described.run);
        let tagged =
            TaggedImage { name, tag, digest, size, unpacked, run, pushed_ms: now_ms(), pulled: false };
        self.tag_image(HeldImage::new(tagged, image)).await
    }

    /// Has a tag name an image from now on: durable when this returns.
    pub(super) async fn tag_image(self: &Arc<Self>, held: HeldImage) -> Result<Arc<TaggedImage>, ImageError> {
        let tagged = Arc::clone(&held.tagged);
        self.images.put(held).await?;
        // What the tag has named before may be nobody's now.
        self.sweep_later();
        Ok(tagged)
    }

    /// Removes a tag, and its image unless another tag or a function has it; `false` if there is none.
    pub(crate) async fn remove_image(self: &Arc<Self>, name: &str, tag: &str) -> Result<bool, ImageError> {
        let removed = self.images.remove(name, tag).await?;
        self.sweep_later();
        Ok(removed)
    }
}

fn store_key((name, tag): &(String, String)) -> Vec<u8> {
    format!("{PREFIX}{name}:{tag}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_tag_or_a_digest() {
        let tag = |text: &str| text.parse().ok().map(|ImageUri { name, which }| (name, which));
        let tagged = |name: &str, tag: &str| Some((name.into(), Which::Tag(tag.into())));
        assert_eq!(tag("app:1.0"), tagged("app", "1.0"));
        assert_eq!(tag("localhost:5000/team/app:v1"), tagged("localhost:5000/team/app", "v1"));
        let ecr = "000000000000.dkr.ecr.us-east-1.amazonaws.com/app";
        assert_eq!(tag(&format!("{ecr}:latest")), tagged(ecr, "latest"));
        let digest = "0a".repeat(32);
        let pinned = tag(&format!("app@sha256:{digest}"));
        assert_eq!(pinned, Some(("app".into(), Which::Digest(digest.clone()))));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256) + ":1";
        for wrong in [
            "",
            "app",
            ":1",
            "app:",
            "App:1",
            "app:-1",
            "a//b:1",
            "/a:1",
            "a/:1",
            "../a:1",
            "a b:1",
            "app@sha256:12",
            "app@md5:00",
            "localhost:x/app:1",
            "app:1/2",
            "a_:1",
            &long,
        ] {
            assert!(wrong.parse::<ImageUri>().is_err(), "{wrong}");
        }
        assert!(format!("app@sha256:{}", "A".repeat(64)).parse::<ImageUri>().is_err());
    }
}
