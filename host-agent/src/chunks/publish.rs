//! Publishing: a content is read, cut, sealed and stored by a few threads, and is there when its root is.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use chunk_store::{
    ChunkSize, Content as Described, Entry, Kind, Label, Manifest, Publish, Salt, Sealed, Source as _,
    Wanted, seal,
};

use super::node::{Chunks, ChunksError, open_pack};

/// Which part of a machine's processors one publication takes: invocations go on meanwhile.
const SHARE: usize = 4;

/// Threads that it may have on machines where that part is less: who publishes is waiting, too.
const FEW_THREADS: usize = 4;

/// Threads that it has at most, whatever the machine.
const MAX_THREADS: usize = 16;

/// How long a salt is used for what is published: what an attack on one salt tells ends there, and so does what is found twice.
const SALT_PERIOD_S: u64 = 28 * 24 * 3600;

/// A content that is to be cut into chunks.
pub(crate) trait Plain: Sync {
    /// Bytes.
    fn len(&self) -> u64;

    /// Fills the buffer with what is at `offset`; whether there is anything but zeros, if that is known without reading.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool>;
}

impl Plain for File {
    fn len(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        self.read_exact_at(buffer, offset).map(|()| true)
    }
}

impl Plain for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..offset + buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(true)
    }
}

impl Chunks {
    /// Publishes a content under `label`, in place of what has it. It is durable when this returns. Blocks.
    pub(crate) fn publish(
        &self,
        label: &Label,
        kind: Kind,
        chunk_size: ChunkSize,
        plain: &dyn Plain,
    ) -> Result<(), ChunksError> {
        let failed = |source| ChunksError::Cut { label: label.to_string(), source };
        let salt = self.salt();
        let content = Described { kind, len: plain.len(), chunk_size, salt: salt.id() };
        let cutting = Cutting { chunks: self, publish: self.store.publish(), salt, content, plain };
        let entries = cutting.run().map_err(failed)?;
        let manifest = Manifest::new(content, entries).map_err(|error| failed(error.into()))?;
        self.commit(cutting.publish, label, &manifest)
    }

    /// Publishes what is in a pack, with the chunks as they are. Blocks.
    pub(crate) fn adopt(&self, label: &Label, path: &Path) -> Result<(), ChunksError> {
        let failed = |source| ChunksError::Cut { label: label.to_string(), source };
        let pack = open_pack(path)?;
        let publish = self.store.publish();
        for entry in pack.manifest().chunks().iter().flatten() {
            let body = pack.fetch(&entry.name, chunk_store::MAX_BODY_LEN, 0);
            let body = body.map_err(|error| failed(error.into()))?;
            if chunk_store::ChunkName::of(&body) != entry.name {
                return Err(failed("a chunk of the pack is damaged".into()));
            }
            publish.add(Sealed::Chunk { entry: entry.clone(), body })?;
        }
        self.commit(publish, label, pack.manifest())
    }

    fn commit(&self, publish: Publish<'_>, label: &Label, manifest: &Manifest) -> Result<(), ChunksError> {
        let sealed = manifest.seal(&self.tenant, label.as_str().as_bytes());
        let sealed = sealed.map_err(|source| ChunksError::Manifest { label: label.to_string(), source })?;
        self.reprieve(label);
        publish.commit(label, manifest, &sealed)?;
        if let Some(tiers) = &self.tiers {
            let names = manifest.names().collect();
            let uploaded = tiers.publish_blocking(label, &names);
            uploaded.map_err(|source| ChunksError::Upload { label: label.to_string(), source })?;
        }
        Ok(())
    }

    fn salt(&self) -> Salt {
        Salt::for_bucket(&self.salts, bucket_now())
    }
}

/// The salts that a node may have used until now, the newest first.
pub(super) fn salts_until_now(master: &[u8; 32]) -> impl Iterator<Item = Salt> {
    (0..=bucket_now()).rev().map(|bucket| Salt::for_bucket(master, bucket))
}

fn bucket_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) / SALT_PERIOD_S
}

/// One publication under way.
struct Cutting<'a> {
    chunks: &'a Chunks,
    publish: Publish<'a>,
    salt: Salt,
    content: Described,
    plain: &'a dyn Plain,
}

type CutError = Box<dyn std::error::Error + Send + Sync>;

impl Cutting<'_> {
    /// The entry of every chunk.
    fn run(&self) -> Result<Vec<Option<Entry>>, CutError> {
        let size = self.content.chunk_size.bytes() as u64;
        let count = u32::try_from(self.content.len.div_ceil(size))?;
        let (next, entries) = (AtomicU32::new(0), Mutex::new(vec![None; count as usize]));
        let work = || -> Result<(), CutError> {
            let mut buffer = vec![0; self.content.chunk_size.bytes()];
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(());
                }
                // Whoever fails has the others end.
                let entry =
                    self.cut(index, &mut buffer).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
                if let Some(slot) = lock(&entries).get_mut(index as usize) {
                    *slot = entry;
                }
            }
        };
        let threads = threads_of(thread::available_parallelism().map_or(1, usize::from));
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        })?;
        Ok(entries.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn cut(&self, index: u32, buffer: &mut [u8]) -> Result<Option<Entry>, CutError> {
        let size = self.content.chunk_size;
        let offset = u64::from(index) << size.log2();
        let len = usize::try_from(self.content.len - offset).unwrap_or(usize::MAX).min(size.bytes());
        let plaintext = buffer.get_mut(..len).unwrap_or_default();
        if !self.plain.read(offset, plaintext)? {
            return Ok(None);
        }
        let entry = self.publish.add(seal(plaintext, &self.salt)?)?;
        if let Some(entry) = &entry {
            self.chunks.cache.keep_known(Wanted { entry, len, size }, plaintext);
        }
        Ok(entry)
    }
}

/// How many threads a publication has on a machine of so many processors.
fn threads_of(processors: usize) -> usize {
    processors.min(FEW_THREADS.max(processors / SHARE)).min(MAX_THREADS)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_leaves_processors_to_invocations() {
        let threads = [1, 2, 4, 8, 16, 20, 32, 64, 256].map(threads_of);
        assert_eq!(threads, [1, 2, 4, 4, 4, 5, 8, 16, 16]);
    }
}
