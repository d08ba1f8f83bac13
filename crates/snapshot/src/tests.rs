//! What goes in comes out; what was changed in between is refused and said why.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::layout::{AT_ARCHITECTURE, AT_LEN, AT_VERSION, HEADER_LEN, TAG_LEN};

const SALT: Salt = [7; 16];

fn key(byte: u8) -> Key {
    Key::new([byte; 32])
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DialState {
    position: u8,
    marks: Vec<u64>,
}

impl SavedState for DialState {
    const NAME: &'static str = "dial";
    const VERSION: u32 = 3;
}

fn dial(position: u8) -> DialState {
    DialState { position, marks: (0..u64::from(position)).collect() }
}

fn file_of(positions: &[u8], key: &Key) -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.add_bytes("blob", 0, 1, vec![0xaa; 100]).expect("fits");
    for (instance, position) in (0..).zip(positions) {
        writer.add(instance, &dial(*position)).expect("fits");
    }
    writer.finish(key, &SALT)
}

fn refusal(file: &[u8]) -> FormatError {
    StateReader::open(file, &key(1)).expect_err("refused")
}

/// What an attacker with the key, or a program with a bug, would write.
fn resealed(mut file: Vec<u8>) -> Vec<u8> {
    seal(&mut file, &key(1));
    file
}

#[test]
fn sections_come_back_by_name_and_number() {
    let file = file_of(&[4, 9], &key(1));
    let reader = StateReader::open(&file, &key(1)).expect("open");
    assert_eq!(reader.get::<DialState>(1), Ok(dial(9)));
    assert_eq!(reader.bytes("blob", 0, 1), Ok(&[0xaa; 100][..]));
    assert_eq!((reader.count("dial"), reader.count("other")), (2, 0));
    assert_eq!(reader.get::<DialState>(2), Err(FormatError::Missing { name: "dial", instance: 2 }));
    assert!(matches!(reader.bytes("blob", 0, 2), Err(FormatError::SectionVersion { found: 1, .. })));
}

#[test]
fn every_kind_of_wrong_file_is_told_apart() {
    let file = file_of(&[4], &key(1));
    assert_eq!(refusal(b"PK\x03\x04 something else"), FormatError::Magic);
    assert!(matches!(refusal(&[]), FormatError::Truncated { found: 0, .. }));
    assert!(matches!(refusal(&file[..file.len() - 1]), FormatError::Truncated { .. }));
    assert!(matches!(refusal(&[&file[..], b"x"].concat()), FormatError::TooLong { .. }));
    let oversized = vec![0; MAX_STATE_LEN as usize + 1];
    assert!(matches!(refusal(&oversized), FormatError::Oversized(_)));
    let changed = |at: usize, value: u8| {
        let mut file = file.clone();
        file[at] = value;
        file
    };
    assert_eq!(refusal(&changed(AT_VERSION, 2)), FormatError::Version(2));
    assert!(matches!(refusal(&changed(AT_ARCHITECTURE, 183)), FormatError::Architecture { found: 183, .. }));
    assert!(matches!(refusal(&changed(AT_LEN + 7, 1)), FormatError::Truncated { .. }));
    assert_eq!(refusal(&changed(HEADER_LEN + 50, 0xff)), FormatError::Checksum);
    assert_eq!(StateReader::open(&file, &key(2)).expect_err("refused"), FormatError::WrongKey);
    assert_eq!(refusal(&changed(file.len() - 1, !file[file.len() - 1])), FormatError::Forged);
}

