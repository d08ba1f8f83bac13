//! Reading what is on the node: table and slots, as a VMM does it, against the library's AES-256-GCM over the same bytes in
//! memory. One thread each, in turn; everything is in the page cache. *Copy* is the part of it that the kernel has: the same
//! bytes out of the file of slots.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use chunk_store::{Manifest, Pack, Reader};

use crate::content::{Open, empty_cache};
use crate::{Figure, Plan, millis};

/// What is read for a sample: more than a processor's caches hold.
pub(crate) const CHUNKS: usize = 1024;
/// Bytes of each.
pub(crate) const CHUNK_LEN: usize = 64 << 10;

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let pack = Pack::open(File::open(&plan.pack)?).context("open the pack")?;
    let indexes = stored(pack.manifest())?;
    let cache = empty_cache(&plan.scratch.join("read"))?;
    let open = Open::new(pack.manifest(), &cache, &pack)?;
    open.fill()?;
    let mut plaintexts = Vec::new();
    for &index in &indexes {
        let wanted = pack.manifest().wanted(index).context("a stored chunk")?;
        plaintexts.push(cache.get(wanted, &pack)?.plaintext.clone());
    }
    let (key, sealed) = (library_key()?, seal_all(&plaintexts)?);
    let slots = cache.slots(pack.manifest().content().chunk_size)?;
    let places = indexes.iter().map(|index| Some(cache.locate(pack.manifest().wanted(*index)?)?.at));
    let places: Vec<u64> = places.collect::<Option<_>>().context("a copy of every chunk")?;
    let (mut library, mut ours, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    thread::scope(|scope| {
        let mut reader = open.reader(scope)?;
        for _ in 0..=plan.rounds {
            library.push(library_opens(&key, &sealed)?);
            ours.push(reads(&mut reader, &indexes)?);
            copies.push(copy(&slots, &places)?);
        }
        ensure!(reader.asked() == 0, "a copy was not where the table says");
        anyhow::Ok(())
    })?;
    // The first round of each is to warm up.
    let figure = |name, samples: Vec<f64>| Figure::new(name, "ms", samples.into_iter().skip(1).collect());
    Ok(vec![
        figure("chunk_gcm_open_64mib", library),
        figure("chunk_read_64mib", ours),
        figure("chunk_copy_64mib", copies),
    ])
}

/// Numbers of the first chunks that are stored and whole.
pub(crate) fn stored(manifest: &Manifest) -> Result<Vec<u32>> {
    let all = 0..manifest.chunks().len() as u32;
    let stored =
        all.filter(|index| manifest.chunk(*index).is_some() && manifest.chunk_len(*index) == CHUNK_LEN);
    let indexes: Vec<u32> = stored.take(CHUNKS).collect();
    ensure!(indexes.len() == CHUNKS, "the runtime is shorter than {CHUNKS} chunks");
    Ok(indexes)
}

fn reads(reader: &mut Reader, indexes: &[u32]) -> Result<f64> {
    let mut plaintext = vec![0; CHUNK_LEN];
    let began = Instant::now();
    for &index in indexes {
        reader.read(index, &mut plaintext)?;
        black_box(&plaintext);
    }
    Ok(millis(began))
}

fn copy(slots: &File, places: &[u64]) -> Result<f64> {
    let mut copy = vec![0; CHUNK_LEN];
    let began = Instant::now();
    for &place in places {
        slots.read_exact_at(&mut copy, place)?;
        black_box(&copy);
    }
    Ok(millis(began))
}

/// A message and its tag.
type SealedMessage = (Vec<u8>, Vec<u8>);

pub(crate) fn library_key() -> Result<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).context("make a key")?))
}

fn seal_all(plaintexts: &[Vec<u8>]) -> Result<Vec<SealedMessage>> {
    let key = library_key()?;
    let seal = |(number, plaintext): (u64, &Vec<u8>)| {
        let mut message = plaintext.clone();
        let tag =
            key.seal_in_place_separate_tag(nonce(number), Aad::empty(), &mut message).context("seal")?;
        Ok((message, tag.as_ref().to_vec()))
    };
    (0..).zip(plaintexts).map(seal).collect()
}

/// One key for all messages, which is the fastest that the library does.
fn library_opens(key: &LessSafeKey, sealed: &[SealedMessage]) -> Result<f64> {
    let mut plaintext = vec![0; CHUNK_LEN];
    let began = Instant::now();
    for (number, (message, tag)) in (0..).zip(sealed) {
        key.open_separate_gather(nonce(number), Aad::empty(), message, tag, &mut plaintext)
            .context("open")?;
        black_box(&plaintext);
    }
    Ok(millis(began))
}

pub(crate) fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
