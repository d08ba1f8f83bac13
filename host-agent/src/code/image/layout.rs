//! The documents of an OCI archive: which image is in it, what its configuration says, and where its layers are.
//!
//! An archive is a tar of an image layout (OCI image layout specification 1.0): `oci-layout`, `index.json`, and blobs under the digest
//! of what they are. `docker save` writes one since Docker 25, and so do `skopeo copy … oci-archive:` and `docker buildx build --output
//! type=oci`. From an index of images for several platforms the one for linux/amd64 is taken, as Lambda has it on this processor.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Seek, SeekFrom},
};

use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType};

use super::{
    Description, ImageRefusal, RunSettings,
    documents::{
        self, Descriptor, Index, MAX_DEPTH, MAX_DOCUMENT_LEN, MAX_LAYERS, Manifest, blob_name, is_index,
        is_ours,
    },
    layer::Layer,
    readers::Compression,
};
use crate::code::hex;

/// Most files of an archive: an image has some dozens.
const MAX_FILES: usize = 10_000;

/// Most bytes of what an image says of how it is run: what Linux takes of arguments and environment is 128 KiB for each.
const MAX_SETTINGS_LEN: usize = 128 * 1024;

/// An image of an archive.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) description: Description,
    /// From the lowest on.
    pub(super) layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<Container>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// Reads an archive's documents.
pub(super) fn read(archive: &mut (impl Read + Seek)) -> Result<Image, ImageRefusal> {
    let mut layout = Layout::find(archive)?;
    let marker: Marker = layout.document("oci-layout")?;
    if !marker.image_layout_version.starts_with("1.") {
        return Err(unusable(format!("image layout {} is not known", marker.image_layout_version)));
    }
    let index: Index = layout.document("index.json")?;
    let mut found = BTreeMap::new();
    layout.choose(&index, &mut found, 1)?;
    let mut found = found.into_values();
    let (Some(manifest), others) = (found.next(), found.len()) else { return Err(ImageRefusal::Platform) };
    if others > 0 {
        return Err(unusable("the archive holds several images".into()));
    }
    let digest = checked_digest(&manifest)?.to_owned();
    let manifest: Manifest = layout.blob(&manifest)?;
    let (size, Manifest { config, layers }) = (manifest.size(), manifest);
    let configuration: Configuration = layout.blob(&config)?;
    if !is_ours(&configuration.os, &configuration.architecture) {
        return Err(ImageRefusal::Platform);
    }
    let diff_ids = &configuration.rootfs.diff_ids;
    if layers.len() != diff_ids.len() || layers.len() > MAX_LAYERS {
        return Err(unusable(format!(
            "it has {} layers, its configuration {}; {MAX_LAYERS} are the most",
            layers.len(),
            diff_ids.len()
        )));
    }
    let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| layout.layer(layer, diff_id));
    let layers = layers.collect::<Result<_, _>>()?;
    let run = run_settings(configuration.config.unwrap_or_default())?;
    Ok(Image { description: Description { digest, size, unpacked: 0, run }, layers })
}

/// Where the files of an archive are.
struct Layout<'a, A> {
    archive: &'a mut A,
    /// Offset and length, by name.
    files: BTreeMap<String, (u64, u64)>,
}

impl<'a, A: Read + Seek> Layout<'a, A> {
    fn find(archive: &'a mut A) -> Result<Self, ImageRefusal> {
        let unreadable = |error| unusable(format!("not a usable archive: {error}"));
        let (mut files, mut tar) = (BTreeMap::new(), Archive::new(&mut *archive));
        for (number, entry) in tar.entries_with_seek().map_err(unreadable)?.enumerate() {
            let entry = entry.map_err(unreadable)?;
            if number >= MAX_FILES {
                return Err(unusable(format!("the archive has more than {MAX_FILES} files")));
            }
            if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let place = (entry.raw_file_position(), entry.size());
            if files.insert(name, place).is_some() {
                return Err(unusable("two files of the archive have one name".into()));
            }
        }
        Ok(Self { archive, files })
    }

    fn document<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ImageRefusal> {
        parsed(&self.bytes(name)?, name)
    }

