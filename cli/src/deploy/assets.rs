//! Where a template's code is: below its folder, or in CDK's assets, whose manifest says which folder would be which key of a bucket.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The assets of one stack.
#[derive(Debug, Default)]
pub(crate) struct Assets {
    folder: PathBuf,
    /// By the keys that they would have.
    by_key: BTreeMap<String, Found>,
}

#[derive(Debug)]
enum Found {
    At(PathBuf),
    /// CDK would run a program to make it.
    Made,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    files: BTreeMap<String, File>,
}

#[derive(Deserialize)]
struct File {
    source: From,
    #[serde(default)]
    destinations: BTreeMap<String, Destination>,
}

#[derive(Deserialize)]
struct From {
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destination {
    object_key: String,
}

impl Assets {
    /// Of a template in a folder, without a manifest.
    pub(crate) fn below(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), by_key: BTreeMap::new() }
    }

    /// Reads CDK's manifest beside a template.
    ///
    /// # Errors
    /// It is no manifest.
    pub(crate) fn with_manifest(folder: &Path, manifest: &[u8]) -> serde_json::Result<Self> {
        let Manifest { files } = serde_json::from_slice(manifest)?;
        let mut assets = Self::below(folder);
        for File { source, destinations } in files.into_values() {
            for Destination { object_key } in destinations.into_values() {
                let found = source.path.as_ref().map_or(Found::Made, |path| Found::At(folder.join(path)));
                assets.by_key.insert(object_key, found);
            }
        }
        Ok(assets)
    }

    /// What paths of the template are relative to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder or file that would be that key of a bucket, if one of them would.
    pub(crate) fn find(&self, key: &str) -> Result<Option<PathBuf>, String> {
        match self.by_key.get(key) {
            None => Ok(None),
            Some(Found::At(path)) => Ok(Some(path.clone())),
            Some(Found::Made) => Err(format!("the asset {key} is made by a program, which is not run")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_is_found_by_its_key() {
        let manifest = br#"{ "version": "1", "files": {
            "a": { "source": { "path": "asset.a", "packaging": "zip" }, "destinations": { "d": { "objectKey": "a.zip" } } },
            "b": { "source": { "executable": ["make"] }, "destinations": { "d": { "objectKey": "b.zip" } } } } }"#;
        let assets = Assets::with_manifest(Path::new("/out"), manifest).unwrap();
        assert_eq!(assets.find("a.zip"), Ok(Some("/out/asset.a".into())));
        assert_eq!(assets.find("c.zip"), Ok(None));
        assert!(assets.find("b.zip").unwrap_err().contains("made by a program"));
        assert!(Assets::with_manifest(Path::new("/out"), b"[").is_err());
    }
}