#[test]
fn sections_out_of_order_or_out_of_bounds_are_refused_even_under_a_good_tag() {
    let file = file_of(&[4, 4], &key(1));
    let dial_len = (file.len() - TAG_LEN - HEADER_LEN - 140) / 2;
    let (first, second) = (HEADER_LEN + 140, HEADER_LEN + 140 + dial_len);
    let mut swapped = file.clone();
    swapped[first..second].copy_from_slice(&file[second..second + dial_len]);
    swapped[second..second + dial_len].copy_from_slice(&file[first..second]);
    assert!(matches!(refusal(&resealed(swapped)), FormatError::SectionOrder { instance: 0, .. }));
    let mut huge = file.clone();
    huge[first + 32..first + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(refusal(&resealed(huge)), FormatError::SectionBounds { index: 1 });
    let mut nameless = file;
    nameless[first] = 0;
    assert_eq!(refusal(&resealed(nameless)), FormatError::SectionName { index: 1 });
}

#[test]
fn a_section_has_no_bytes_left_over() {
    let mut writer = StateWriter::new();
    let bytes = [postcard::to_allocvec(&dial(2)).expect("encode"), vec![0]].concat();
    writer.add_bytes("dial", 0, 3, bytes).expect("fits");
    let file = writer.finish(&key(1), &SALT);
    let reader = StateReader::open(&file, &key(1)).expect("open");
    assert!(matches!(reader.get::<DialState>(0), Err(FormatError::Decode { .. })));
}

#[test]
fn a_length_that_was_made_up_allocates_nothing() {
    let mut writer = StateWriter::new();
    // A dial with 2^63 marks.
    let bytes = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].to_vec();
    writer.add_bytes("dial", 0, 3, bytes).expect("fits");
    let file = writer.finish(&key(1), &SALT);
    let reader = StateReader::open(&file, &key(1)).expect("open");
    assert!(matches!(reader.get::<DialState>(0), Err(FormatError::Decode { .. })));
}

#[test]
fn a_host_with_more_will_do_and_one_with_less_is_told_what_is_missing() {
    let word = |bits| FeatureWord { leaf: 7, index: 0, register: Register::Ebx, bits };
    let cpu = |bits| Fingerprint {
        vendor: "AuthenticAMD".into(),
        baseline: "test".into(),
        physical_bits: 40,
        words: vec![word(bits)],
    };
    assert_eq!(cpu(0b0110).runs_on(&cpu(0b1110)), Ok(()));
    let missing = cpu(0b0110).runs_on(&cpu(0b0010)).expect_err("less");
    let Mismatch::Missing(feature) = missing else { panic!("{missing:?}") };
    assert_eq!(feature.to_string(), "CPUID 0x7.0 Ebx bit 2");
    let other = Fingerprint { vendor: "GenuineIntel".into(), ..cpu(0b0110) };
    assert!(matches!(cpu(0).runs_on(&other), Err(Mismatch::Vendor { .. })));
    let narrow = Fingerprint { physical_bits: 39, ..cpu(0) };
    assert!(matches!(cpu(0).runs_on(&narrow), Err(Mismatch::PhysicalBits { saved: 40, host: 39 })));
}

fn index_of(pages: u32, chunk_pages: u32, masks: &[(u32, u64)]) -> PageIndex {
    let mut index = PageIndex::new(pages, chunk_pages).expect("an index");
    for &(number, mask) in masks {
        let keep = index.len_of(number).map_or(0, |len| u64::MAX >> (64 - len));
        // What is outside or has no page is refused and left out.
        let _ = index.push(Chunk { number, mask: mask & keep });
    }
    index
}

#[test]
fn extents_cover_chunks_and_leave_out_long_gaps() {
    let index = index_of(1000, 16, &[(0, 1), (1, 1), (4, 1), (40, 1), (62, 1)]);
    assert_eq!(index.extents(64), [0..80, 640..656, 992..1000]);
    assert_eq!(index.extents(0), [0..32, 64..80, 640..656, 992..1000]);
    assert_eq!(index.extents(10_000).first(), Some(&(0..1000)));
}

#[test]
fn an_index_that_contradicts_itself_is_refused() {
    let good = index_of(100, 16, &[(1, 1), (6, 0b1111)]).encode();
    assert!(PageIndex::decode(&good).is_ok());
    let changed = |at: usize, bytes: &[u8]| {
        let mut encoded = good.clone();
        encoded[at..at + bytes.len()].copy_from_slice(bytes);
        PageIndex::decode(&encoded).expect_err("refused").to_string()
    };
    assert!(changed(0, &u32::MAX.to_le_bytes()).ends_with("number of pages"));
    assert!(changed(4, &[15]).ends_with("length of a chunk"));
    assert!(changed(8, &[7]).ends_with("outside of memory"));
    assert!(changed(8, &[6]).ends_with("order of chunks"));
    assert!(changed(12, &[0]).ends_with("pages of a chunk"));
    // The last chunk has four pages.
    assert!(changed(8 + 12 + 4, &[0x1f]).ends_with("pages of a chunk"));
    assert!(PageIndex::decode(&good[..good.len() - 1]).is_err());
}

