//! What goes in comes out, and equal things are equal where they should be, and nowhere else.

pub(crate) mod damage;
mod hostile;
mod vectors;

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 7] =
    [Kind::Image, Kind::Code, Kind::Layer, Kind::Memory, Kind::Prefetch, Kind::State, Kind::Scratch];

fn salt(byte: u8) -> Salt {
    Salt::new([byte; 16], [byte; 32])
}

fn tenant(byte: u8) -> TenantKey {
    TenantKey::new([byte; 32])
}

/// A chunk that is stored.
fn stored(plaintext: &[u8], salt: &Salt) -> (Entry, Vec<u8>) {
    match seal(plaintext, salt).expect("a chunk's length") {
        Sealed::Chunk { entry, body } => (entry, body),
        Sealed::Zero => panic!("zeros"),
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Memory of ten chunks: zeros in the odd ones, the last one short.
fn manifest() -> Manifest {
    let content =
        Content { kind: Kind::Memory, len: 150_000, chunk_size: ChunkSize::MEMORY, salt: salt(1).id() };
    let chunk = |index: u8| index.is_multiple_of(2).then(|| stored(&[index + 1; 100], &salt(1)).0);
    let manifest = Manifest::new(content, (0..10).map(chunk).collect()).expect("ten chunks");
    manifest.with_working_set(vec![4, 0, 8]).expect("chunks that are stored")
}

#[test]
fn equal_contents_are_one_chunk_and_under_another_salt_another() {
    let plaintext = noise(20_000);
    let (entry, body) = stored(&plaintext, &salt(1));
    assert_eq!(stored(&plaintext, &salt(1)), (entry.clone(), body.clone()));
    let (other, other_body) = stored(&plaintext, &salt(2));
    assert!(other.name != entry.name && other.key != entry.key && other_body != body);
    let (changed, _) = stored(&plaintext[1..], &salt(1));
    assert!(changed.name != entry.name && changed.key != entry.key);
}

#[test]
fn zeros_are_not_stored() {
    for len in [1, 16_384, ChunkSize::LONGEST.bytes()] {
        assert_eq!(seal(&vec![0; len], &salt(1)), Ok(Sealed::Zero));
    }
    let mut almost = vec![0; 16_384];
    almost[16_383] = 1;
    let (entry, body) = stored(&almost, &salt(1));
    assert!(body.len() < 200, "{} bytes", body.len());
    assert_eq!(open(&entry, &body, almost.len()), Ok(almost));
}

#[test]
fn compression_is_kept_where_it_pays() {
    let plain = noise(16_384);
    assert_eq!(stored(&plain, &salt(1)).1.len(), 16_384 + 17);
    let half = [&plain[..8_192], &[7; 8_192]].concat();
    let (entry, body) = stored(&half, &salt(1));
    assert!(body.len() < 8_500, "{} bytes", body.len());
    assert_eq!(open(&entry, &body, half.len()), Ok(half));
}

#[test]
fn no_length_but_a_chunks_is_sealed() {
    for len in [0, ChunkSize::LONGEST.bytes() + 1] {
        assert_eq!(seal(&vec![1; len], &salt(1)), Err(ChunkError::PlaintextLen(len)));
    }
    let longest = noise(ChunkSize::LONGEST.bytes());
    let (entry, body) = stored(&longest, &salt(1));
    assert_eq!(body.len(), MAX_BODY_LEN);
    assert!(open(&entry, &body, longest.len()).is_ok_and(|opened| opened == longest));
}

#[test]
fn a_manifest_comes_back_for_its_tenant_and_subject() {
    let file = manifest().seal(&tenant(1), b"a function").expect("seal");
    assert_eq!(Manifest::open(&file, &tenant(1), b"a function"), Ok(manifest()));
    assert_eq!(Manifest::open(&file, &tenant(2), b"a function"), Err(ManifestError::WrongKey));
    assert_eq!(Manifest::open(&file, &tenant(1), b"another"), Err(ManifestError::Forged));
    let again = manifest().seal(&tenant(1), b"a function").expect("seal");
    let differing = file.iter().zip(&again).filter(|(one, other)| one != other).count();
    assert!(differing > file.len() * 9 / 10, "nothing tells that two files are of one manifest or tenant");
}

#[test]
fn a_manifest_says_where_everything_is() {
    let manifest = manifest();
    assert!(manifest.chunk(2).is_some() && manifest.chunk(3).is_none() && manifest.chunk(10).is_none());
    assert_eq!([0, 9, 10].map(|index| manifest.chunk_len(index)), [16_384, 2_544, 0]);
    assert_eq!((manifest.names().count(), manifest.working_set()), (5, &[4, 0, 8][..]));
}

#[test]
fn a_manifest_that_contradicts_itself_is_not_made() {
    let content = manifest().content();
    let chunks = manifest().chunks().to_vec();
    let nine = Manifest::new(content, chunks[..9].to_vec());
    assert_eq!(nine, Err(InvalidManifest::Chunks { found: 9, expected: 10 }));
    let endless = Manifest::new(Content { len: u64::MAX, ..content }, chunks);
    assert_eq!(endless, Err(InvalidManifest::ContentLen(u64::MAX)));
    for (working_set, wrong) in
        [(vec![0, 10], 10), (vec![1], 1), (vec![2, 4, 2], 2), (vec![u32::MAX], u32::MAX)]
    {
        assert_eq!(manifest().with_working_set(working_set), Err(InvalidManifest::WorkingSet(wrong)));
    }
}

#[test]
fn a_new_root_key_wraps_a_tenants_key_again_and_its_manifests_stay() {
    let (old, new) = (RootKey::new(1, [1; 32]), RootKey::new(2, [2; 32]));
    let key = TenantKey::generate().expect("randomness");
    let file = manifest().seal(&key, b"").expect("seal");
    let record = old.wrap(&key, b"tenant").expect("wrap");
    assert_eq!((record.len(), root_of(&record)), (WRAPPED_LEN, Ok(1)));
    let again = new.wrap(&old.unwrap(&record, b"tenant").expect("unwrap"), b"tenant").expect("wrap");
    let unwrapped = new.unwrap(&again, b"tenant").expect("unwrap");
    assert_eq!(Manifest::open(&file, &unwrapped, b""), Ok(manifest()));
    assert_eq!(old.unwrap(&again, b"tenant"), Err(KeyError::OtherRoot { found: 2, ours: 1 }));
    assert_eq!(new.unwrap(&again, b"somebody else"), Err(KeyError::Forged));
    assert_eq!(RootKey::new(2, [3; 32]).unwrap(&again, b"tenant"), Err(KeyError::Forged));
}

#[test]
fn a_nodes_copy_is_for_that_node_and_for_who_has_the_chunks_key() {
    let plaintext = noise(16_384);
    let (entry, _) = stored(&plaintext, &salt(1));
    let node = NodeSecret::new([1; 32]);
    let mut copy = plaintext.clone();
    let tag = node.key_of(&entry).seal_copy(&mut copy).expect("seal");
    assert_ne!(copy, plaintext);
    let mut opened = vec![1; plaintext.len()];
    node.key_of(&entry).open_copy(&copy, &tag, &mut opened).expect("ours");
    assert_eq!(opened, plaintext);
    let other_key = Entry { key: stored(b"other", &salt(1)).0.key, ..entry.clone() };
    for (node, entry) in [(&node, &other_key), (&NodeSecret::new([2; 32]), &entry)] {
        assert_eq!(node.key_of(entry).open_copy(&copy, &tag, &mut opened), Err(LocalError::Damaged));
        assert!(opened.iter().all(|byte| *byte == 0), "nothing is revealed");
        assert_ne!(node.name_of(entry), NodeSecret::new([1; 32]).name_of(&stored(&plaintext, &salt(1)).0));
    }
    assert_ne!(node.name_of(&entry), entry.name);
}

#[test]
fn a_copy_has_the_length_of_a_chunk() {
    let key = NodeSecret::new([1; 32]).key_of(&stored(b"chunk", &salt(1)).0);
    for len in [0, ChunkSize::LONGEST.bytes() + 1] {
        assert_eq!(key.seal_copy(&mut vec![1; len]), Err(LocalError::Len { found: len, plaintext: len }));
    }
    for (found, plaintext) in [(0, 0), (5, 4), (0, 5)] {
        let refused = key.open_copy(&vec![1; found], &[0; 16], &mut vec![0; plaintext]);
        assert_eq!(refused, Err(LocalError::Len { found, plaintext }));
    }
}

#[test]
fn a_copy_is_without_the_zeros_at_a_chunks_end() {
    let key = NodeSecret::new([1; 32]).key_of(&stored(b"chunk", &salt(1)).0);
    let mut plaintext = noise(20_000);
    plaintext[300] = 1;
    plaintext[301..].fill(0);
    assert_eq!(LocalKey::copy_len(&plaintext), 301);
    assert_eq!([LocalKey::copy_len(&[0; 9]), LocalKey::copy_len(&[])], [1, 0]);
    let mut copy = plaintext[..301].to_vec();
    let tag = key.seal_copy(&mut copy).expect("seal");
    let mut opened = vec![7; plaintext.len()];
    key.open_copy(&copy, &tag, &mut opened).expect("ours");
    assert_eq!(opened, plaintext);
    for cut in [1, 300] {
        assert_eq!(key.open_copy(&copy[..cut], &tag, &mut opened), Err(LocalError::Damaged));
        assert!(opened.iter().all(|byte| *byte == 0), "nothing is revealed");
    }
}

#[test]
fn each_span_of_time_has_a_salt_of_its_own() {
    let salts = [(1, 0), (1, 1), (1, u64::MAX), (2, 0)]
        .map(|(master, bucket)| Salt::for_bucket(&[master; 32], bucket));
    for (at, salt) in salts.iter().enumerate() {
        assert!(salts[..at].iter().all(|other| other.id() != salt.id()), "ids differ");
        assert!(salts[..at].iter().all(|other| stored(b"chunk", other).0 != stored(b"chunk", salt).0));
    }
    assert_eq!(Salt::for_bucket(&[1; 32], 1), salts[1]);
    assert_ne!(Salt::public().id(), salts[0].id());
}

#[test]
fn nothing_secret_is_printed() {
    let (entry, _) = stored(b"plaintext", &salt(7));
    let node = NodeSecret::new([7; 32]);
    let printed = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        entry.key,
        salt(7),
        tenant(7),
        RootKey::new(9, [7; 32]),
        node.key_of(&entry),
        node
    );
    assert_eq!(
        printed,
        "ChunkKey(..) Salt { id: [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7], for_keys: .. } TenantKey(..) \
         RootKey { id: 9, for_tenants: .. } LocalKey(..) NodeSecret { for_keys: .., for_names: .. }"
    );
}

/// Noise, text and zeros, in pieces.
fn plaintexts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..500),
        (any::<u8>(), 1..4000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    proptest::collection::vec(piece, 1..20).prop_map(|pieces| pieces.concat())
}

