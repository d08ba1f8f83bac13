//! Publishing: cut, compress, encrypt, name, store, as a root that can be read; against the library's AES-256-GCM over the same
//! bytes. One thread each, in turn. The store is in memory. Noise shows it without compression, but for the attempt, and *seal* is
//! all but the store.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use aws_lc_rs::aead::Aad;
use chunk_store::{ChunkSize, Content, Kind, Manifest, Pack, Salt, Store, TenantKey, seal};

use crate::read::{CHUNK_LEN, CHUNKS, library_key, nonce, stored};
use crate::{Figure, Plan, millis};

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let image = of_image(plan)?;
    let mut noise = vec![0; CHUNKS * CHUNK_LEN];
    getrandom::fill(&mut noise).context("draw noise")?;
    let store = plan.memory.join("store");
    let (mut library, mut images, mut noises) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sealed_images, mut sealed_noises) = (Vec::new(), Vec::new());
    for _ in 0..=plan.rounds {
        library.push(library_seals(&image)?);
        images.push(publish(&image, &store)?);
        noises.push(publish(&noise, &store)?);
        sealed_images.push(seals(&image)?);
        sealed_noises.push(seals(&noise)?);
    }
    // The first round of each is to warm up.
    let figure = |name, samples: Vec<f64>| Figure::new(name, "ms", samples.into_iter().skip(1).collect());
    Ok(vec![
        figure("chunk_gcm_seal_64mib", library),
        figure("chunk_publish_64mib", images),
        figure("chunk_publish_incompressible_64mib", noises),
        figure("chunk_seal_64mib", sealed_images),
        figure("chunk_seal_incompressible_64mib", sealed_noises),
    ])
}

/// The chunks that are read in `read.rs`, one after the other.
fn of_image(plan: &Plan) -> Result<Vec<u8>> {
    let pack = Pack::open(File::open(&plan.pack)?).context("open the pack")?;
    let image = File::open(&plan.image)?;
    let mut bytes = vec![0; CHUNKS * CHUNK_LEN];
    for (chunk, index) in bytes.chunks_mut(CHUNK_LEN).zip(stored(pack.manifest())?) {
        image.read_exact_at(chunk, u64::from(index) * CHUNK_LEN as u64)?;
    }
    Ok(bytes)
}

/// Into a store with nothing in it, where nothing is found to be there already.
fn publish(bytes: &[u8], folder: &Path) -> Result<f64> {
    let store = Store::open(folder)?;
    let (salt, tenant) = (Salt::new([3; 16], [4; 32]), TenantKey::new([5; 32]));
    let content =
        Content { kind: Kind::Image, len: bytes.len() as u64, chunk_size: ChunkSize::IMAGE, salt: salt.id() };
    let began = Instant::now();
    let publish = store.publish();
    let entries: Result<Vec<_>> =
        bytes.chunks(CHUNK_LEN).map(|chunk| Ok(publish.add(seal(chunk, &salt)?)?)).collect();
    let manifest = Manifest::new(content, entries?)?;
    publish.commit(&"bench".parse()?, &manifest, &manifest.seal(&tenant, b"bench")?)?;
    let took = millis(began);
    drop(store);
    fs::remove_dir_all(folder).context("empty the store")?;
    Ok(took)
}

/// What a publication does before it stores anything.
fn seals(bytes: &[u8]) -> Result<f64> {
    let salt = Salt::new([3; 16], [4; 32]);
    let began = Instant::now();
    for chunk in bytes.chunks(CHUNK_LEN) {
        black_box(seal(chunk, &salt)?);
    }
    Ok(millis(began))
}

fn library_seals(bytes: &[u8]) -> Result<f64> {
    let key = library_key()?;
    let mut bytes = bytes.to_vec();
    let began = Instant::now();
    for (number, message) in (0..).zip(bytes.chunks_mut(CHUNK_LEN)) {
        let tag = key.seal_in_place_separate_tag(nonce(number), Aad::empty(), message).context("seal")?;
        let _ = black_box(tag);
    }
    Ok(millis(began))
}
