//! A node's contents over a real directory: what is published, handed out, deleted, and what a restart finds.

use std::{
    fs::{self, File},
    io::Write as _,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use chunk_store::{ChunkSize, Kind, Label, MAX_ANSWER_LEN, Reader, Salt, write_pack};
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use tokio::time::timeout;

use super::*;
use crate::sandbox::packet::PacketSocket;

/// Room for everything.
pub(crate) const CACHE_LEN: u64 = 1 << 30;

/// How long a socket takes nothing that is full.
const SOON: Duration = Duration::from_millis(200);

/// The contents under a directory.
pub(crate) fn chunks_in(dir: &Path) -> Arc<Chunks> {
    Chunks::open(dir, CACHE_LEN).unwrap()
}

/// Makes a pack of some text where a runtime's image would be.
pub(crate) fn pack_of(text: &str, path: &Path) {
    let mut content = tempfile::tempfile().unwrap();
    content.write_all(text.as_bytes()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Beside it: another one may be open.
    let new = path.with_extension("new");
    write_pack(&content, Kind::Image, ChunkSize::IMAGE, &Salt::public(), &File::create(&new).unwrap())
        .unwrap();
    fs::rename(new, path).unwrap();
}

/// All of a content, as the agent reads it.
pub(crate) fn text_of(content: &Content) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(content.manifest().content().len).unwrap();
    content.read_all(|offset, bytes| std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset)).unwrap();
    std::io::read_to_string(&mut file).unwrap()
}

/// All of a content, as a VMM reads it.
pub(crate) fn read_handed(Handed([table, slots, asks]): Handed) -> Result<Vec<u8>, chunk_store::ReadError> {
    let mut reader = Reader::new(table.into(), slots.into(), asks)?;
    let mut all = Vec::new();
    for index in 0.. {
        let mut chunk = vec![0; reader.chunk_len(index)];
        if chunk.is_empty() {
            break;
        }
        reader.read(index, &mut chunk)?;
        all.extend(chunk);
    }
    Ok(all)
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// Some chunks that differ, some zeros, and a short one.
fn plain() -> Vec<u8> {
    let mut plain = vec![0; 5 * 16384 + 100];
    for (number, byte) in plain[..2 * 16384].iter_mut().enumerate() {
        *byte = (number / 7) as u8;
    }
    plain[5 * 16384 + 7] = 9;
    plain
}

fn publish(chunks: &Chunks, name: &str) {
    chunks.publish(&label(name), Kind::Memory, ChunkSize::MEMORY, &plain()).unwrap();
}

async fn handed(content: &Arc<Content>) -> Vec<u8> {
    let handed = content.hand().unwrap();
    crate::code::blocking(move || read_handed(handed)).await.unwrap()
}

#[tokio::test]
async fn what_is_published_is_read_by_the_agent_and_by_vmms() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    assert_eq!(handed(&content).await, plain());
    drop((content, chunks));

    // Another agent, without what the first one kept beside.
    fs::remove_dir_all(dir.path().join("chunks/cache")).unwrap();
    let chunks = chunks_in(dir.path());
    let content = chunks.content(&label("a")).unwrap();
    assert_eq!(handed(&content).await, plain(), "all of it is asked for");
    assert_eq!(handed(&content).await, plain(), "and is there from then on");
    assert_eq!(chunks.cache.stats().fetched, 3);
}

#[tokio::test]
async fn a_copy_that_is_damaged_is_fetched_anew_and_nobody_notices() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    let slots = dir.path().join("chunks/cache/slots-14");
    fs::write(&slots, vec![7; fs::metadata(&slots).unwrap().len() as usize]).unwrap();
    assert_eq!(handed(&content).await, plain());
    assert_eq!((chunks.cache.stats().damaged, chunks.cache.stats().fetched), (3, 3));
    // The directory can go, too.
    fs::remove_dir_all(dir.path().join("chunks/cache")).unwrap();
    assert_eq!(handed(&content).await, plain());
}

#[tokio::test]
async fn a_chunk_that_is_lost_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    drop(chunks);
    fs::remove_dir_all(dir.path().join("chunks/cache")).unwrap();
    for file in fs::read_dir(dir.path().join("chunks/origin/chunks")).unwrap() {
        let file = file.unwrap();
        // Not what says which chunks there are.
        if !file.file_name().to_str().unwrap().contains('.') {
            fs::write(file.path(), "damaged").unwrap();
        }
    }
    let content = chunks_in(dir.path()).content(&label("a")).unwrap();
    let handed = content.hand().unwrap();
    let error = crate::code::blocking(move || read_handed(handed)).await.unwrap_err();
    assert!(error.to_string().contains("chunk 0 is not to be had"), "{error}");
}

/// The first byte that comes back, if any does.
async fn asked(content: &Arc<Content>, question: &[u8]) -> Option<u8> {
    let Handed([_table, _slots, asks]) = content.hand().unwrap();
    let asks = PacketSocket::new(asks).unwrap();
    asks.send(question, &[]).await.unwrap();
    let mut answer = [0; MAX_ANSWER_LEN];
    let (len, _) = asks.receive(&mut answer).await.unwrap();
    answer[..len].first().copied()
}

#[tokio::test]
async fn what_one_vmm_does_to_its_descriptors_no_other_one_notices() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    let (Handed([table, slots, _]), Handed(theirs)) = (content.hand().unwrap(), content.hand().unwrap());
    for fd in [table, slots] {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
        assert!(is_direct(&fd));
    }
    let Handed(later) = content.hand().unwrap();
    assert!(theirs.iter().chain(&later).all(|fd| !is_direct(fd)));
}

