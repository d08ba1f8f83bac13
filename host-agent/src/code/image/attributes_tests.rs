//! Tests of `attributes`: what is found before an entry, and that the tar's reader sees the rest as it was.

use proptest::prelude::*;
use tar::{Archive, Builder, EntryType};

use super::*;

/// A record's key and value.
type Record<'a> = (&'a str, &'a [u8]);

/// A tar of entries with records before them: those, a path, the content.
fn tar_of(entries: &[(&[Record<'_>], &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (records, name, content) in entries {
        tar.append_pax_extensions(records.iter().copied()).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Paths and contents as the reader has them, with what was found.
pub(in crate::code::image) fn read(tar: &[u8]) -> Result<Vec<(String, Vec<u8>, Attributes)>> {
    let (attributed, found) = Attributed::new(tar);
    let mut archive = Archive::new(attributed);
    let entries = archive.entries()?.map(|entry| {
        let mut entry = entry?;
        let found = found.take();
        if let Some(mut extensions) = entry.pax_extensions()? {
            extensions.try_for_each(|extension| extension.map(drop))?;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        Ok((path, content, found))
    });
    entries.collect()
}

fn attributes(of: &[Record<'_>]) -> Attributes {
    of.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
}

#[test]
fn attributes_belong_to_the_entry_that_follows_and_hide_nothing_of_it() {
    let long = "l".repeat(150);
    let tar = tar_of(&[
        (
            &[("SCHILY.xattr.user.note", b"a\n\n9 path=x\n"), ("path", b"renamed"), ("mtime", b"1")],
            "a",
            b"one",
        ),
        (&[], "b", b""),
        (&[("SCHILY.xattr.user.x", b""), ("SCHILY.xattr.user.y", &[0, 255, b'=', b'\n'])], &long, &[7; 1300]),
        (&[("mtime", b"2")], "c", b"last"),
    ]);
    let expected = [
        ("renamed", b"one".to_vec(), attributes(&[("user.note", b"a\n\n9 path=x\n")])),
        ("b", Vec::new(), Attributes::new()),
        (&long, vec![7; 1300], attributes(&[("user.x", b""), ("user.y", &[0, 255, b'=', b'\n'])])),
        ("c", b"last".to_vec(), Attributes::new()),
    ];
    let expected = expected.map(|(path, content, found)| (path.to_owned(), content, found));
    assert_eq!(read(&tar).unwrap(), expected);
}

#[test]
fn what_would_give_rights_is_dropped() {
    let capability: &[u8] = &[1, 0, 0, 2, 0x0a, 0, 0, 0];
    let tar = tar_of(&[(
        &[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.system.posix_acl_access", capability),
            ("SCHILY.xattr.user.", b"no name"),
            ("SCHILY.xattr.user.kept", b"1"),
        ],
        "a",
        b"",
    )]);
    assert_eq!(read(&tar).unwrap()[0].2, attributes(&[("user.kept", b"1")]));
}

#[test]
fn a_length_among_the_records_is_the_entrys() {
    let mut tar = Builder::new(Vec::new());
    tar.append_pax_extensions([("size", &b"600"[..]), ("SCHILY.xattr.user.a", b"1")]).unwrap();
    let mut header = Header::new_ustar();
    header.set_path("long").unwrap();
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, &[5; 600][..]).unwrap();
    header.set_path("next").unwrap();
    header.set_cksum();
    tar.append(&header, &[][..]).unwrap();
    let read = read(&tar.into_inner().unwrap()).unwrap();
    assert_eq!((read[0].1.len(), read[0].2.len(), read[1].0.as_str()), (600, 1, "next"));
}

#[test]
fn a_sparse_file_keeps_its_map() {
    let mut header = Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(2 * BLOCK as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(4 * BLOCK as u64);
    gnu.set_is_extended(true);
    let mut tar = header.clone();
    tar.set_cksum();
    let mut bytes = tar_of(&[(&[("SCHILY.xattr.user.a", b"1")], "before", b"")]);
    bytes.truncate(bytes.len() - 2 * BLOCK);
    bytes.extend(tar.as_bytes());
    // Two pieces, each behind a hole, in the block that follows.
    let mut map = [0; BLOCK];
    for (number, place) in [1u64, 3].into_iter().enumerate() {
        let field = |value: u64| format!("{value:011o}\0");
        map[24 * number..24 * number + 12].copy_from_slice(field(place * BLOCK as u64).as_bytes());
        map[24 * number + 12..24 * number + 24].copy_from_slice(field(BLOCK as u64).as_bytes());
    }
    bytes.extend(map);
    bytes.extend([9; 2 * BLOCK]);
    bytes.extend(tar_of(&[(&[("SCHILY.xattr.user.b", b"2")], "behind", b"x")]));
    let read = read(&bytes).unwrap();
    let seen: Vec<_> =
        read.iter().map(|(path, content, found)| (path.as_str(), content.len(), found.len())).collect();
    assert_eq!(seen, [("before", 0, 1), ("sparse", 4 * BLOCK, 0), ("behind", 1, 1)]);
}

#[test]
fn what_is_too_long_or_no_record_is_an_error() {
    let value = vec![b'x'; MAX_LEN];
    let long = tar_of(&[(&[("SCHILY.xattr.user.a", &value)], "a", b"")]);
    assert!(read(&long).unwrap_err().to_string().contains("longer"));
    let dropped = tar_of(&[(&[("SCHILY.xattr.security.a", &value)], "a", b"")]);
    assert_eq!(read(&dropped).unwrap().len(), 1);
    let records = vec![b'x'; usize::try_from(MAX_RECORDS_LEN).unwrap()];
    let longer = tar_of(&[(&[("comment", &records)], "a", b"")]);
    assert!(read(&longer).unwrap_err().to_string().contains("longer"));
    for record in
        [&b"99 a=b\n"[..], b"a=b\n", b"6 ab\n\n", b"7 a=b\nx", b"0 \n", b"18446744073709551616 a=b\n"]
    {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(record.len() as u64);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, record).unwrap();
        let tar = [tar.into_inner().unwrap(), tar_of(&[(&[], "a", b"")])].concat();
        assert!(read(&tar).is_err(), "{record:?}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_given_on_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        // What is no tar is given on as it is.
        if let Some(first) = bytes.get_mut(124) {
            *first = b'x';
        }
        let (mut attributed, _) = Attributed::new(&bytes[..]);
        let mut given = Vec::new();
        attributed.read_to_end(&mut given).unwrap();
        prop_assert_eq!(given, bytes);
    }

    #[test]
    fn a_damaged_tar_never_panics(at in 0usize..6000, by in 1u8..) {
        let mut tar = tar_of(&[
            (&[("SCHILY.xattr.user.note", b"a\nb"), ("path", b"renamed")], "a", b"one"),
            (&[], "b", &[1; 700]),
            (&[("SCHILY.xattr.user.x", b"")], "c", b"x"),
        ]);
        let at = at % tar.len();
        tar[at] ^= by;
        let _ = read(&tar);
    }
}
