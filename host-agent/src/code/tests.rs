//! Tests of the code store: what is kept, what is collected, what survives.

use std::io::{Cursor, Write as _};

use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;
use crate::chunks::tests::{chunks_in, text_of};

/// A zip with one file.
pub(crate) fn zip_of(name: &str, content: &str) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, SimpleFileOptions::default()).unwrap();
    zip.write_all(content.as_bytes()).unwrap();
    zip.finish().unwrap().into_inner().into()
}

fn open(dir: &Path) -> CodeStore {
    CodeStore::open(dir, Builder::InProcess, Disk::of(dir), chunks_in(dir)).unwrap()
}

#[tokio::test]
async fn a_full_disk_takes_no_code_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::pretended(BUILD_LEN);
    let store =
        CodeStore::open(dir.path(), Builder::InProcess, Arc::clone(&disk), chunks_in(dir.path())).unwrap();
    let refused = store.ingest(zip_of("a", "1"), Vec::new()).await.unwrap_err();
    assert!(matches!(refused, CodeError::Disk(DiskError::Full { .. })), "{refused}");
    for folder in ["code", "chunks/origin/roots", "builds"] {
        assert_eq!(std::fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder}");
    }
    disk.pretend(2 * BUILD_LEN);
    store.ingest(zip_of("a", "1"), Vec::new()).await.unwrap();
}