fn is_direct(fd: &OwnedFd) -> bool {
    fcntl(fd, FcntlArg::F_GETFL).unwrap() & OFlag::O_DIRECT.bits() != 0
}

/// Longest that a test waits for a disk.
const FOR_A_DISK: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_was_missing_in_the_page_cache_is_there_for_the_next_one() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    let is_past_cache = || {
        let Handed([table, slots, asks]) = content.hand().unwrap();
        let mut reader = Reader::new(table.into(), slots.into(), asks).unwrap();
        reader.in_bulk();
        reader.is_past_cache()
    };
    let slots = File::open(dir.path().join("chunks/cache/slots-14")).unwrap();
    slots.sync_all().unwrap();
    posix_fadvise(&slots, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    assert!(is_past_cache() && is_past_cache(), "nobody brings them but the agent");
    content.warm(Duration::ZERO);
    let warmed = async {
        while is_past_cache() {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOR_A_DISK, warmed).await.expect("they are read in the end");
}

#[tokio::test]
async fn a_vmm_that_asks_nonsense_is_heard_no_more_and_holds_up_nobody() {
    const NO: Option<u8> = Some(0);
    const YES: Option<u8> = Some(1);
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    // Sent one after the other, and never read.
    let Handed([_table, _slots, deaf]) = content.hand().unwrap();
    let deaf = PacketSocket::new(deaf).unwrap();
    while timeout(SOON, deaf.send(&0_u32.to_le_bytes(), &[])).await.is_ok() {}
    for index in [6, u32::MAX] {
        assert_eq!(asked(&content, &index.to_le_bytes()).await, NO, "{index}");
    }
    for nonsense in [&b"\0"[..], b"\0\0\0", b"\0\0\0\0\0", &[7; 4096]] {
        assert_eq!(asked(&content, nonsense).await, None, "{nonsense:?}");
    }
    assert_eq!(asked(&content, &0_u32.to_le_bytes()).await, YES);
    assert_eq!(handed(&content).await, plain());
}

#[tokio::test]
async fn what_is_deleted_stays_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    chunks.delete(&label("a")).unwrap();
    chunks.collect().unwrap();
    assert!(!chunks.has(&label("a")) && chunks.labels().unwrap().len() == 1);
    fs::remove_dir_all(dir.path().join("chunks/cache")).unwrap();
    assert_eq!(handed(&content).await, plain());
    // Its VMMs are gone, and with them what answers them.
    while Arc::strong_count(&content) > 1 {
        tokio::task::yield_now().await;
    }
    drop(content);
    assert!(chunks.labels().unwrap().is_empty());
    assert!(chunks.content(&label("a")).unwrap_err().is_missing());
    chunks.delete(&label("a")).unwrap();
}

#[tokio::test]
async fn what_is_published_again_while_it_is_being_deleted_stays() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    publish(&chunks, "a");
    let content = chunks.content(&label("a")).unwrap();
    chunks.delete(&label("a")).unwrap();
    publish(&chunks, "a");
    drop(content);
    assert!(chunks.has(&label("a")));
    let content = chunks.content(&label("a")).unwrap();
    chunks.delete(&label("a")).unwrap();
    assert!(chunks.claim(&label("a")) && !chunks.claim(&label("b")));
    drop(content);
    assert!(chunks.has(&label("a")), "it was claimed");
    assert_eq!(handed(&chunks.content(&label("a")).unwrap()).await, plain());
}

/// Ten thousand chunks, of which the first, one in the middle and the last are no zeros.
struct Long;

impl Plain for Long {
    fn len(&self) -> u64 {
        10_000 * 16_384
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<bool> {
        let number = offset / 16_384;
        buffer.fill(number as u8 | 1);
        Ok([0, 5_000, 9_999].contains(&number))
    }
}

#[tokio::test]
async fn of_a_long_content_only_what_is_asked_for_is_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    chunks.publish(&label("a"), Kind::Memory, ChunkSize::MEMORY, &Long).unwrap();
    let content = chunks.content(&label("a")).unwrap();
    for _ in 0..2 {
        let all = handed(&content).await;
        let found = all.chunks(16_384).enumerate().filter(|(_, chunk)| chunk[0] != 0);
        assert_eq!(
            found.map(|(number, chunk)| (number, chunk[0])).collect::<Vec<_>>(),
            [(0, 1), (5_000, 5_000u64 as u8 | 1), (9_999, 9_999u64 as u8 | 1)]
        );
    }
    assert_eq!(chunks.cache.stats().hits, 3, "the second time the table knows");
}

#[tokio::test]
async fn a_pack_is_read_as_it_is_and_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    let path = dir.path().join("runtimes/a.pack");
    assert!(chunks.pack(&path).unwrap_err().is_missing());
    pack_of("an image", &path);
    assert_eq!(text_of(&chunks.pack(&path).unwrap()), "an image");
    chunks.adopt(&label("kept"), &path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(text_of(&chunks.content(&label("kept")).unwrap()), "an image");
}

#[tokio::test]
async fn equal_contents_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = chunks_in(dir.path());
    let stored = || chunks.store.stats().unwrap().chunks;
    publish(&chunks, "a");
    let once = stored();
    publish(&chunks, "b");
    assert_eq!((once, stored()), (3, 3));
    chunks.delete(&label("a")).unwrap();
    chunks.collect().unwrap();
    assert_eq!(stored(), 3, "the other one needs them");
    chunks.delete(&label("b")).unwrap();
    chunks.collect().unwrap();
    assert_eq!(stored(), 0);
}
