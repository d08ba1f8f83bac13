//! What an operator asks of the chunks: how much there is, whether it is whole, and to do something about it.

use std::collections::{HashMap, HashSet};

use chunk_store::{
    ChunkName, Entry, Health, Label, MAX_BODY_LEN, Manifest, Repaired, Salt, SaltId, Sealed, Source,
    SourceError, StoreStats, Wanted, seal,
};
use serde::Serialize;

use super::{
    node::{Chunks, ChunksError},
    publish::salts_until_now,
    tiers::TierStats,
};

/// Names of damaged chunks that are listed: who has more has other worries.
const MAX_LISTED: usize = 1000;

/// How much there is, and what became of it. Bytes throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    /// What is published.
    pub(crate) published: Published,
    /// This node's copies.
    pub(crate) cache: CacheReport,
    /// Where chunks came from that were not among these.
    pub(crate) tiers: TierStats,
}

/// What is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Published {
    /// Contents.
    pub(crate) contents: u64,
    /// Their lengths together, without chunks of zeros.
    pub(crate) given: u64,
    /// Chunks that are stored, garbage included.
    pub(crate) chunks: u64,
    /// What these take.
    pub(crate) stored: u64,
    /// The same by what the contents are.
    pub(crate) by_kind: Vec<KindReport>,
}

/// The contents of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KindReport {
    /// `image`, `code`, `layer`, `memory`, `prefetch`, `state` or `scratch`.
    pub(crate) kind: String,
    /// How many.
    pub(crate) contents: u64,
    /// Their lengths together, without chunks of zeros.
    pub(crate) given: u64,
    /// Chunks that they consist of.
    pub(crate) chunks: u64,
    /// Different ones among these.
    pub(crate) different: u64,
}

/// This node's copies, and what happened since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CacheReport {
    /// Copies there are.
    pub(crate) copies: u64,
    /// What they take.
    pub(crate) bytes: u64,
    /// What they may take.
    pub(crate) capacity: u64,
    /// Reads of the agent that a copy answered; those of VMMs are not known.
    pub(crate) hits: u64,
    /// Chunks that were fetched.
    pub(crate) fetched: u64,
    /// Fetched bodies that were not the chunk.
    pub(crate) refused: u64,
    /// Copies that were damaged, and dropped.
    pub(crate) damaged: u64,
    /// Copies dropped to make room.
    pub(crate) evicted: u64,
    /// Copies that could not be read or written.
    pub(crate) failed: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    /// Chunks that were read.
    pub(crate) chunks: u64,
    /// How many of them are not what their name says.
    pub(crate) damaged: u64,
    /// Chunks that a content needs and that are not there.
    pub(crate) missing: u64,
    /// The first of these, by name.
    pub(crate) names: Vec<String>,
    /// Contents that cannot be opened.
    pub(crate) unreadable: Vec<String>,
    /// This node's copies that were read.
    pub(crate) copies: u64,
    /// How many of them were damaged, and dropped.
    pub(crate) damaged_copies: u64,
}

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Mended {
    /// Chunks that are there again.
    pub(crate) replaced: u64,
    /// Damaged chunks of which nobody has a good one: they are deleted, so that publishing writes them again.
    pub(crate) deleted: u64,
    /// Damaged chunks of a publication that is under way: for the next repair.
    pub(crate) left: u64,
    /// Chunks that a content needs and that nobody has.
    pub(crate) missing: u64,
}

impl Chunks {
    /// Counts. Blocks: every manifest is opened.
    pub(crate) fn stats(&self) -> Result<Stats, ChunksError> {
        let StoreStats { chunks, bytes, roots } = self.store.stats()?;
        let mut published = Published { contents: roots, chunks, stored: bytes, ..Published::default() };
        let mut kinds: HashMap<&'static str, (KindReport, HashSet<ChunkName>)> = HashMap::new();
        for label in self.labels()? {
            let Ok(manifest) = self.manifest(&label) else { continue };
            let kind = manifest.content().kind.name();
            let report = KindReport { kind: kind.to_owned(), contents: 0, given: 0, chunks: 0, different: 0 };
            let (report, names) = kinds.entry(kind).or_insert_with(|| (report, HashSet::new()));
            report.contents += 1;
            for (index, _) in stored(&manifest) {
                report.given += manifest.chunk_len(index) as u64;
                report.chunks += 1;
            }
            names.extend(manifest.names());
        }
        published.by_kind = kinds
            .into_values()
            .map(|(report, names)| KindReport { different: names.len() as u64, ..report })
            .collect();
        published.by_kind.sort_by(|one, other| one.kind.cmp(&other.kind));
        published.given = published.by_kind.iter().map(|report| report.given).sum();
        let tiers = self.tiers.as_ref().map(|tiers| tiers.stats()).unwrap_or_default();
        Ok(Stats { published, cache: self.cache_report(), tiers })
    }

