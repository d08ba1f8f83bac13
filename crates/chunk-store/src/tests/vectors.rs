//! The test vectors of `docs/chunk-format.md`, computed anew: each value stands there as it comes out here.

use std::os::unix::fs::FileExt;

use super::*;
use crate::secret::Secret;

const DOCUMENT: &str = include_str!("../../../../docs/chunk-format.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `bytes` stand in the document in hexadecimal, lines and spaces aside.
fn documented(what: &str, bytes: &[u8]) {
    let text: String = DOCUMENT.split_whitespace().collect();
    assert!(text.contains(&hex(bytes)), "{what} is not in the document: {}", hex(bytes));
}

fn check_chunk(what: &str, plaintext: &[u8]) -> Entry {
    let (entry, body) = stored(plaintext, &Salt::new([0x11; 16], [0x22; 32]));
    documented(&format!("{what}: key"), entry.key.bytes());
    documented(&format!("{what}: name"), entry.name.as_bytes());
    documented(&format!("{what}: body"), body.get(..64).unwrap_or(&body));
    assert!(DOCUMENT.contains(&format!("body, {} bytes", body.len())), "{what}: {} bytes", body.len());
    entry
}

#[test]
fn chunks() {
    check_chunk("short", b"tinderbox");
    let counting: Vec<u8> = (0..4096_u32).flat_map(u32::to_le_bytes).collect();
    check_chunk("as it is", &counting);
    check_chunk("compressed", &b"tinderbox ".repeat(6553));
}

#[test]
fn a_nodes_copy() {
    let entry = check_chunk("short", b"tinderbox");
    let node = NodeSecret::new([0x33; 32]);
    documented("name of the copy", node.name_of(&entry).as_bytes());
    let mut copy = b"tinderbox".to_vec();
    let tag = node.key_of(&entry).seal_copy(&mut copy).expect("seal");
    documented("copy", &copy);
    documented("tag of the copy", &tag);
}

#[test]
fn salts() {
    let salt = Salt::for_bucket(&[0x99; 32], 20_000);
    documented("id of a salt", &salt.id());
    documented("name under that salt", stored(b"tinderbox", &salt).0.name.as_bytes());
    documented("id of the public salt", &Salt::public().id());
    documented("name under the public salt", stored(b"tinderbox", &Salt::public()).0.name.as_bytes());
}

#[test]
fn a_pack() {
    let content = tempfile::tempfile().expect("a file");
    content.write_all_at(b"tinderbox", 32_768).expect("write");
    let out = tempfile::tempfile().expect("a file");
    let salt = Salt::new([0x11; 16], [0x22; 32]);
    write_pack(&content, Kind::Image, ChunkSize::MEMORY, &salt, &out).expect("pack");
    let mut pack = vec![0; usize::try_from(out.metadata().expect("a length").len()).expect("short")];
    out.read_exact_at(&mut pack, 0).expect("read");
    documented("pack", &pack);
}

#[test]
fn keys_and_a_manifest() {
    let tenant = TenantKey::new([0x44; 32]);
    let root = RootKey::new(7, [0x55; 32]);
    documented("wrapped key", &root.wrap_with(&tenant, b"tenant", &[0x66; 32]).expect("wrap"));
    let content =
        Content { kind: Kind::Memory, len: 32_777, chunk_size: ChunkSize::MEMORY, salt: [0x11; 16] };
    let chunks = vec![None, None, Some(check_chunk("short", b"tinderbox"))];
    let manifest =
        Manifest::new(content, chunks).and_then(|made| made.with_working_set(vec![2])).expect("valid");
    documented("manifest, plain", &manifest.encode());
    let file = manifest.seal_with(&tenant, b"subject", &Secret::new([0x77; 32]), &[0x88; 32]).expect("seal");
    documented("manifest, sealed", &file);
    assert_eq!(Manifest::open(&file, &tenant, b"subject"), Ok(manifest));
}
