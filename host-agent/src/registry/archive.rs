//! Writes the archive of an image as it comes from its registry: a tar of an image layout, as `code::image` reads it. Each blob is compared
//! with length and digest on the way, so that what is cut off or damaged is known here, and tried again.

use std::{collections::BTreeSet, io::Write};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Found, Refusal,
    client::Client,
    manifest::{Manifested, checked},
};
use crate::code::{
    hex,
    image::documents::{Descriptor, MANIFESTS, MAX_DOCUMENT_LEN, MAX_LAYERS, blob_name},
};

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
    let mut there = BTreeSet::from([found.digest.clone()]);
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        let digits = checked(&descriptor.digest)?;
        if there.insert(digits.to_owned()) {
            blob(client, descriptor, digits, to).await?;
        }
    }
    to.write_all(&[0; 2 * BLOCK as usize])?;
    to.flush()?;
    Ok(found)
}

async fn blob(
    client: &mut Client,
    descriptor: &Descriptor,
    digits: &str,
    to: &mut impl Write,
) -> Result<(), ArchiveError> {
    head(to, &blob_name(digits), descriptor.size)?;
    let mut body = client.blob(digits).await?;
    let (mut len, mut hash) = (0u64, Sha256::new());
    let other = |problem: &str, place: String| {
        Refusal::Unavailable(format!("blob sha256:{digits} of {place} {problem}"))
    };
    while let Some(piece) = body.piece().await? {
        len += piece.len() as u64;
        if len > descriptor.size {
            return Err(other("is longer than its manifest says", body.place()).into());
        }
        hash.update(&piece);
        to.write_all(&piece)?;
    }
    if len != descriptor.size {
        return Err(other("is cut off", body.place()).into());
    }
    if hex(&hash.finalize()) != digits {
        return Err(other("is not what its digest says", body.place()).into());
    }
    Ok(pad(to, len)?)
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
