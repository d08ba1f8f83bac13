//! Segments: what has a name is whole and has it for as long as it should, wherever the power fails; and what nobody needs any more
//! takes no room.

use std::fs::{self, File};
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::segments::Segments;
use super::*;

/// Bytes of a block.
const BLOCK: u64 = 4096;

struct Disk {
    folder: TempDir,
    segments: Segments,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let segments = Segments::open(folder.path().join("chunks")).unwrap();
        Self { folder, segments }
    }

    fn write(&self, publish: u64, chunks: &[u8]) {
        chunks.iter().for_each(|chunk| self.segments.write(publish, name(*chunk), &body(*chunk)).unwrap());
    }

    /// Written, named, and not flushed.
    fn name(&self, publish: u64, chunks: &[u8]) {
        self.write(publish, chunks);
        chunks.iter().for_each(|chunk| self.segments.finish(publish, name(*chunk)).unwrap());
        self.segments.end(publish);
    }

    fn remove(&self, chunks: &[u8]) {
        chunks.iter().for_each(|chunk| self.segments.remove(&name(*chunk)));
    }

    fn flush(&self) {
        let due = self.segments.begin_flush().unwrap();
        self.segments.flushed(due);
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path().join("chunks")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }

    fn index(&self, number: usize) -> PathBuf {
        let files = self.files();
        let name = files.iter().filter(|name| name.contains('.')).nth(number).unwrap();
        self.folder.path().join("chunks").join(name)
    }

    /// The next start, on a copy, which may have been changed.
    fn restarted(&self, change: impl FnOnce(&Disk)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chunks = folder.path().join("chunks");
        fs::create_dir(&chunks).unwrap();
        for file in self.files() {
            fs::copy(self.folder.path().join("chunks").join(&file), chunks.join(&file)).unwrap();
        }
        let mut copy = Self { segments: Segments::open(folder.path().join("none")).unwrap(), folder };
        change(&copy);
        copy.segments = Segments::open(chunks).unwrap();
        copy
    }

    /// Exactly these chunks are there, each whole.
    #[track_caller]
    fn has(&self, chunks: &[u8]) {
        let listed: BTreeSet<_> = (0..=u8::MAX).flat_map(|first| self.segments.list(first)).collect();
        assert_eq!(listed, chunks.iter().map(|chunk| name(*chunk)).collect());
        for chunk in chunks {
            assert!(self.segments.holds(&name(*chunk)));
            assert_eq!(self.segments.read(&name(*chunk), 1000).unwrap(), body(*chunk));
            assert_eq!(self.segments.len(&name(*chunk)).unwrap(), body(*chunk).len() as u64);
        }
    }
}

#[test]
fn what_has_been_flushed_is_there_and_nothing_else() {
    let disk = Disk::new();
    disk.name(1, &[1, 2]);
    disk.has(&[1, 2]);
    disk.restarted(|_| ()).has(&[]);
    disk.flush();
    disk.write(2, &[3]);
    disk.restarted(|_| ()).has(&[1, 2]);
    assert_eq!(disk.restarted(|_| ()).files().len(), 2, "a segment that was not finished is deleted");
    disk.remove(&[1]);
    disk.has(&[2]);
    disk.restarted(|_| ()).has(&[1, 2]);
    disk.flush();
    let disk = disk.restarted(|_| ());
    disk.has(&[2]);
    disk.name(3, &[4]);
    disk.flush();
    disk.has(&[2, 4]);
}

/// Any of the indexes that a flush writes may be there, cut off or not, and any of those that it deletes.
#[test]
fn power_fails_at_any_step_of_a_flush() {
    let disk = Disk::new();
    disk.name(1, &[1, 2, 3]);
    disk.name(2, &[4, 5]);
    disk.flush();
    let before = disk.restarted(|_| ());
    disk.remove(&[2, 5]);
    disk.name(3, &[6]);
    let due = disk.segments.begin_flush().unwrap();
    let (olds, news): (Vec<_>, Vec<_>) = disk
        .files()
        .into_iter()
        .filter(|name| name.contains('.'))
        .partition(|name| before.files().contains(name));
    assert_eq!((olds.len(), news.len()), (2, 3));
    // Three states of each of the three.
    for case in 0..27_u32 {
        let copy = disk.restarted(|copy| {
            for (place, name) in news.iter().enumerate() {
                let path = copy.folder.path().join("chunks").join(name);
                match case / 3_u32.pow(u32::try_from(place).unwrap()) % 3 {
                    0 => fs::remove_file(path).unwrap(),
                    1 => {
                        let len = fs::metadata(&path).unwrap().len();
                        File::options().write(true).open(path).unwrap().set_len(len - 1).unwrap();
                    }
                    _ => {}
                }
            }
        });
        for kept in [1, 3, 4] {
            assert_eq!(copy.segments.read(&name(kept), 1000).unwrap(), body(kept), "case {case}");
        }
        copy.flush();
        copy.restarted(|_| ()).segments.read(&name(1), 1000).unwrap();
    }
    disk.segments.flushed(due);
    disk.has(&[1, 3, 4, 6]);
    assert_eq!(disk.files().len(), 6, "{:?}", disk.files());
    disk.restarted(|_| ()).has(&[1, 3, 4, 6]);
}

