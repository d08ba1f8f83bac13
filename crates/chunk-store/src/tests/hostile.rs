//! Every bit changed and every length cut, of everything that is read back: found out, and nothing comes of it. Then what
//! only somebody with the keys could have written.

use super::damage::every_damage;
use super::*;
use crate::cipher;
use crate::secret::Secret;

#[test]
fn every_byte_of_a_body_counts() {
    for plaintext in [noise(300), [b"text ".repeat(60), noise(40)].concat()] {
        let (entry, body) = stored(&plaintext, &salt(1));
        every_damage(&body, |changed| open(&entry, changed, plaintext.len()).is_err());
    }
}

#[test]
fn every_byte_of_a_manifest_counts() {
    let file = manifest().seal(&tenant(1), b"subject").expect("seal");
    every_damage(&file, |changed| Manifest::open(changed, &tenant(1), b"subject").is_err());
}

#[test]
fn every_byte_of_a_wrapped_key_counts() {
    let root = RootKey::new(1, [1; 32]);
    let record = root.wrap(&tenant(1), b"tenant").expect("wrap");
    every_damage(&record, |changed| root.unwrap(changed, b"tenant").is_err());
}

#[test]
fn every_byte_of_a_nodes_copy_counts() {
    let key = NodeSecret::new([1; 32]).key_of(&stored(&noise(300), &salt(1)).0);
    let mut copy = noise(300);
    let tag = key.seal_copy(&mut copy).expect("seal");
    let refused = |copy: &[u8], tag: &[u8]| {
        let mut opened = vec![1; 300];
        let Some(tag) = tag.first_chunk().filter(|_| tag.len() == 16) else { return true };
        key.open_copy(copy, tag, &mut opened).is_err()
            && !opened.windows(8).any(|bytes| noise(300).starts_with(bytes))
    };
    assert!(!refused(&copy, &tag));
    every_damage(&copy, |changed| refused(changed, &tag));
    every_damage(&tag, |changed| refused(&copy, changed));
}

/// Who knows the plaintext knows the key, and can make another body with a good tag: its name gives it away.
#[test]
fn a_body_that_was_made_with_the_chunks_own_key_is_another_chunk() {
    let plaintext = noise(1000);
    let (entry, body) = stored(&plaintext, &salt(1));
    let mut forged = [&plaintext[..999], &[0, 0]].concat();
    cipher::seal(&Secret::new(*entry.key.bytes()), &[], &mut forged).expect("seal");
    assert_eq!(forged.len(), body.len());
    let found = ChunkName::of(&forged);
    assert_eq!(open(&entry, &forged, 1000), Err(ChunkError::Name { expected: entry.name, found }));
    let named = Entry { name: found, key: entry.key };
    assert!(
        open(&named, &forged, 1000).is_ok_and(|opened| opened != plaintext),
        "but for the name it is one"
    );
}

/// A body under a good name and key, of any content.
fn sealed(encoded: &[u8]) -> (Entry, Vec<u8>) {
    let key = Secret::new([5; 32]);
    let mut body = encoded.to_vec();
    cipher::seal(&key, &[], &mut body).expect("seal");
    (Entry { name: ChunkName::of(&body), key: ChunkKey::new([5; 32]) }, body)
}

#[test]
fn what_is_authentic_and_yet_no_chunk_is_refused() {
    // A block that claims 70 KiB out of a handful of bytes: a match of everything before, again and again.
    let bomb = [&[0x1f, b'a', 1, 0][..], &[0xff; 280], &[0, 1]].concat();
    let cases: [&[u8]; 7] =
        [&[1, 0], &[1, 2, 3, 0], &[7, 7, 2], &[0, 1], &[0xf0, 0xff, 0xff, 1], &[1, 1, 255], &bomb];
    for encoded in cases {
        let (entry, body) = sealed(encoded);
        let refused = open(&entry, &body, 5000).expect_err("no chunk of 5000 bytes");
        assert!(matches!(refused, ChunkError::Encoding { .. }), "{encoded:?}: {refused}");
    }
    let (entry, body) = stored(&noise(50), &salt(1));
    let wrong = Entry { key: sealed(b"x\0").0.key, ..entry.clone() };
    assert_eq!(open(&wrong, &body, 50), Err(ChunkError::Key(entry.name)));
    for len in [0, ChunkSize::LONGEST.bytes() + 1, usize::MAX] {
        assert_eq!(open(&entry, &body, len), Err(ChunkError::PlaintextLen(len)));
    }
    let body = vec![0; MAX_BODY_LEN + 1];
    assert!(matches!(open(&entry, &body, 1 << 20), Err(ChunkError::BodyLen { .. })), "it is not even hashed");
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_apart() {
    let file = manifest().seal(&tenant(1), b"").expect("seal");
    let refusal = |at: usize, value: u8| {
        let mut file = file.clone();
        file[at] = value;
        Manifest::open(&file, &tenant(1), b"").expect_err("refused")
    };
    assert_eq!(refusal(0, b'X'), ManifestError::Magic);
    assert_eq!(refusal(8, 2), ManifestError::Version(2));
    assert!(matches!(refusal(15, 0xff), ManifestError::Len { .. }));
    assert_eq!(refusal(16, !file[16]), ManifestError::WrongKey);
    assert_eq!(refusal(64, !file[64]), ManifestError::Forged);
    assert_eq!(refusal(112, !file[112]), ManifestError::Forged);
    assert!(matches!(Manifest::open(&[], &tenant(1), b""), Err(ManifestError::Len { found: 0, .. })));
}

/// The plain bytes of a manifest changed by somebody who can seal them.
#[test]
fn a_manifest_that_its_tenant_sealed_is_still_not_believed() {
    use InvalidManifest as Invalid;
    let plain = manifest().encode().to_vec();
    assert_eq!(Manifest::decode(&plain), Ok(manifest()));
    let refusal = |at: usize, bytes: &[u8]| {
        let mut plain = plain.clone();
        plain[at..at + bytes.len()].copy_from_slice(bytes);
        Manifest::decode(&plain).expect_err("refused")
    };
    assert_eq!(refusal(0, &[0]), Invalid::Kind(0));
    assert_eq!(refusal(0, &[8]), Invalid::Kind(8));
    assert_eq!(refusal(1, &[13]), Invalid::ChunkSize(13));
    assert_eq!(refusal(3, &[1]), Invalid::Reserved);
    assert!(matches!(refusal(4, &[0xff; 4]), Invalid::Len { .. }));
    assert_eq!(refusal(8, &[0xff; 8]), Invalid::ContentLen(u64::MAX));
    assert!(matches!(refusal(8, &(MAX_CONTENT_LEN).to_le_bytes()), Invalid::Truncated));
    assert_eq!(refusal(33, &[0b101]), Invalid::Reserved, "a chunk past the end");
    assert!(matches!(refusal(32, &[0b11]), Invalid::Len { .. }));
    let last = plain.len() - 4;
    for wrong in [4, 5, 10, u32::MAX] {
        assert_eq!(refusal(last, &wrong.to_le_bytes()), Invalid::WorkingSet(wrong));
    }
    for cut in 0..plain.len() {
        assert!(Manifest::decode(&plain[..cut]).is_err(), "cut to {cut} bytes");
    }
}