prop_compose! {
    fn manifests()(
        kind in 0..KINDS.len(),
        log2 in 14..=20_u8,
        places in proptest::collection::vec(any::<Option<u16>>(), 0..100),
        short in 0..16_384_u64,
        order in any::<u64>(),
    ) -> Manifest {
        let chunk_size = ChunkSize::from_log2(log2).expect("in bounds");
        let len = (places.len() as u64 * chunk_size.bytes() as u64).saturating_sub(short);
        let content = Content { kind: KINDS[kind], len, chunk_size, salt: [9; 16] };
        let entry = |text: u16| stored(&[&text.to_le_bytes()[..], b"."].concat(), &salt(1)).0;
        let chunks: Vec<_> = places.into_iter().map(|place| place.map(entry)).collect();
        let mut working_set: Vec<u32> =
            (0_u32..).zip(&chunks).filter(|(_, chunk)| chunk.is_some()).map(|(index, _)| index).collect();
        working_set.sort_by_key(|index| order.rotate_left(*index) ^ u64::from(*index));
        working_set.truncate(order as usize % 50);
        Manifest::new(content, chunks).and_then(|made| made.with_working_set(working_set)).expect("valid")
    }
}

proptest! {
    #[test]
    fn every_chunk_comes_back(plaintext in plaintexts()) {
        match seal(&plaintext, &salt(3)).expect("a chunk's length") {
            Sealed::Zero => prop_assert!(plaintext.iter().all(|byte| *byte == 0)),
            Sealed::Chunk { entry, body } => {
                prop_assert_eq!(open(&entry, &body, plaintext.len()), Ok(plaintext.clone()));
                prop_assert!(open(&entry, &body, plaintext.len() + 1).is_err());
            }
        }
    }

    #[test]
    fn every_manifest_comes_back(manifest in manifests()) {
        let file = manifest.seal(&tenant(1), b"subject").expect("seal");
        prop_assert!(file.len() <= MAX_MANIFEST_LEN);
        prop_assert_eq!(Manifest::open(&file, &tenant(1), b"subject"), Ok(manifest));
    }
}