/// Names of the files under `dir`, sorted.
fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for sub in ["builds", "code", "chunks/origin/roots"] {
        for entry in std::fs::read_dir(dir.join(sub)).unwrap() {
            names.push(format!("{sub}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn an_upload_is_kept_while_it_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let zip = zip_of("index.py", "x");
    let (code, handle) = store.ingest(zip.clone(), Vec::new()).await.unwrap();
    assert_eq!(code.size, zip.len() as u64);
    assert_eq!(code.sha256, hex(&Sha256::digest(&zip)));
    assert_eq!(store.zip(&code.sha256).await.unwrap(), zip);
    assert!(store.chunks.has(&handle.label));

    store.sweep().await.unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    drop(handle);
    store.sweep().await.unwrap();
    assert_eq!(files(dir.path()), Vec::<String>::new());
    assert!(store.zip(&code.sha256).await.is_err());
}

#[tokio::test]
async fn equal_uploads_are_kept_once_and_share_a_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let zip = zip_of("index.py", "x");
    let (first, second) = tokio::join!(store.ingest(zip.clone(), Vec::new()), store.ingest(zip, Vec::new()));
    let (first, second) = (first.unwrap().1, second.unwrap().1);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(files(dir.path()).len(), 2);
    drop(first);
    store.sweep().await.unwrap();
    assert!(store.chunks.has(&second.label));
}

#[tokio::test]
async fn a_refused_upload_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for bytes in [&b"no zip"[..], b""] {
        let refused = store.ingest(Bytes::from(bytes), Vec::new()).await;
        assert!(matches!(refused, Err(CodeError::Build(BuildError::Refused(_)))));
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_image_is_made_again_from_the_zip() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (code, handle) = store.ingest(zip_of("index.py", "x"), Vec::new()).await.unwrap();
    let before = store.chunks.content(&handle.label).unwrap().manifest().clone();
    store.chunks.delete(&handle.label).unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(!store.chunks.has(&handle.label));
    store.restore(&Package::alone(&code.sha256)).await.unwrap();
    assert_eq!(*store.chunks.content(&handle.label).unwrap().manifest(), before);
}

#[tokio::test]
async fn what_a_killed_agent_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::create_dir(dir.path().join("builds/unfinished")).unwrap();
    for old in ["images", "runtimes"] {
        std::fs::create_dir(dir.path().join(old)).unwrap();
        std::fs::write(dir.path().join(old).join("00.erofs"), "a whole image").unwrap();
    }
    std::fs::write(dir.path().join("runtimes/python3.13.pack"), "no image").unwrap();
    std::fs::write(dir.path().join("code/00.zip#1"), "staged").unwrap();
    std::fs::write(dir.path().join("code/00.zip"), "unnamed").unwrap();
    let unnamed = "code-11".parse().unwrap();
    let image = b"unnamed".to_vec();
    chunks_in(dir.path()).publish(&unnamed, Kind::Code, ChunkSize::IMAGE, &image).unwrap();
    let store = open(dir.path());
    assert_eq!(files(dir.path()), ["chunks/origin/roots/code-11", "code/00.zip"]);
    assert!(!dir.path().join("images").exists());
    let left: Vec<_> = std::fs::read_dir(dir.path().join("runtimes")).unwrap().collect();
    assert_eq!(left.len(), 1, "somebody's");
    store.sweep().await.unwrap();
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_zip_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (code, handle) = store.ingest(zip_of("index.py", "x"), Vec::new()).await.unwrap();
    std::fs::write(dir.path().join(format!("code/{}.zip", code.sha256)), zip_of("index.py", "y")).unwrap();
    assert!(matches!(store.zip(&code.sha256).await, Err(CodeError::Damaged { .. })));
    store.chunks.delete(&handle.label).unwrap();
    assert!(store.restore(&Package::alone(&code.sha256)).await.is_err());
}

/// What the image of a package is, with the tar as the image.
fn image_of(store: &CodeStore, handle: &CodeImage) -> Vec<String> {
    let content = store.chunks.content(&handle.label).unwrap();
    let tar = text_of(&content);
    super::archive::tests::entries_of(tar.as_bytes()).into_iter().map(|(path, ..)| path).collect()
}

#[tokio::test]
async fn code_and_layers_are_one_image_and_keep_the_zips_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (layer, layer_handle) = store.ingest_layer(zip_of("lib/l.py", "1")).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1, "a layer by itself has no image");
    let (code, handle) = store.ingest(zip_of("index.py", "x"), vec![layer.sha256.clone()]).await.unwrap();
    assert_eq!(image_of(&store, &handle), ["task", "task/index.py", "opt", "opt/lib", "opt/lib/l.py"]);
    // The version of the layer is deleted; the function goes on.
    drop(layer_handle);
    store.sweep().await.unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    store.chunks.delete(&handle.label).unwrap();
    store
        .restore(&Package { kind: PackageKind::Zip, code: code.sha256, layers: vec![layer.sha256] })
        .await
        .unwrap();
    assert!(store.chunks.has(&handle.label));
    drop(handle);
    store.sweep().await.unwrap();
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_full_disk_takes_no_layer_and_gives_no_function_any() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::pretended(4 * BUILD_LEN);
    let store =
        CodeStore::open(dir.path(), Builder::InProcess, Arc::clone(&disk), chunks_in(dir.path())).unwrap();
    let (layer, _kept) = store.ingest_layer(zip_of("l", "1")).await.unwrap();
    let (code, _image) = store.ingest(zip_of("a", "1"), Vec::new()).await.unwrap();
    disk.pretend(BUILD_LEN);
    let package = Package { kind: PackageKind::Zip, code: code.sha256, layers: vec![layer.sha256] };
    let full = |error| matches!(error, CodeError::Disk(DiskError::Full { .. }));
    assert!(full(store.assemble(&package).await.unwrap_err()));
    assert!(full(store.ingest_layer(zip_of("l", "2")).await.unwrap_err()));
    disk.pretend(4 * BUILD_LEN);
    store.assemble(&package).await.unwrap();
    disk.pretend(0);
    store.assemble(&package).await.unwrap();
}

#[tokio::test]
async fn a_refused_layer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for bytes in [&b"no zip"[..], b""] {
        let refused = store.ingest_layer(Bytes::from(bytes)).await;
        assert!(matches!(refused, Err(CodeError::Build(BuildError::Refused(_)))));
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());
}
