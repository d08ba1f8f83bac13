//! A content of 10 GiB, as an agent opens it: what its manifest and its table take, and what the first reads do. *Sparse* is an
//! image's files at three places and zeros between them, *full* has no chunk of zeros; the latter is not read, for nothing but its
//! manifest is there. Each sample is a process of its own.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chunk_store::{
    ChunkSize, Content, Entry, Kind, Manifest, NodeSecret, Pack, Salt, Sealed, Table, seal, write_pack,
};

use crate::content::{Open, empty_cache};
use crate::{FIGURE_MARK, Figure, Plan, millis};

/// What a process of its own is started with.
pub(crate) const SPARSE: &str = "large-sparse";
pub(crate) const FULL: &str = "large-full";

const LEN: u64 = 10 << 30;
/// Where the image is in it.
const PLACES: [u64; 3] = [0, 4 << 30, 9 << 30];
/// Chunks that are read, from all over it.
const READS: usize = 1000;
const SAMPLES: usize = 5;

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let (file, pack) = (plan.scratch.join("large"), plan.scratch.join("large.pack"));
    write_large(&plan.image, &file)?;
    write_pack(&File::open(&file)?, Kind::Image, ChunkSize::IMAGE, &Salt::public(), &File::create(&pack)?)?;
    fs::remove_file(&file)?;
    let mut figures: Vec<Figure> = Vec::new();
    for number in 0..SAMPLES {
        let scratch = plan.scratch.join(format!("large-{number}"));
        let mut sample = in_a_process(&[SPARSE.as_ref(), &pack, &scratch])?;
        sample.extend(in_a_process(&[FULL.as_ref(), &scratch])?);
        fs::remove_dir_all(&scratch)?;
        for taken in sample {
            match figures.iter_mut().find(|figure| figure.name == taken.name) {
                Some(figure) => figure.samples.extend(taken.samples),
                None => figures.push(taken),
            }
        }
    }
    fs::remove_file(&pack)?;
    Ok(figures)
}

fn write_large(image: &Path, to: &Path) -> Result<()> {
    let (image, to) = (File::open(image)?, File::create(to)?);
    to.set_len(LEN)?;
    let mut block = vec![0; 4096];
    for at in (0..image.metadata()?.len()).step_by(block.len()) {
        image.read_exact_at(&mut block, at)?;
        if block.iter().any(|byte| *byte != 0) {
            PLACES.iter().try_for_each(|place| to.write_all_at(&block, place + at))?;
        }
    }
    Ok(())
}

fn in_a_process(arguments: &[&Path]) -> Result<Vec<Figure>> {
    let ran = Command::new(env::current_exe()?).args(arguments).output()?;
    ensure!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    let said = String::from_utf8(ran.stdout)?;
    let lines = said.lines().filter_map(|line| line.strip_prefix(FIGURE_MARK));
    lines.map(|json| serde_json::from_str(json).context("read a figure of a process")).collect()
}

/// Opens the pack, makes the table, reads.
pub(crate) fn sparse(pack: &Path, scratch: &Path) -> Result<Vec<Figure>> {
    let cache = empty_cache(scratch)?;
    let before = resident()?;
    let began = Instant::now();
    let pack = Pack::open(File::open(pack)?)?;
    let opened = millis(began);
    let began = Instant::now();
    let open = Open::new(pack.manifest(), &cache, &pack)?;
    let tabled = millis(began);
    let memory = resident()? - before + in_memory(&open.table)?;
    let stored =
        (0..pack.manifest().chunks().len() as u32).filter(|index| pack.manifest().chunk(*index).is_some());
    let stored: Vec<u32> = stored.collect();
    let indexes: Vec<u32> = stored.iter().copied().step_by(stored.len().div_ceil(READS)).collect();
    let (first, again) = thread::scope(|scope| {
        let mut reader = open.reader(scope)?;
        let mut plaintext = vec![0; ChunkSize::IMAGE.bytes()];
        let mut read_all = || -> Result<f64> {
            let began = Instant::now();
            for &index in &indexes {
                let len = reader.chunk_len(index);
                reader.read(index, plaintext.get_mut(..len).unwrap_or_default())?;
            }
            Ok(millis(began) * 1e3 / indexes.len() as f64)
        };
        anyhow::Ok((read_all()?, read_all()?))
    })?;
    Ok(vec![
        Figure::new("chunk_10gib_open", "ms", vec![opened]),
        Figure::new("chunk_10gib_table", "ms", vec![tabled]),
        Figure::new("chunk_10gib_memory", "bytes", vec![memory]),
        Figure::new("chunk_10gib_first_read", "us", vec![first]),
        Figure::new("chunk_10gib_read_again", "us", vec![again]),
    ])
}

/// A manifest without a chunk of zeros, decoded, and its table.
pub(crate) fn full(scratch: &Path) -> Result<Vec<Figure>> {
    let plain = {
        let salt = Salt::public();
        let content = Content { kind: Kind::Image, len: LEN, chunk_size: ChunkSize::IMAGE, salt: salt.id() };
        let entry = |number: u64| -> Result<Option<Entry>> {
            match seal(&(number + 1).to_le_bytes(), &salt)? {
                Sealed::Chunk { entry, .. } => Ok(Some(entry)),
                Sealed::Zero => Ok(None),
            }
        };
        let entries: Result<Vec<_>> = (0..LEN / ChunkSize::IMAGE.bytes() as u64).map(entry).collect();
        let path = scratch.join("manifest");
        fs::write(&path, Manifest::new(content, entries?)?.encode())?;
        path
    };
    let secret = NodeSecret::new([1; 32]);
    let before = resident()?;
    let began = Instant::now();
    let manifest = Manifest::decode(&fs::read(plain)?)?;
    let opened = millis(began);
    let began = Instant::now();
    let known =
        manifest.chunks().iter().map(|entry| entry.as_ref().map(|entry| (secret.key_of(entry), None)));
    let table = Table::new(manifest.content(), known)?;
    let tabled = millis(began);
    let memory = resident()? - before + in_memory(&table)?;
    Ok(vec![
        Figure::new("chunk_10gib_full_open", "ms", vec![opened]),
        Figure::new("chunk_10gib_full_table", "ms", vec![tabled]),
        Figure::new("chunk_10gib_full_memory", "bytes", vec![memory]),
    ])
}

/// Bytes that a table has of shared memory, which is nobody's unless it is mapped.
fn in_memory(table: &Table) -> Result<f64> {
    Ok((File::from(table.handed()?).metadata()?.blocks() * 512) as f64)
}

/// Bytes of this process in memory.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("read this process's status")?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let kib: u64 = kib.context("this process has no size")?;
    Ok((kib * 1024) as f64)
}
