//! Tests of `archive`: what a hostile zip does, and that a good one becomes the same tree.

use std::io::{Cursor, Read as _, Write as _};

use proptest::prelude::*;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

/// A zip with these entries: name, Unix mode with type bits, content.
pub(in crate::code) fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(mode & 0o777);
        match mode & TYPE_MASK {
            TYPE_LINK => zip.add_symlink(*name, String::from_utf8_lossy(content), options).unwrap(),
            TYPE_DIR => zip.add_directory(*name, options).unwrap(),
            _ => {
                zip.start_file(*name, options).unwrap();
                zip.write_all(content).unwrap();
            }
        }
    }
    zip.finish().unwrap().into_inner()
}

/// The tar's entries: path, mode, link target or content.
fn tar_of(zip: &[u8]) -> Result<Vec<(String, u32, Vec<u8>)>, Refusal> {
    let mut tar = Vec::new();
    match repack(Cursor::new(zip), &mut tar) {
        Ok(()) => {}
        Err(RepackError::Refused(refusal)) => return Err(refusal),
        Err(error) => panic!("{error}"),
    }
    Ok(entries_of(&tar))
}

/// As [`tar_of`], of what is a tar already.
pub(in crate::code) fn entries_of(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        match entry.link_name().unwrap() {
            Some(target) => content.extend_from_slice(target.to_string_lossy().as_bytes()),
            None => drop(entry.read_to_end(&mut content).unwrap()),
        }
        (path, entry.header().mode().unwrap(), content)
    });
    entries.collect()
}

fn refused(zip: &[u8]) -> String {
    tar_of(zip).expect_err("the zip was taken").to_string()
}

