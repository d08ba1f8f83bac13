//! Tests of flattening, from archives as builders write them to a tar; and what a hostile one does.

use std::io::{Cursor, Write as _};

use proptest::prelude::*;
use serde_json::{Value, json};

use self::archives::sha256;
pub(crate) use self::archives::{Entry, Oci, layer_of};
use super::*;
use crate::code::archive::tests::entries_of;

mod archives;

const ROOM: u64 = 1 << 30;

fn flattened(archive: Vec<u8>) -> Result<(Description, Vec<u8>), ImageRefusal> {
    let mut tar = Vec::new();
    match flatten(Cursor::new(archive), ROOM, &mut tar) {
        Ok(description) => Ok((description, tar)),
        Err(FlattenError::Refused(refusal)) => Err(refusal),
        Err(error) => panic!("{error}"),
    }
}

fn refused(archive: Vec<u8>) -> ImageRefusal {
    flattened(archive).expect_err("it was taken")
}

/// Paths with what they hold, without what the platform has everywhere.
fn tree(layers: &[&[Entry<'_>]]) -> Vec<(String, u32, String)> {
    let layers: Vec<_> = layers.iter().map(|layer| layer_of(layer)).collect();
    let (_, tar) = flattened(Oci::plain(&layers, &json!({})).archive()).unwrap();
    let platform = ["dev", "etc", "proc", "run", "sys", "tmp"];
    entries_of(&tar)
        .into_iter()
        .filter(|(path, ..)| !platform.contains(&&**path) && !path.starts_with("etc/"))
        .map(|(path, mode, content)| (path, mode, String::from_utf8(content).unwrap()))
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let halves = bytes.split_at(bytes.len() / 2);
    let mut stored = ruzstd::encoding::compress_to_vec(halves.0, level);
    // A frame to be skipped (RFC 8878 §3.1.2) between two others.
    stored.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    stored.extend(ruzstd::encoding::compress_to_vec(halves.1, level));
    stored
}

#[test]
fn layers_become_one_tree() {
    let expected = [
        ("app", 0o750, ""),
        ("app/link", 0o777, "../etc"),
        ("app/kept", 0o4755, "1"),
        ("app/new", 0o600, "2"),
        ("app/again", 0o600, "app/new"),
    ]
    .map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned()));
    let got = tree(&[
        &[
            Entry::Dir("./app/", 0o755),
            Entry::File("./app/kept", 0o4755, b"1"),
            Entry::File("./app/gone", 0o644, b"x"),
            Entry::File("hidden/x", 0o644, b"x"),
        ],
        &[
            Entry::File("app/.wh.gone", 0, b""),
            Entry::File(".wh.hidden", 0, b""),
            Entry::Dir("app", 0o750),
            Entry::File("app/new", 0o600, b"2"),
            Entry::Hard("app/again", "app/new"),
            Entry::Link("app/link", "../etc"),
            Entry::Device("app/disk"),
        ],
    ]);
    // The further names of a file come last, and `app/again` sorts before `app/new`.
    let mut got_sorted = got.clone();
    got_sorted.sort();
    let mut expected = expected.to_vec();
    let position = |path: &str| expected.iter().position(|(there, ..)| there == path).unwrap();
    let (new, again) = (position("app/new"), position("app/again"));
    expected[new].2 = "app/again".into();
    expected[again].2 = "2".into();
    expected.sort();
    assert_eq!(got_sorted, expected);
}

#[test]
fn opaque_folders_and_internal_names_are_understood() {
    let got = tree(&[
        &[Entry::File("d/old", 0o644, b"1"), Entry::File("d/e/old", 0o644, b"1")],
        &[
            Entry::File("d/new", 0o644, b"2"),
            Entry::File("d/.wh..wh..opq", 0, b""),
            Entry::Dir(".wh..wh.plnk", 0o700),
        ],
    ]);
    let expected = [("d", 0o755, ""), ("d/new", 0o644, "2")];
    assert_eq!(got, expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned())));
}

