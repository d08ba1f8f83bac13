//! Which peers a chunk's shards are for. Pure: every node that has the same list comes to the same answer.
//!
//! Rendezvous hashing: each peer's id and the name give a score, the highest [`SHARDS`] have it. There are tens of peers, not
//! thousands, so that scoring them all costs less than one system call; nothing has to be built or kept, as with points on
//! a circle, the load is even without tuning, owners are distinct without skipping, and a peer that comes or goes takes or
//! leaves only what is its own.

use chunk_store::ChunkName;

use super::erasure::SHARDS;

/// The peers, as numbers in the order in which they were given.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    seeds: Vec<u64>,
}

impl Ring {
    /// Of peers with these ids, which are distinct. Their order does not matter to who owns what.
    pub(super) fn new<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        Self { seeds: ids.into_iter().map(|id| first_word(&ChunkName::of(id.as_bytes()))).collect() }
    }

    /// Who is to have the shards of a chunk, those with the highest score first; all of them when there are not enough.
    pub(super) fn owners(&self, name: &ChunkName) -> Vec<usize> {
        let word = first_word(name);
        let mut scored: Vec<(u64, usize)> =
            self.seeds.iter().enumerate().map(|(peer, seed)| (mix(word ^ seed), peer)).collect();
        scored.sort_unstable_by(|left, right| right.cmp(left));
        scored.into_iter().take(SHARDS).map(|(_, peer)| peer).collect()
    }
}

/// A name is a hash: any eight bytes of it are as good as all.
fn first_word(name: &ChunkName) -> u64 {
    name.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input counts for every bit of the output.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn owners(ids: &[String], content: &[u8]) -> Vec<String> {
        let ring = Ring::new(ids.iter().map(String::as_str));
        ring.owners(&ChunkName::of(content)).into_iter().map(|peer| ids[peer].clone()).collect()
    }

    fn peers() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::btree_set("[a-z]{1,6}", 1..40)
            .prop_map(|ids| ids.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    }

    proptest! {
        #[test]
        fn owners_are_distinct_and_as_many_as_there_are_shards(ids in peers(), content: [u8; 4]) {
            let owners: BTreeSet<String> = owners(&ids, &content).into_iter().collect();
            prop_assert_eq!(owners.len(), ids.len().min(SHARDS));
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(ids in peers(), content: [u8; 4]) {
            let mut sorted = ids.clone();
            sorted.sort();
            prop_assert_eq!(owners(&ids, &content), owners(&sorted, &content));
        }

        #[test]
        fn who_leaves_is_replaced_by_one_and_nothing_else_moves(
            ids in peers(), gone: prop::sample::Index, content: [u8; 4]
        ) {
            let mut left = ids.clone();
            let gone = left.remove(gone.index(ids.len()));
            let (before, after) = (owners(&ids, &content), owners(&left, &content));
            let stay: Vec<&String> = before.iter().filter(|id| **id != gone).collect();
            // The same ones, in the same order, and at most one more behind them.
            prop_assert!(after.iter().zip(&stay).all(|(after, stay)| after == *stay));
            prop_assert!(after.len() <= stay.len() + 1);
            if stay.len() == before.len() {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn peers_have_about_as_much_as_one_another() {
        let ids: Vec<String> = (0..10).map(|peer| format!("node-{peer}")).collect();
        let mut shards = BTreeMap::new();
        for chunk in 0..10_000u32 {
            owners(&ids, &chunk.to_le_bytes()).into_iter().for_each(|id| *shards.entry(id).or_insert(0) += 1);
        }
        // Of 5,000 each; four standard deviations are 200.
        assert!(
            shards.len() == 10 && shards.values().all(|count| (4_800..5_200).contains(count)),
            "{shards:?}"
        );
    }
}