/// Replaces every occurrence of a name by another of the same length: what no zip writer would write.
fn rename(zip: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut renamed = zip;
    for at in 0..renamed.len() - from.len() {
        if &renamed[at..at + from.len()] == from.as_bytes() {
            renamed[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
    }
    renamed
}

#[test]
fn a_package_becomes_a_tree() {
    let zip = zip_of(&[
        ("index.py", 0o100_600, b"x"),
        ("bin/run", 0o100_700, b"#!"),
        ("lib/", 0o040_700, b""),
        ("lib/deep/mod.py", 0o100_644, b"y"),
        ("lib/link", 0o120_777, b"../index.py"),
    ]);
    let expected: Vec<(String, u32, Vec<u8>)> = [
        ("bin", 0o755, ""),
        ("bin/run", 0o755, "#!"),
        ("index.py", 0o644, "x"),
        ("lib", 0o755, ""),
        ("lib/deep", 0o755, ""),
        ("lib/deep/mod.py", 0o644, "y"),
        ("lib/link", 0o777, "../index.py"),
    ]
    .map(|(path, mode, content)| (path.into(), mode, content.as_bytes().to_vec()))
    .into();
    assert_eq!(tar_of(&zip).unwrap(), expected);
}

#[test]
fn the_same_zip_makes_the_same_tar() {
    let zip = zip_of(&[("b", 0, b"2"), ("a/c", 0, b"1")]);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    repack(Cursor::new(&zip), &mut one).unwrap();
    repack(Cursor::new(&zip), &mut two).unwrap();
    assert_eq!(one, two);
}

#[test]
fn what_is_no_zip_is_refused() {
    for bytes in [&b""[..], b"this is no zip", b"PK\x03\x04", &[0; 100]] {
        assert!(matches!(tar_of(bytes), Err(Refusal::Unusable(_))));
    }
    let good = zip_of(&[("a", 0, b"content that is long enough to be cut")]);
    assert!(matches!(tar_of(&good[..good.len() / 2]), Err(Refusal::Unusable(_))));
}

#[test]
fn an_empty_zip_is_refused_by_its_own_name() {
    assert_eq!(tar_of(&zip_of(&[])), Err(Refusal::Empty));
    assert_eq!(tar_of(&zip_of(&[("./", 0o040_755, b"")])), Err(Refusal::Empty));
}

#[test]
fn a_path_cannot_lead_out() {
    for (name, why) in
        [("../x", "out of"), ("a/../../x", "out of"), ("/etc/passwd", "absolute"), ("a/..", "out of")]
    {
        let stand_in = "q".repeat(name.len());
        let zip = rename(zip_of(&[(&stand_in, 0, b"x")]), &stand_in, name);
        assert!(refused(&zip).contains(why), "{name}");
    }
}

#[test]
fn a_link_cannot_lead_out() {
    for (path, target) in
        [("l", "/etc/passwd"), ("l", "../x"), ("d/l", "../../x"), ("d/l", "x/../../.."), ("l", "x/..")]
    {
        assert!(
            refused(&zip_of(&[(path, TYPE_LINK, target.as_bytes())])).contains("link"),
            "{path} -> {target}"
        );
    }
}

#[test]
fn one_name_cannot_be_two_things() {
    let twice = rename(zip_of(&[("aaaa", 0, b"1"), ("bbbb", 0, b"2")]), "bbbb", "aaaa");
    assert!(refused(&twice).contains("one name"));
    assert!(refused(&zip_of(&[("a/b", 0, b"1"), ("a/./b", 0, b"2")])).contains("twice"));
    assert!(refused(&zip_of(&[("a", 0, b"1"), ("a/b", 0, b"2")])).contains("no directory"));
    assert!(refused(&zip_of(&[("l", TYPE_LINK, b"d"), ("l/b", 0, b"2")])).contains("no directory"));
    assert!(refused(&zip_of(&[("a/b", 0, b"1"), ("a", 0, b"2")])).contains("twice"));
}

/// Sets a field of the only central header: its signature is `PK\1\2`.
pub(in crate::code) fn patch_central(mut zip: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let at = zip.windows(4).position(|window| window == b"PK\x01\x02").unwrap() + offset;
    zip[at..at + bytes.len()].copy_from_slice(bytes);
    zip
}

#[test]
fn special_files_encryption_and_other_methods_are_refused() {
    let zip = || zip_of(&[("a", 0o100_644, b"x")]);
    let fifo = patch_central(zip(), 38, &(0o010_644u32 << 16).to_le_bytes());
    assert!(refused(&fifo).contains("special"));
    let encrypted = patch_central(zip(), 8, &1u16.to_le_bytes());
    assert!(refused(&encrypted).contains("encrypted"));
    let bzip2 = patch_central(zip(), 10, &12u16.to_le_bytes());
    assert!(refused(&bzip2).contains("deflate"));
}

#[test]
fn a_declared_size_is_a_bound_and_a_promise() {
    let zip = || zip_of(&[("a", 0o100_644, &[7; 1000])]);
    let size = |len: u32| patch_central(zip(), 24, &len.to_le_bytes());
    assert_eq!(tar_of(&size(262_144_001)), Err(Refusal::TooLarge));
    assert!(matches!(tar_of(&size(10)), Err(Refusal::Unusable(_))));
    assert!(matches!(tar_of(&size(100_000)), Err(Refusal::Unusable(_))));
    let sum = patch_central(zip(), 16, &[1, 2, 3, 4]);
    assert!(matches!(tar_of(&sum), Err(Refusal::Unusable(_))));
}

/// The zip's directory with its last header changed to lie over the first entry, and its name with it.
fn overlapped(mut zip: Vec<u8>) -> Vec<u8> {
    let last = zip.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    zip[last + 42..last + 46].copy_from_slice(&0u32.to_le_bytes());
    zip
}

#[test]
fn entries_that_lie_over_each_other_count_each_for_itself() {
    let content = [7; 1000];
    let zip = overlapped(zip_of(&[("a", 0o100_644, &content), ("b", 0o100_644, &content)]));
    let entries = tar_of(&zip).unwrap();
    assert!(entries.iter().all(|(_, _, unpacked)| unpacked == &content), "{entries:?}");
    // Two that are said to be as long as all may be: told from the directory, before anything is unpacked.
    let half = (MAX_UNZIPPED_LEN / 2 + 1) as u32;
    let mut bomb = zip;
    for at in 0..bomb.len() - 28 {
        if &bomb[at..at + 4] == b"PK\x01\x02" {
            bomb[at + 24..at + 28].copy_from_slice(&half.to_le_bytes());
        }
    }
    assert_eq!(tar_of(&bomb), Err(Refusal::TooLarge));
}

/// A zip of what comes before its directory, the directory, and the two ends that say so many entries.
fn with_directory(front: &[u8], directory: &[u8], count: u64) -> Vec<u8> {
    let mut zip = [front, directory].concat();
    let end = zip.len() as u64;
    zip.extend(b"PK\x06\x06");
    zip.extend(44u64.to_le_bytes());
    zip.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for field in [count, count, directory.len() as u64, front.len() as u64] {
        zip.extend(field.to_le_bytes());
    }
    zip.extend(b"PK\x06\x07\0\0\0\0");
    zip.extend(end.to_le_bytes());
    zip.extend(1u32.to_le_bytes());
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend([0xff; 12]);
    zip.extend([0; 2]);
    zip
}

#[test]
fn entries_are_counted_and_a_count_that_lies_is_not_believed() {
    const END_LEN: usize = 22;
    let zip = zip_of(&[("000000", 0, b"x")]);
    let end = zip.len() - END_LEN;
    let at = u32::from_le_bytes(zip[end + 16..end + 20].try_into().unwrap()) as usize;
    let (front, header) = (&zip[..at], &zip[at..end]);
    assert!(tar_of(&with_directory(front, header, 1)).is_ok());
    let headers = (0..=MAX_ENTRIES).flat_map(|number| {
        let mut header = header.to_vec();
        header[46..52].copy_from_slice(format!("{number:06}").as_bytes());
        header
    });
    let many = with_directory(front, &headers.collect::<Vec<_>>(), MAX_ENTRIES as u64 + 1);
    assert!(refused(&many).contains("100001 entries are more than 100000"));
    for lie in [2, 100_000, u64::from(u32::MAX), 1 << 62, u64::MAX] {
        assert!(matches!(tar_of(&with_directory(front, header, lie)), Err(Refusal::Unusable(_))), "{lie}");
    }
}

#[test]
fn long_paths_survive_and_longer_ones_are_refused() {
    let deep = "d/".repeat(200) + "f";
    assert_eq!(tar_of(&zip_of(&[(&deep, 0, b"x")])).unwrap().last().unwrap().0, deep);
    assert!(refused(&zip_of(&[(&"n".repeat(256), 0, b"x")])).contains("255"));
    assert!(refused(&zip_of(&[(&"d/".repeat(3000), 0o040_755, b"")])).contains("4095"));
}

proptest! {
    /// Whatever the bytes, the answer is a tar or a refusal; and a damaged zip never yields a path outside.
    #[test]
    fn damage_never_escapes(at in 0usize..400, byte: u8) {
        let mut zip = zip_of(&[("aa/bb", 0o100_644, b"hello"), ("l", TYPE_LINK, b"aa/bb"), ("d/", TYPE_DIR, b"")]);
        let at = at % zip.len();
        zip[at] = byte;
        if let Ok(entries) = tar_of(&zip) {
            for (path, ..) in entries {
                prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."));
            }
        }
    }
}