proptest! {
    #[test]
    fn what_was_written_is_read(positions in prop::collection::vec(0u8..50, 0..8), byte in any::<u8>()) {
        let file = file_of(&positions, &key(byte));
        let reader = StateReader::open(&file, &key(byte)).expect("open");
        for (instance, position) in (0..).zip(&positions) {
            prop_assert_eq!(reader.get::<DialState>(instance), Ok(dial(*position)));
        }
    }

    #[test]
    fn no_changed_bit_goes_unnoticed(bit in 0usize..8 * 300) {
        let mut file = file_of(&[4, 9], &key(1));
        let bit = bit % (file.len() * 8);
        file[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(StateReader::open(&file, &key(1)).is_err());
    }

    #[test]
    fn no_cut_goes_unnoticed(len in 0usize..300) {
        let file = file_of(&[4, 9], &key(1));
        prop_assume!(len < file.len());
        let refused = matches!(refusal(&file[..len]), FormatError::Truncated { .. });
        prop_assert!(refused);
    }

    #[test]
    fn any_bytes_under_a_good_tag_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..400), count in 0u8..5) {
        let mut file = file_of(&[], &key(1))[..HEADER_LEN].to_vec();
        file[14] = count;
        file.extend_from_slice(&body);
        file.resize(file.len() + TAG_LEN, 0);
        if let Ok(reader) = StateReader::open(&resealed(file), &key(1)) {
            let _ = reader.get::<DialState>(0);
        }
    }

    #[test]
    fn any_bytes_are_an_index_or_refused(entries in prop::collection::vec((0u32..50, any::<u64>()), 0..20), cut in 0usize..12) {
        let mut bytes = index_of(100, 16, &[]).encode();
        for (number, mask) in entries {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&mask.to_le_bytes());
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Ok(index) = PageIndex::decode(&bytes) {
            prop_assert_eq!(index.encode(), bytes);
        }
    }

    #[test]
    fn an_index_comes_back(
        pages in 1u32..5000,
        shift in 0u32..7,
        masks in prop::collection::btree_map(0u32..5000, any::<u64>(), 0..40),
    ) {
        let masks: Vec<_> = masks.into_iter().collect();
        let index = index_of(pages, 1 << shift, &masks);
        prop_assert_eq!(PageIndex::decode(&index.encode()), Ok(index.clone()));
        for chunk in index.chunks() {
            prop_assert_eq!(index.find(chunk.number), Some(chunk));
            let start = chunk.number << shift;
            prop_assert!(index.extents(8).iter().any(|extent| extent.contains(&start)));
        }
    }
}

struct Dial(u8);

impl Persist for Dial {
    type State = DialState;
    type Resources<'a> = u8;
    type Error = std::num::TryFromIntError;

    fn save(&self) -> DialState {
        dial(self.0)
    }

    fn restore(most: u8, state: &DialState) -> Result<Self, Self::Error> {
        u8::try_from(i16::from(most) - i16::from(state.position)).map(|_| Self(state.position))
    }
}

#[test]
fn a_state_comes_back_and_a_hostile_one_is_refused() {
    let state = Dial(4).save();
    assert_eq!(Dial::restore(10, &state).map(|dial| dial.0), Ok(4));
    assert!(Dial::restore(10, &dial(11)).is_err());
}

#[test]
fn runs_of_pages_are_found() {
    let found = |mask| runs(mask).collect::<Vec<_>>();
    assert_eq!(found(0), []);
    assert_eq!(found(0b1_0110), [1..3, 4..5]);
    assert_eq!(found(u64::MAX).first(), Some(&(0..64)));
    assert_eq!(found(1 << 63 | 1), [0..1, 63..64]);
}