#[test]
fn owners_stay_and_times_do_not() {
    let layer = layer_of(&[Entry::File("a", 0o644, b"1")]);
    let (_, tar) = flattened(Oci::plain(&[layer], &json!({})).archive()).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let entry = archive.entries().unwrap().map(Result::unwrap).find(|entry| &*entry.path_bytes() == b"a");
    let header = entry.unwrap().header().clone();
    assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (1000, 100, 0));
}

#[test]
fn attributes_of_programs_come_with_their_files() {
    let note =
        |note: &'static [u8]| [("SCHILY.xattr.user.note", note), ("SCHILY.xattr.security.capability", b"\n")];
    let layer = |records: [(&str, &[u8]); 2], entries: &[Entry<'_>]| {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(records).unwrap();
        let mut layer = tar.into_inner().unwrap();
        layer.truncate(1024);
        layer.extend(layer_of(entries));
        layer
    };
    let layers = [
        layer(
            note(b"first"),
            &[Entry::File("a", 0o644, b"1"), Entry::Hard("b", "a"), Entry::File("c", 0o644, b"")],
        ),
        layer(note(b"of a\nfolder"), &[Entry::Dir("d", 0o755), Entry::File("d/e", 0o644, b"")]),
    ];
    let (_, tar) = flattened(Oci::plain(&layers, &json!({})).archive()).unwrap();
    let read = super::attributes::tests::read(&tar).unwrap();
    let with: Vec<_> = read
        .iter()
        .filter(|(.., found)| !found.is_empty())
        .map(|(path, _, found)| (path.as_str(), found))
        .collect();
    let of = |value: &[u8]| [("user.note".to_owned(), value.to_vec())].into();
    assert_eq!(with, [("d", &of(b"of a\nfolder")), ("a", &of(b"first"))]);
    assert!(read.iter().any(|(path, ..)| path == "b"), "its further name: {read:?}");
}

#[test]
fn however_layers_are_stored_the_tree_is_the_same() {
    let tar = layer_of(&[Entry::File("a", 0o644, &[7; 300_000]), Entry::Link("l", "a")]);
    let stored = [("tar", tar.clone()), ("tar+gzip", gzip(&tar)), ("tar+zstd", zstd(&tar))];
    let made: Vec<_> = stored
        .into_iter()
        .map(|(kind, stored)| {
            let oci = Oci::of(&[(kind, tar.clone(), stored)], &json!({}));
            let (description, made) = flattened(oci.archive()).unwrap();
            assert_eq!(
                (description.digest, description.unpacked),
                (oci.digest(), tar.len() as u64),
                "{kind}"
            );
            made
        })
        .collect();
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}

#[test]
fn how_it_is_run_is_read() {
    let config = json!({
        "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b", "nothing"],
        "Entrypoint": ["/run"], "Cmd": ["app.handler"], "WorkingDir": "/app", "User": "root",
    });
    let layer = layer_of(&[]);
    let (Description { run, size, .. }, _) =
        flattened(Oci::plain(std::slice::from_ref(&layer), &config).archive()).unwrap();
    let environment = [("PATH", "/bin"), ("EMPTY", ""), ("EQUALS", "a=b")];
    let expected = RunSettings {
        entry_point: vec!["/run".into()],
        command: vec!["app.handler".into()],
        working_directory: "/app".into(),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    assert_eq!(run, expected);
    assert!(size > layer.len() as u64);
    let (Description { run, .. }, _) =
        flattened(Oci::plain(std::slice::from_ref(&layer), &Value::Null).archive()).unwrap();
    assert_eq!(run, RunSettings { working_directory: "/".into(), ..RunSettings::default() });
    let long = json!({ "Env": [format!("A={}", "x".repeat(200_000))] });
    assert!(refused(Oci::plain(std::slice::from_ref(&layer), &long).archive()).to_string().contains("bytes"));
    let nul = json!({ "Cmd": ["a\0b"] });
    assert!(refused(Oci::plain(&[layer], &nul).archive()).to_string().contains("NUL"));
}

