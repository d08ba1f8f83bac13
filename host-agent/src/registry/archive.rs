//! Writes the archive of an image as it comes from its registry: a tar of an image layout, as `code::image` reads it. Each blob is compared
//! with length and digest on the way ([`Blob`]), so what is damaged is known here, and tried again.

use std::{collections::BTreeSet, io::Write};

use serde_json::json;

use super::{
    Found, Refusal,
    blob::{Blob, Patience},
    client::Client,
    manifest::{Manifested, checked},
};
use crate::code::image::documents::{Descriptor, MANIFESTS, MAX_DOCUMENT_LEN, MAX_LAYERS, blob_name};

/// Unit of a tar.
const BLOCK: u64 = 512;

/// Most files of an archive: layers, configuration, manifest, index and marker.
const MAX_FILES: u64 = MAX_LAYERS as u64 + 4;

/// Most bytes of an archive beside what [`Found::size`] counts: headers, padding, the manifest, index and marker, the end.
pub(super) const OVERHEAD: u64 = MAX_DOCUMENT_LEN + (2 * MAX_FILES + 8) * BLOCK;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// The registry's fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be written.
    #[error("cannot write the archive")]
    Write(#[from] std::io::Error),
}

/// Fetches all that a manifest names.
pub(super) async fn write(
    client: &mut Client,
    image: Manifested,
    max_len: u64,
    to: &mut impl Write,
) -> Result<Found, ArchiveError> {
    let Manifested { found, manifest, bytes } = image;
    if found.size.saturating_add(OVERHEAD) > max_len {
        let problem = format!("it has {} bytes, which are more than was said", found.size);
        return Err(Refusal::Unsuitable(problem).into());
    }
    let descriptor = json!({ "mediaType": MANIFESTS[0], "digest": format!("sha256:{}", found.digest), "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] }).to_string();
    whole(to, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    whole(to, "index.json", index.as_bytes())?;
    whole(to, &blob_name(&found.digest), &bytes)?;
    let mut patience = Patience::new();
    let mut there = BTreeSet::from([found.digest.clone()]);
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        let digits = checked(&descriptor.digest)?;
        if there.insert(digits.to_owned()) {
            blob(client, &mut patience, descriptor, digits, to).await?;
        }
    }
    to.write_all(&[0; 2 * BLOCK as usize])?;
    to.flush()?;
    Ok(found)
}

async fn blob(
    client: &mut Client,
    patience: &mut Patience,
    descriptor: &Descriptor,
    digits: &str,
    to: &mut impl Write,
) -> Result<(), ArchiveError> {
    head(to, &blob_name(digits), descriptor.size)?;
    let mut blob = Blob::open(client, patience, digits, descriptor.size).await?;
    while let Some(piece) = blob.piece().await? {
        to.write_all(&piece)?;
    }
    Ok(pad(to, descriptor.size)?)
}

fn whole(to: &mut impl Write, name: &str, content: &[u8]) -> std::io::Result<()> {
    head(to, name, content.len() as u64)?;
    to.write_all(content)?;
    pad(to, content.len() as u64)
}

fn head(to: &mut impl Write, name: &str, len: u64) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(len);
    header.set_mode(0o644);
    header.set_cksum();
    to.write_all(header.as_bytes())
}

fn pad(to: &mut impl Write, len: u64) -> std::io::Result<()> {
    let rest = (len.next_multiple_of(BLOCK) - len) as usize;
    to.write_all(&[0; BLOCK as usize][..rest])
}
