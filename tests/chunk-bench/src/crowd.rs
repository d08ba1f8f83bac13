//! Many readers of one content at once, none of which is on the node: what that takes, and how often its origin is read.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use chunk_store::Pack;

use crate::content::{Counted, Open, empty_cache};
use crate::read::{CHUNK_LEN, stored};
use crate::{Figure, Plan, millis};

const READERS: usize = 64;
/// What each of them reads, 16 MiB.
const CHUNKS: usize = 256;

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let mut of_one = Vec::new();
    let mut of_all = Vec::new();
    let mut fetches = Vec::new();
    for round in 0..plan.rounds {
        for (readers, times) in [(1, &mut of_one), (READERS, &mut of_all)] {
            let folder = plan.scratch.join(format!("crowd-{round}-{readers}"));
            let pack = Pack::open(File::open(&plan.pack)?).context("open the pack")?;
            let origin = Counted { source: pack, fetches: AtomicU64::new(0) };
            let cache = empty_cache(&folder)?;
            let open = Open::new(origin.source.manifest(), &cache, &origin)?;
            times.push(read_at_once(&open, readers)?);
            if readers == READERS {
                fetches.push(origin.fetches.load(Ordering::Relaxed) as f64 / different(&open)? as f64);
            }
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(vec![
        Figure::new("chunk_readers_1_of_16mib", "ms", of_one),
        Figure::new("chunk_readers_64_of_16mib", "ms", of_all),
        Figure::new("chunk_readers_64_fetches", "ratio", fetches),
    ])
}

/// Numbers of what each of them reads.
fn indexes(open: &Open<'_>) -> Result<Vec<u32>> {
    let mut indexes = stored(open.manifest)?;
    indexes.truncate(CHUNKS);
    Ok(indexes)
}

/// Chunks that are in it, those of equal content once.
fn different(open: &Open<'_>) -> Result<usize> {
    let names =
        indexes(open)?.into_iter().filter_map(|index| open.manifest.chunk(index)).map(|entry| entry.name);
    Ok(names.collect::<BTreeSet<_>>().len())
}

/// Until the last one is done.
fn read_at_once(open: &Open<'_>, readers: usize) -> Result<f64> {
    let indexes = indexes(open)?;
    let start = Barrier::new(readers + 1);
    thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..readers {
            let mut reader = open.reader(scope)?;
            let (start, indexes) = (&start, &indexes);
            running.push(scope.spawn(move || {
                let mut plaintext = vec![0; CHUNK_LEN];
                start.wait();
                indexes.iter().try_for_each(|index| reader.read(*index, &mut plaintext).map(drop))
            }));
        }
        // They are waiting, or about to; afterwards this thread may be the last to run.
        let began = Instant::now();
        start.wait();
        for reader in running {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        Ok(millis(began))
    })
}