    /// A document that is named by its digest.
    fn blob<T: DeserializeOwned>(&mut self, descriptor: &Descriptor) -> Result<T, ImageRefusal> {
        let digest = checked_digest(descriptor)?;
        let bytes = self.bytes(&blob_name(digest))?;
        if bytes.len() as u64 != descriptor.size || hex(&Sha256::digest(&bytes)) != digest {
            return Err(ImageRefusal::Digest(format!("document sha256:{digest}")));
        }
        parsed(&bytes, digest)
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, ImageRefusal> {
        let (offset, len) = self.place(name)?;
        if len > MAX_DOCUMENT_LEN {
            return Err(unusable(format!("{name} has more than {MAX_DOCUMENT_LEN} bytes")));
        }
        let unreadable = |error| unusable(format!("{name} cannot be read: {error}"));
        self.archive.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        let mut bytes = Vec::new();
        (&mut *self.archive).take(len).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    fn place(&self, name: &str) -> Result<(u64, u64), ImageRefusal> {
        self.files
            .get(name)
            .copied()
            .ok_or_else(|| unusable(format!("not an OCI archive: {name} is missing")))
    }

    /// The manifests of images for this machine, by their digests.
    fn choose(
        &mut self,
        index: &Index,
        found: &mut BTreeMap<String, Descriptor>,
        depth: usize,
    ) -> Result<(), ImageRefusal> {
        let mut seen = BTreeSet::new();
        let ours = index.manifests.iter().filter(|descriptor| descriptor.may_be_ours());
        for descriptor in ours.filter(|descriptor| seen.insert(&descriptor.digest)) {
            if !is_index(&descriptor.media_type) {
                found.insert(descriptor.digest.clone(), descriptor.clone());
            } else if depth < MAX_DEPTH {
                let inner: Index = self.blob(descriptor)?;
                self.choose(&inner, found, depth + 1)?;
            } else {
                return Err(unusable("its indexes are too deep within each other".into()));
            }
        }
        Ok(())
    }

    fn layer(&self, descriptor: &Descriptor, diff_id: &str) -> Result<Layer, ImageRefusal> {
        let digest = checked_digest(descriptor)?;
        let (offset, len) = self.place(&blob_name(digest))?;
        if len != descriptor.size {
            return Err(ImageRefusal::Digest(format!("layer sha256:{digest}")));
        }
        let compression = match descriptor.media_type.rsplit_once(['.', '+']) {
            Some((base, "gzip")) if is_layer(base) => Compression::Gzip,
            Some((base, "zstd")) if is_layer(base) => Compression::Zstd,
            _ if is_layer(&descriptor.media_type) => Compression::None,
            _ => {
                let media_type: String = descriptor.media_type.escape_debug().take(200).collect();
                return Err(unusable(format!("a layer of type `{media_type}` is not known")));
            }
        };
        let diff_id = sha256(diff_id)?.to_owned();
        Ok(Layer { offset, len, compression, digest: digest.to_owned(), diff_id })
    }
}

/// Without what says how it is compressed. Layers that are somewhere else than in the archive have other types.
fn is_layer(media_type: &str) -> bool {
    ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"]
        .contains(&media_type)
}

fn checked_digest(descriptor: &Descriptor) -> Result<&str, ImageRefusal> {
    sha256(&descriptor.digest)
}

/// The digits of `sha256:DIGITS`.
fn sha256(digest: &str) -> Result<&str, ImageRefusal> {
    documents::sha256(digest).ok_or_else(|| {
        unusable(format!("`{}` is no SHA-256", digest.escape_debug().take(200).collect::<String>()))
    })
}

fn run_settings(container: Container) -> Result<RunSettings, ImageRefusal> {
    let Container { env, entrypoint, cmd, working_dir } = container;
    let working_directory = working_dir.filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into());
    let (entry_point, command, env) =
        (entrypoint.unwrap_or_default(), cmd.unwrap_or_default(), env.unwrap_or_default());
    let all = [&entry_point, &command, &env].into_iter().flatten().chain([&working_directory]);
    let len = all.clone().map(|text| text.len() + 1).sum::<usize>();
    if len > MAX_SETTINGS_LEN {
        return Err(unusable(format!(
            "what it says of how it is run has more than {MAX_SETTINGS_LEN} bytes"
        )));
    }
    if all.into_iter().any(|text| text.contains('\0')) {
        return Err(unusable("what it says of how it is run has a NUL in it".into()));
    }
    let environment = env.iter().filter_map(|variable| variable.split_once('='));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(RunSettings { entry_point, command, working_directory, environment })
}

fn parsed<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T, ImageRefusal> {
    serde_json::from_slice(bytes).map_err(|error| unusable(format!("{name} is no such document: {error}")))
}

fn unusable(problem: String) -> ImageRefusal {
    ImageRefusal::Unusable(problem)
}