    /// Reads all that is published and every copy of it. Blocks.
    pub(crate) fn verify(&self) -> Result<Checked, ChunksError> {
        let Health { chunks, damaged, missing, damaged_roots } = self.store.verify()?;
        let mut checked = Checked { chunks, ..Checked::default() };
        checked.unreadable.extend(damaged_roots.iter().map(Label::to_string));
        (checked.damaged, checked.missing) = (damaged.len() as u64, missing.len() as u64);
        checked.names = damaged.iter().chain(&missing).take(MAX_LISTED).map(ChunkName::to_string).collect();
        let before = self.cache.stats().damaged;
        for label in self.labels()? {
            match self.manifest(&label) {
                Ok(manifest) => checked.copies += self.verify_copies(&manifest),
                Err(_) if damaged_roots.contains(&label) => {}
                Err(_) => checked.unreadable.push(label.to_string()),
            }
        }
        checked.damaged_copies = self.cache.stats().damaged - before;
        Ok(checked)
    }

    /// Has damaged and missing chunks written again, of what this node or another one has. Blocks.
    pub(crate) fn repair(&self) -> Result<Mended, ChunksError> {
        let known = self.known_chunks()?;
        let Repaired { replaced, deleted, left, missing } =
            self.store.repair(&Copies { chunks: self, known })?;
        Ok(Mended { replaced, deleted, left, missing })
    }

    fn verify_copies(&self, manifest: &Manifest) -> u64 {
        let copies = stored(manifest).filter_map(|(index, _)| manifest.wanted(index));
        copies.filter(|wanted| self.cache.locate(*wanted).is_some() && self.cache.verify(*wanted)).count()
            as u64
    }

    /// Every chunk that a content of this node needs, and under which salt it was made.
    fn known_chunks(&self) -> Result<HashMap<ChunkName, Known>, ChunksError> {
        let mut known = HashMap::new();
        for label in self.labels()? {
            let Ok(manifest) = self.manifest(&label) else { continue };
            let salt = manifest.content().salt;
            for (index, entry) in stored(&manifest) {
                let (len, size) = (manifest.chunk_len(index), manifest.content().chunk_size);
                known.entry(entry.name).or_insert_with(|| Known { entry: entry.clone(), len, size, salt });
            }
        }
        Ok(known)
    }

    fn cache_report(&self) -> CacheReport {
        let chunk_store::CacheStats {
            hits,
            fetched,
            refused,
            damaged,
            evicted,
            failed,
            copies,
            bytes,
            capacity,
        } = self.cache.stats();
        CacheReport { copies, bytes, capacity, hits, fetched, refused, damaged, evicted, failed }
    }
}

fn stored(manifest: &Manifest) -> impl Iterator<Item = (u32, &Entry)> {
    (0..).zip(manifest.chunks()).filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
}

struct Known {
    entry: Entry,
    len: usize,
    size: chunk_store::ChunkSize,
    salt: SaltId,
}

/// This node's copies as a source of what they were made from: the same content under the same salt gives the same chunk.
struct Copies<'a> {
    chunks: &'a Chunks,
    known: HashMap<ChunkName, Known>,
}

impl Source for Copies<'_> {
    fn fetch(&self, name: &ChunkName, _max_len: usize, _attempt: u32) -> Result<Vec<u8>, SourceError> {
        let Known { entry, len, size, salt } = self.known.get(name).ok_or(SourceError::Absent)?;
        let salt = salt_of(&self.chunks.salts, salt).ok_or(SourceError::Absent)?;
        let wanted = Wanted { entry, len: *len, size: *size };
        // Of the cache alone: behind it is what is being repaired.
        let copy = self.chunks.cache.get(wanted, &Nowhere).map_err(|_| SourceError::Absent)?;
        match seal(&copy.plaintext, &salt) {
            Ok(Sealed::Chunk { entry, body }) if entry.name == *name && body.len() <= MAX_BODY_LEN => {
                Ok(body)
            }
            _ => Err(SourceError::Absent),
        }
    }
}

/// A salt by its id: the node's own of any time, or the public one.
fn salt_of(master: &[u8; 32], id: &SaltId) -> Option<Salt> {
    let public = Salt::public();
    if public.id() == *id { Some(public) } else { salts_until_now(master).find(|salt| salt.id() == *id) }
}

/// Has nothing.
struct Nowhere;

impl Source for Nowhere {
    fn fetch(&self, _name: &ChunkName, _max_len: usize, _attempt: u32) -> Result<Vec<u8>, SourceError> {
        Err(SourceError::Absent)
    }
}
