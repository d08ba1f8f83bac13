//! What this node has published itself, and the origin of a node without a bucket: the store of its own, which nobody else reads.

use std::sync::Arc;

use bytes::Bytes;
use chunk_store::{ChunkName, Label, Source as _, SourceError, Store};

use super::counters::OriginCounters;
use super::origin::OriginError;

/// A store, as the tiers ask it.
#[derive(Debug)]
pub(super) struct Directory {
    store: Arc<Store>,
    pub(super) counters: OriginCounters,
}

impl Directory {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, counters: OriginCounters::default() }
    }

    /// A chunk's body by the caller's own thread, which may block: one that hands the work to another waits ten times as long. None
    /// if it is not right there, for whatever reason: [`Self::fetch`] finds out.
    pub(super) fn read_here(&self, name: &ChunkName, max_len: usize) -> Option<Vec<u8>> {
        let body = read(&self.store, name, max_len).ok()?;
        self.counters.hits.count();
        Some(body)
    }

    /// The body of a chunk, which has at most `max_len` bytes. A disk that fails is not asked again: it has tried more than once.
    ///
    /// # Errors
    /// It is not there, not right, or the disk does not give it.
    pub(super) async fn fetch(&self, name: &ChunkName, max_len: usize) -> Result<Bytes, OriginError> {
        let name = *name;
        let body = self.beside(move |store| read(store, &name, max_len)).await;
        match &body {
            Ok(_) => self.counters.hits.count(),
            Err(error) => self.counters.count(error),
        }
        body.map(Bytes::from)
    }

    /// A root, as it is kept.
    ///
    /// # Errors
    /// It is not there, or the disk does not give it.
    pub(super) async fn root(&self, label: &Label) -> Result<Bytes, OriginError> {
        let label = label.clone();
        let root = self.beside(move |store| match store.root(&label) {
            Ok(root) => root.ok_or(OriginError::Absent),
            Err(error) => Err(OriginError::Directory(error.to_string())),
        });
        root.await.map(Bytes::from)
    }

    /// By a thread that may block.
    async fn beside<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, OriginError> + Send + 'static,
    ) -> Result<T, OriginError> {
        let store = Arc::clone(&self.store);
        let answer = tokio::task::spawn_blocking(move || ask(&store)).await;
        answer.unwrap_or_else(|error| Err(OriginError::Directory(error.to_string())))
    }
}

fn read(store: &Store, name: &ChunkName, max_len: usize) -> Result<Vec<u8>, OriginError> {
    let body = store.fetch(name, max_len, 0).map_err(|error| match error {
        SourceError::Absent => OriginError::Absent,
        SourceError::Failed(error) => OriginError::Directory(error),
    })?;
    match body.len() {
        len if len > max_len => Err(OriginError::TooLong(max_len)),
        len if ChunkName::of(&body) != *name => Err(OriginError::Wrong(len)),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Published;
    use super::*;

    const BODY: &[u8] = b"the body of a chunk";
    const MAX_LEN: usize = 100;

    #[tokio::test]
    async fn what_is_not_the_chunk_is_not_given() {
        let published = Published::new(&[BODY]);
        let directory = Directory::new(Arc::clone(&published.store));
        let name = ChunkName::of(BODY);
        assert_eq!(directory.fetch(&name, MAX_LEN).await.unwrap(), BODY);
        assert!(matches!(directory.fetch(&name, 5).await, Err(OriginError::TooLong(5))));
        assert!(directory.read_here(&name, 5).is_none());
        let absent = directory.fetch(&ChunkName::of(b"none"), MAX_LEN).await;
        assert!(matches!(absent, Err(OriginError::Absent)), "{absent:?}");
        published.damage();
        assert!(matches!(directory.fetch(&name, MAX_LEN).await, Err(OriginError::Wrong(19))));
        assert!(directory.read_here(&name, MAX_LEN).is_none());
        published.cut();
        let cut = directory.fetch(&name, MAX_LEN).await;
        assert!(matches!(cut, Err(OriginError::Directory(_))), "{cut:?}");
        let stats = directory.counters.stats();
        assert_eq!((stats.hits, stats.absent, stats.wrong, stats.failed), (1, 1, 2, 1));
    }
}
