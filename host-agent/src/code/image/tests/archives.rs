//! Archives of images as builders write them, and what no builder would.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::*;
use crate::code::hex;

/// What an entry of a layer is.
#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    File(&'a str, u32, &'a [u8]),
    Dir(&'a str, u32),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str),
}

/// A layer's tar. Names are written as they are, whatever they are.
pub(crate) fn layer_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let mut set = |kind, mode, name: &str, content: &[u8]| {
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(1000);
            header.set_gid(100);
            header.set_mtime(1_700_000_000);
            header.set_size(content.len() as u64);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        };
        let (content, target): (&[u8], &str) = match *entry {
            Entry::File(name, mode, content) => {
                set(EntryType::Regular, mode, name, content);
                (content, "")
            }
            Entry::Dir(name, mode) => {
                set(EntryType::Directory, mode, name, b"");
                (b"", "")
            }
            Entry::Link(name, target) => {
                set(EntryType::Symlink, 0o777, name, b"");
                (b"", target)
            }
            Entry::Hard(name, target) => {
                set(EntryType::Link, 0o644, name, b"");
                (b"", target)
            }
            Entry::Device(name) => {
                set(EntryType::Block, 0o666, name, b"");
                (b"", "")
            }
        };
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// An archive of an image layout.
pub(crate) struct Oci {
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Oci {
    /// With an image of these layers for linux/amd64, each with the end of its media type and its stored bytes.
    pub(crate) fn of(layers: &[(&str, Vec<u8>, Vec<u8>)], config: &Value) -> Self {
        let mut oci = Self { files: Vec::new() };
        let diff_ids: Vec<_> = layers.iter().map(|(_, tar, _)| format!("sha256:{}", sha256(tar))).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = oci.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, _, stored)| {
                oci.blob(&format!("application/vnd.oci.image.layer.v1.{kind}"), stored.clone())
            })
            .collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let manifest =
            oci.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        oci.index(&[manifest]);
        oci
    }

    /// With plain layers.
    pub(crate) fn plain(layers: &[Vec<u8>], config: &Value) -> Self {
        let layers: Vec<_> = layers.iter().map(|tar| ("tar", tar.clone(), tar.clone())).collect();
        Self::of(&layers, config)
    }

    pub(super) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor =
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        let name = format!("blobs/sha256/{digest}");
        if !self.files.iter().any(|(there, _)| *there == name) {
            self.files.push((name, bytes));
        }
        descriptor
    }

    pub(super) fn index(&mut self, manifests: &[Value]) {
        self.files.retain(|(name, _)| name.starts_with("blobs/"));
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        self.files.push(("index.json".into(), index.into_bytes()));
        self.files.push(("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()));
    }

    /// The manifest's digest and descriptor.
    pub(super) fn manifest(&self) -> Value {
        let (_, index) = self.files.iter().find(|(name, _)| name == "index.json").unwrap();
        serde_json::from_slice::<Value>(index).unwrap()["manifests"][0].clone()
    }

    pub(crate) fn digest(&self) -> String {
        self.manifest()["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.files {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }
}
