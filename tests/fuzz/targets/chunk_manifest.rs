//! What comes back from a peer or the origin: a sealed manifest, a wrapped key, a chunk's body and a node's copy of any bytes.
//! And what is under a good tag, with any content, so that what lies behind the checks is reached as well: the layout of a
//! manifest that its own tenant sealed, and a body that decodes to whatever it likes (to how much, the first two bytes
//! say). Reading refuses or yields, and what it yields is written again as it was.
#![no_main]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use chunk_store::{
    ChunkKey, ChunkName, ChunkSize, Entry, MAX_CONTENT_LEN, Manifest, NodeSecret, RootKey, Salt, Sealed,
    TenantKey, open, seal,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((len, bytes)) = input.split_first_chunk() else { return };
    let len = usize::from(u16::from_le_bytes(*len));
    let root = RootKey::new(1, [1; 32]);
    let tenant = TenantKey::new([2; 32]);
    assert!(Manifest::open(bytes, &tenant, b"subject").is_err(), "a tag was guessed");
    assert!(root.unwrap(bytes, b"tenant").is_err(), "a tag was guessed");
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(*manifest.encode(), bytes, "one manifest has one form");
        use_manifest(&manifest);
    }
    let (entry, body) = body_of(bytes);
    if let Ok(plaintext) = open(&entry, &body, len) {
        assert_eq!(plaintext.len(), len);
    }
    round_trip(bytes);
});

/// As whoever fetches its chunks does.
fn use_manifest(manifest: &Manifest) {
    let content = manifest.content();
    assert!(content.len <= MAX_CONTENT_LEN);
    let lens: u64 = (0..).zip(manifest.chunks()).map(|(index, _)| manifest.chunk_len(index) as u64).sum();
    assert_eq!(lens, content.len, "its chunks are all of the content");
    assert!(manifest.working_set().iter().all(|index| manifest.chunk(*index).is_some()));
}

/// What somebody with the key made of any bytes.
fn body_of(encoded: &[u8]) -> (Entry, Vec<u8>) {
    let key = [5; 32];
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("the length of a key"));
    let mut body = encoded.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut body).expect("short enough");
    body.extend_from_slice(tag.as_ref());
    (Entry { name: ChunkName::of(&body), key: ChunkKey::new(key) }, body)
}

/// A chunk of these bytes comes back, as itself and as a node's copy.
fn round_trip(plaintext: &[u8]) {
    let Ok(sealed) = seal(plaintext, &Salt::new([3; 16], [3; 32])) else {
        assert!(plaintext.is_empty() || plaintext.len() > ChunkSize::LONGEST.bytes());
        return;
    };
    let Sealed::Chunk { entry, body } = sealed else { return };
    assert_eq!(entry.name, ChunkName::of(&body));
    let opened = open(&entry, &body, plaintext.len()).expect("what was just sealed");
    assert_eq!(opened, plaintext);
    let key = NodeSecret::new([4; 32]).key_of(&entry);
    let mut copy = opened;
    let tag = key.seal_copy(&mut copy).expect("a chunk's length");
    let mut opened = vec![0; plaintext.len()];
    key.open_copy(&copy, &tag, &mut opened).expect("what was just sealed");
    assert_eq!(opened, plaintext);
    assert!(key.open_copy(plaintext, &tag, &mut opened).is_err(), "a tag was guessed");
}
