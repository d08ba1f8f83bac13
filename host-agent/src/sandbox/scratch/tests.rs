//! Images, templates and layers on a disk of the machine that runs the tests.

use super::*;

#[tokio::test]
async fn an_image_is_a_sparse_file_system_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().join("scratch"), Disk::of(dir.path())).unwrap();
    let (first, second) = tokio::join!(scratch.image(512), scratch.image(512));
    let (first, second) = (first.unwrap().file, second.unwrap().file);
    let metadata = first.metadata().unwrap();
    assert_eq!((metadata.size(), metadata.nlink()), (512 << 20, 0));
    assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks are in use", metadata.blocks());
    let mut magic = [0; 2];
    first.read_exact_at(&mut magic, 1024 + 0x38).unwrap();
    assert_eq!(magic, [0x53, 0xef]);
    first.write_all_at(b"mine", 1 << 20).unwrap();
    let mut other = [0; 4];
    second.read_exact_at(&mut other, 1 << 20).unwrap();
    assert_ne!(&other, b"mine");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("scratch")).unwrap().collect();
    assert_eq!(names.len(), 1, "the template and nothing else");
}

#[tokio::test]
async fn what_is_kept_of_an_image_is_what_was_written_to_it_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().join("scratch"), Disk::of(dir.path())).unwrap();
    let image = scratch.image(512).await.unwrap().whole().unwrap();
    image.write_all_at(b"mine", 300 << 20).unwrap();
    let saved = File::create_new(dir.path().join("saved")).unwrap();
    save(&image, &saved).unwrap();
    image.write_all_at(b"late", 300 << 20).unwrap();
    let extents = Extents::of(saved).unwrap();
    assert!(extents.has_data(0..1 << 20) && extents.has_data((300 << 20)..(301 << 20)));
    assert!(!extents.has_data((299 << 20)..(300 << 20)) && extents.data_len() < 4 << 20);
    let mut found = [0; 4];
    extents.file().read_exact_at(&mut found, 300 << 20).unwrap();
    assert_eq!((&found, extents.len()), (b"mine", 512 << 20));
}

#[tokio::test]
async fn a_layer_is_an_empty_file_without_a_name_that_nobody_takes_for_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().to_owned(), Disk::of(dir.path())).unwrap();
    let layer = scratch.layer(512 << 20).unwrap();
    let metadata = layer.try_clone().unwrap().metadata().unwrap();
    assert_eq!((metadata.size(), metadata.blocks(), metadata.nlink()), (512 << 20, 0, 0));
    assert!(matches!(layer.whole(), Err(ScratchError::Partial)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_template_that_was_never_finished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let new = || Scratch::new(dir.path().to_owned(), Disk::of(dir.path())).unwrap();
    new().image(513).await.unwrap();
    let made = names();
    std::fs::write(dir.path().join(&made[0]).with_extension(UNFINISHED), "half a file system").unwrap();
    std::fs::write(dir.path().join(format!("{FORMAT}-514.{UNFINISHED}")), "").unwrap();
    let scratch = new();
    assert_eq!(names(), made);
    scratch.image(513).await.unwrap();
}

#[tokio::test]
async fn two_nodes_make_the_same_template() {
    let dir = tempfile::tempdir().unwrap();
    let make = async |name: &str| {
        let path = dir.path().join(name);
        super::make(&path, 512).await.unwrap();
        std::fs::read(&path).unwrap()
    };
    assert!(make("a.img").await == make("b.img").await);
}

#[tokio::test]
async fn an_image_that_the_disk_has_no_room_for_is_refused_until_another_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().to_owned(), Disk::pretended(1024 << 20)).unwrap();
    let first = scratch.image(512).await.unwrap();
    let refused = scratch.image(512).await.unwrap_err();
    assert!(matches!(refused, ScratchError::Room(DiskError::Full { .. })), "{refused}");
    drop(first);
    scratch.image(512).await.unwrap();
}

#[tokio::test]
async fn a_size_that_cannot_be_made_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().to_owned(), Disk::of(dir.path())).unwrap();
    let error = scratch.image(0).await.unwrap_err();
    assert!(error.to_string().contains("mkfs.ext4"), "{error}");
}