#[test]
fn of_several_platforms_ours_is_taken() {
    let mut oci = Oci::plain(&[layer_of(&[Entry::File("ours", 0o644, b"")])], &json!({}));
    let (ours, digest) = (oci.manifest(), oci.digest());
    let of = |os: &str, architecture: &str| {
        let mut manifest = ours.clone();
        manifest["platform"] = json!({ "os": os, "architecture": architecture });
        manifest
    };
    let mut arm = of("linux", "arm64");
    arm["digest"] = format!("sha256:{}", "0".repeat(64)).into();
    let mut attested = of("unknown", "unknown");
    attested["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = json!({ "manifests": [arm.clone(), attested, of("linux", "amd64")] });
    let index = oci.blob("application/vnd.oci.image.index.v1+json", index.to_string().into_bytes());
    oci.index(&[index]);
    assert_eq!(flattened(oci.archive()).unwrap().0.digest, digest);
    oci.index(&[arm]);
    assert_eq!(refused(oci.archive()), ImageRefusal::Platform);
    oci.index(&[]);
    assert_eq!(refused(oci.archive()), ImageRefusal::Platform);
    let other = Oci::plain(&[layer_of(&[])], &json!({}));
    oci.files.extend(other.files.clone());
    oci.index(&[ours.clone(), other.manifest()]);
    assert!(refused(oci.archive()).to_string().contains("several"));
}

#[test]
fn an_image_of_another_machine_is_refused_by_its_configuration() {
    let mut oci = Oci::plain(&[], &json!({}));
    let config = json!({ "architecture": "arm64", "os": "linux", "rootfs": { "diff_ids": [] } });
    let config = oci.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest = json!({ "config": config, "layers": [] }).to_string();
    let manifest = oci.blob("application/vnd.oci.image.manifest.v1+json", manifest.into_bytes());
    oci.index(&[manifest]);
    assert_eq!(refused(oci.archive()), ImageRefusal::Platform);
}

#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    let layer = layer_of(&[Entry::File("a", 0o644, b"content")]);
    let oci = Oci::of(&[("tar+gzip", layer.clone(), gzip(&layer))], &json!({}));
    for (index, (name, _)) in oci.files.iter().enumerate().filter(|(_, (name, _))| name.starts_with("blobs/"))
    {
        let mut damaged = Oci { files: oci.files.clone() };
        let last = damaged.files[index].1.len() - 1;
        damaged.files[index].1[last] ^= 1;
        let refusal = refused(damaged.archive());
        let by_digest = matches!(refusal, ImageRefusal::Digest(_));
        assert!(by_digest || matches!(refusal, ImageRefusal::Unusable(_)), "{name}: {refusal}");
    }
    // A tar that is not the one that the configuration knows, in bytes that are those of the manifest.
    let other = layer_of(&[Entry::File("a", 0o644, b"another")]);
    let oci = Oci::of(&[("tar+gzip", layer, gzip(&other))], &json!({}));
    assert!(matches!(refused(oci.archive()), ImageRefusal::Digest(_)));
    // Bytes behind the end of a layer are of the layer.
    let layer = layer_of(&[]);
    let mut oci = Oci::plain(std::slice::from_ref(&layer), &json!({}));
    let name = format!("blobs/sha256/{}", sha256(&layer));
    oci.files.iter_mut().find(|(there, _)| *there == name).unwrap().1.push(0);
    assert!(matches!(refused(oci.archive()), ImageRefusal::Digest(_)));
}