#[test]
fn a_flush_that_fails_is_made_up_for_by_the_next() {
    let disk = Disk::new();
    disk.name(1, &[1, 2]);
    for _ in 0..2 {
        let due = disk.segments.begin_flush().unwrap();
        // What came to the disk of it is not known.
        fs::write(disk.index(0), b"something else").unwrap();
        disk.segments.failed(due);
        disk.has(&[1, 2]);
    }
    disk.flush();
    assert_eq!(disk.files().len(), 2, "{:?}", disk.files());
    disk.restarted(|_| ()).has(&[1, 2]);
}

#[test]
fn a_chunk_that_is_written_anew_is_in_the_old_index_until_it_is_in_the_new_one() {
    let disk = Disk::new();
    disk.name(1, &[1, 2]);
    disk.flush();
    disk.name(2, &[1]);
    disk.remove(&[2]);
    let due = disk.segments.begin_flush().unwrap();
    // The new segment's index did not come to the disk, the old one's did.
    let copy = disk.restarted(|copy| fs::remove_file(copy.index(2)).unwrap());
    copy.has(&[1]);
    disk.segments.flushed(due);
    disk.has(&[1]);
    disk.flush();
    assert_eq!(disk.files().len(), 2, "the old segment is gone: {:?}", disk.files());
    disk.restarted(|_| ()).has(&[1]);
}

#[test]
fn what_nobody_needs_takes_no_room() {
    let disk = Disk::new();
    let empty = taken(disk.folder.path());
    disk.name(1, &[0, 1, 2, 3, 4, 5]);
    disk.flush();
    assert_eq!(taken(disk.folder.path()) - empty, 6 * BLOCK + BLOCK);
    disk.remove(&[1, 2, 5]);
    disk.flush();
    disk.has(&[0, 3, 4]);
    assert_eq!(taken(disk.folder.path()) - empty, 3 * BLOCK + BLOCK);
    disk.remove(&[0, 3, 4]);
    disk.flush();
    assert_eq!((disk.files().len(), taken(disk.folder.path())), (0, empty));

    disk.write(2, &[7, 8]);
    disk.segments.discard(2, name(7)).unwrap();
    assert_eq!(disk.segments.discard(2, name(7)).unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.segments.finish(2, name(8)).unwrap();
    disk.segments.end(2);
    disk.flush();
    assert_eq!(taken(disk.folder.path()) - empty, BLOCK + BLOCK, "what a draft took is given back");
    disk.write(3, &[9]);
    disk.segments.discard(3, name(9)).unwrap();
    disk.segments.end(3);
    assert_eq!(disk.files().len(), 2, "of a publish that named nothing, nothing is left");
}

/// Power has failed between an index and the hole that it stands for.
#[test]
fn room_that_was_not_given_back_is_found_at_the_next_start() {
    const MANY: u8 = 40;
    let disk = Disk::new();
    let chunks: Vec<u8> = (0..MANY).collect();
    disk.name(1, &chunks);
    disk.flush();
    disk.remove(&chunks[1..]);
    let _due = disk.segments.begin_flush().unwrap();
    let disk = disk.restarted(|_| ());
    disk.has(&[0]);
    assert!(taken(disk.folder.path()) > u64::from(MANY) * BLOCK);
    disk.flush();
    disk.has(&[0]);
    assert_eq!(disk.files().len(), 2);
    assert!(taken(disk.folder.path()) < 4 * BLOCK);
}

#[test]
fn chunks_are_read_while_they_are_moved() {
    let disk = Disk::new();
    disk.name(0, &[1, 2]);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for publish in 1..200 {
                disk.name(publish, &[1]);
                disk.flush();
            }
        });
        while !mover.is_finished() {
            assert_eq!(disk.segments.read(&name(1), 1000).unwrap(), body(1));
        }
    });
    assert_eq!(disk.segments.read(&name(2), 5).unwrap(), body(2)[..6], "one more than was asked for");
}

#[test]
fn what_is_no_segment_is_left_alone() {
    let disk = Disk::new();
    disk.name(1, &[1]);
    disk.flush();
    let names = ["notes", "0000000000000000.0", "00000000000000000", "000000000000000G", ".00000000"];
    let copy = disk.restarted(|copy| {
        names.iter().for_each(|name| fs::write(copy.folder.path().join("chunks").join(name), "x").unwrap());
    });
    copy.has(&[1]);
    assert_eq!(copy.files().len(), 2 + names.len());
}

#[test]
fn chunks_that_were_files_are_taken_over() {
    let root = tempfile::tempdir().unwrap();
    let made = publish(&Store::open(root.path()).unwrap(), &label(0), &[1, 2]);
    // As it was: a file for each, in a folder by its first byte, and drafts beside them.
    fs::remove_dir_all(root.path().join("chunks")).unwrap();
    for chunk in [1, 2] {
        let text = name(chunk).to_string();
        let folder = root.path().join("chunks").join(&text[..2]);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(&text), body(chunk)).unwrap();
        fs::write(folder.join(format!("{text}.3.part")), "half").unwrap();
    }
    for _ in 0..2 {
        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.verify().unwrap(), Health { chunks: 2, ..Health::default() });
        assert_eq!(Manifest::decode(&store.manifest(&label(0)).unwrap()), Ok(made.clone()));
        assert_eq!(files(root.path()), 2);
    }
}
