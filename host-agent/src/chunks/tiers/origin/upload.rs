//! What was published on this node goes to the origin of all of them: a root after everything that it needs.
//!
//! Objects are overwritten, not created only where there is none: a chunk's name says what is in it, so that two nodes may put it
//! at the same time, and not every S3-compatible service knows conditions. A chunk that is there at its full length is not
//! sent again.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use chunk_store::{ChunkName, Label, MAX_BODY_LEN};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::time::{sleep, timeout};

use super::super::directory::Directory;
use super::{ATTEMPTS, Origin, OriginError, PUT_TIMEOUT, pause};

/// Chunks on their way at a time: a service answers each after tens of milliseconds, and has other clients.
const AT_A_TIME: usize = 8;

/// Why something that was published is not in the origin. What was put so far stays there.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The node's own directory does not have it.
    #[error("the directory does not give {what}")]
    Read {
        /// A chunk's name, or a root's label.
        what: String,
        /// Why.
        source: OriginError,
    },
    /// The origin does not take it.
    #[error("the origin does not take {what}")]
    Put {
        /// A chunk's name, or a root's label.
        what: String,
        /// Why.
        source: OriginError,
    },
}

impl Origin {
    /// Puts a root of `directory`, and before it the chunks that it needs. The root stays in the directory meanwhile, and with it
    /// the chunks.
    ///
    /// # Errors
    /// Something is not in the directory, or the origin does not take it in any of its attempts. The root is not there then, or it
    /// is an older one, as before.
    pub(crate) async fn publish(
        &self,
        directory: &Directory,
        label: &Label,
        names: &BTreeSet<ChunkName>,
    ) -> Result<(), UploadError> {
        stream::iter(names)
            .map(|name| self.upload_chunk(directory, name))
            .buffer_unordered(AT_A_TIME)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        let what = || format!("root {label}");
        let root =
            directory.root(label).await.map_err(|source| UploadError::Read { what: what(), source })?;
        self.put(&self.root_path(label), root)
            .await
            .map_err(|source| UploadError::Put { what: what(), source })
    }

    /// Deletes a root; one that is not there is no error. The chunks stay.
    ///
    /// # Errors
    /// The origin does not do it.
    pub(crate) async fn retract(&self, label: &Label) -> Result<(), UploadError> {
        let path = self.root_path(label);
        let deleted = persist(async || match self.store.delete(&path).await {
            Err(error) if !matches!(error, object_store::Error::NotFound { .. }) => Err(error),
            _ => Ok(()),
        });
        deleted.await.map_err(|source| UploadError::Put { what: format!("that root {label} goes"), source })
    }

    async fn upload_chunk(&self, directory: &Directory, name: &ChunkName) -> Result<(), UploadError> {
        let what = || format!("chunk {name}");
        let body = directory.fetch(name, MAX_BODY_LEN).await;
        let body = body.map_err(|source| UploadError::Read { what: what(), source })?;
        let path = self.chunk(name);
        // Whatever the question comes to: the chunk is sent, unless it is surely there.
        let there = timeout(PUT_TIMEOUT, self.store.head(&path)).await;
        if there.is_ok_and(|found| found.is_ok_and(|meta| meta.size == body.len() as u64)) {
            return Ok(());
        }
        self.put(&path, body).await.map_err(|source| UploadError::Put { what: what(), source })
    }

    async fn put(&self, path: &Path, content: Bytes) -> Result<(), OriginError> {
        persist(async || self.store.put(path, content.clone().into()).await.map(drop)).await
    }

    fn root_path(&self, label: &Label) -> Path {
        self.prefix.clone().join("roots").join(label.as_str())
    }
}

/// Does it again, after a pause, until it has been tried often enough.
async fn persist<F>(attempt: impl Fn() -> F) -> Result<(), OriginError>
where
    F: Future<Output = object_store::Result<()>>,
{
    let mut attempts = 0;
    loop {
        let error = match timeout(PUT_TIMEOUT, attempt()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => OriginError::Failed(Arc::new(error)),
            Err(_) => OriginError::Late(PUT_TIMEOUT),
        };
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(error);
        }
        sleep(pause(attempts)).await;
    }
}