#[test]
fn hostile_entries_are_refused_or_harmless() {
    for (entry, why) in [
        (Entry::File("../x", 0o644, b""), "climbs"),
        (Entry::File("a/../../x", 0o644, b""), "climbs"),
        (Entry::Hard("h", "/etc/shadow"), "hard link"),
        (Entry::Hard("h", "../../etc/shadow"), "climbs"),
        (Entry::Link("l", ""), "nowhere"),
        (Entry::File("d/.wh.", 0, b""), "hides nothing"),
        (Entry::File("d/.wh...", 0, b""), "hides nothing"),
    ] {
        let archive = Oci::plain(&[layer_of(&[entry])], &json!({})).archive();
        let refusal = refused(archive).to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
    let got = tree(&[&[
        Entry::File("/absolute", 0o644, b"1"),
        Entry::Link("out", "/../../../.."),
        Entry::File("out/inside", 0o644, b"2"),
        Entry::Device("absolute"),
    ]]);
    let expected = [("out", 0o777, "/../../../.."), ("inside", 0o644, "2")];
    assert_eq!(got, expected.map(|(path, mode, content)| (path.to_owned(), mode, content.to_owned())));
}

#[test]
fn bombs_are_bounded() {
    // Declares what a disk cannot hold, or what it has not.
    let declaring = |len| {
        let mut header = Header::new_gnu();
        header.set_size(len);
        header.set_cksum();
        refused(Oci::plain(&[header.as_bytes().to_vec()], &json!({})).archive())
    };
    assert_eq!(declaring(MAX_IMAGE_LEN + 1), ImageRefusal::TooLarge);
    assert!(matches!(declaring(5000), ImageRefusal::Unusable(_)));
    let zeros = gzip(&vec![0; 10_000_000]);
    let mut from =
        readers::Bounded::new(readers::Decoder::new(&zeros[..], readers::Compression::Gzip), 1_000_000);
    let error = std::io::copy(&mut from, &mut std::io::sink()).unwrap_err();
    assert!(error.get_ref().unwrap().is::<readers::Exhausted>());
    // More than there is room for.
    let archive = Oci::plain(&[layer_of(&[Entry::File("a", 0o644, &[1; 5000])])], &json!({})).archive();
    let refusal = flatten(Cursor::new(archive), 4000, std::io::sink());
    assert!(matches!(refusal, Err(FlattenError::Refused(ImageRefusal::NoRoom { room: 4000, .. }))));
}

#[test]
fn what_is_no_archive_is_refused() {
    let good = Oci::plain(&[layer_of(&[Entry::File("a", 0o644, b"1")])], &json!({}));
    for bytes in [Vec::new(), b"no archive".to_vec(), vec![0; 4096], gzip(&good.archive())] {
        assert!(matches!(refused(bytes), ImageRefusal::Unusable(_)));
    }
    for name in ["index.json", "oci-layout"] {
        let mut without = Oci { files: good.files.clone() };
        without.files.retain(|(there, _)| there != name);
        assert!(refused(without.archive()).to_string().contains(name));
        let mut twice = Oci { files: good.files.clone() };
        twice.files.push((name.into(), Vec::new()));
        assert!(refused(twice.archive()).to_string().contains("one name"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is changed in an archive: it is refused, or it is the same image.
    #[test]
    fn a_changed_archive_is_refused_or_the_same(at in 0usize..20_000, by in 1u8..) {
        let layer = layer_of(&[Entry::File("a", 0o644, b"content"), Entry::Dir("d", 0o755)]);
        let oci = Oci::of(&[("tar+gzip", layer.clone(), gzip(&layer))], &json!({ "Cmd": ["x"] }));
        let good = flattened(oci.archive()).unwrap();
        let mut archive = oci.archive();
        let at = at % archive.len();
        archive[at] ^= by;
        if let Ok(changed) = flattened(archive) {
            prop_assert_eq!(changed, good);
        }
    }

    /// Layers of anything never panic.
    #[test]
    fn any_bytes_are_a_layer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        for kind in ["tar", "tar+gzip", "tar+zstd"] {
            drop(flattened(Oci::of(&[(kind, bytes.clone(), bytes.clone())], &json!({})).archive()));
        }
    }
}
