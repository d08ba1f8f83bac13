//! Documents that describe an image, as the OCI image specification and Docker's schema 2 have them: what of them is looked at. An archive
//! holds them (`layout`), and a registry answers with them (`registry::manifest`).

use std::collections::BTreeMap;

use serde::Deserialize;

/// Longest document: what registries take of a manifest.
pub(crate) const MAX_DOCUMENT_LEN: u64 = 4 * 1024 * 1024;

/// How deep indexes are within each other: one in the layout's.
pub(crate) const MAX_DEPTH: usize = 3;

/// Most layers: what Docker's own storage has room for.
pub(crate) const MAX_LAYERS: usize = 127;

/// Names something by what it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// Of what kind it is.
    #[serde(default)]
    pub(crate) media_type: String,
    /// `ALGORITHM:DIGITS`, not checked.
    pub(crate) digest: String,
    /// Bytes of it.
    pub(crate) size: u64,
    /// What it is for, if that is said.
    pub(crate) platform: Option<Platform>,
    /// What else is said.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What an image is for.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    /// As Go calls it.
    pub(crate) architecture: String,
    /// The same.
    pub(crate) os: String,
}

/// Images for several platforms.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    /// And other indexes.
    pub(crate) manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    /// How it is run.
    pub(crate) config: Descriptor,
    /// From the lowest on.
    pub(crate) layers: Vec<Descriptor>,
}

impl Manifest {
    /// Bytes of configuration and layers as they are stored.
    pub(crate) fn size(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// Media types of one image.
pub(crate) const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

/// Media types of an index.
pub(crate) const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

pub(crate) fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

impl Descriptor {
    /// What says no platform may be for ours: its configuration will tell. What a builder attests is no image.
    pub(crate) fn may_be_ours(&self) -> bool {
        let attests = self.annotations.contains_key("vnd.docker.reference.type");
        !attests
            && self.platform.as_ref().is_none_or(|platform| is_ours(&platform.os, &platform.architecture))
    }
}

pub(crate) fn is_ours(os: &str, architecture: &str) -> bool {
    (os, architecture) == ("linux", "amd64")
}

/// The digits of `sha256:DIGITS`, the one algorithm that is in use.
pub(crate) fn sha256(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits))
}

/// Whether this is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// What the file of a blob is called in an image layout.
pub(crate) fn blob_name(digits: &str) -> String {
    format!("blobs/sha256/{digits}")
}
