//! Code that lies in a bucket: `S3Bucket` and `S3Key` of a request. A client says a bucket's name; where that leads, the configuration
//! alone says (`[[code.buckets]]`). What is there is somebody else's: it may be longer than it claims, come slowly, or never end, so an
//! object is given out piece by piece, and who reads it counts.
//!
//! Opened before the agent confines itself: nothing reads the files of authorities again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};
use object_store::{GetOptions, ObjectStore as _, path::Path};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blocking;
use crate::{
    config::{BucketPlace, NamedBucket},
    s3::{self, InBucket, S3Error},
};

/// Longest time of one fetch, from the wait for a place to the last byte: who asked waits for it, and AWS's clients do for a minute. Ten
/// megabits a second are enough for the longest zip.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(45);

/// Fetches at a time, and those of them that are from one bucket: each has a zip in memory, and a bucket that hangs does not hold up
/// another.
const MAX_FETCHES: usize = 4;
const MAX_FETCHES_OF_ONE: usize = 2;

/// What is read at once of a file.
const PIECE_LEN: u64 = 256 * 1024;

/// The one version that an object has where nobody keeps versions, as S3 calls it.
const UNVERSIONED: &str = "null";

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    /// Its directory is not there and cannot be made.
    #[error("use the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its service cannot be spoken to.
    #[error("use a bucket of a service")]
    Service(#[from] S3Error),
}

/// Why an object is not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The configuration has no such bucket, or its service has none.
    #[error("there is no such bucket")]
    NoBucket,
    /// It has no such object, or it cannot have one of that key.
    #[error("there is no such object")]
    NoKey,
    /// Nor one of that version.
    #[error("there is no such version")]
    NoVersion,
    /// The node may not read it.
    #[error("the node may not read it")]
    Denied,
    /// The service failed.
    #[error("the bucket's service failed")]
    Service(#[source] object_store::Error),
    /// The directory did.
    #[error("the bucket's directory could not be read")]
    Directory(#[source] io::Error),
}

/// Which object, as a request names it.
#[derive(Clone, Debug)]
pub(crate) struct ObjectName {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) version: Option<String>,
}

/// All buckets that code may come from, by their names.
#[derive(Debug)]
pub(crate) struct CodeBuckets {
    buckets: BTreeMap<String, Bucket>,
    slots: Arc<Semaphore>,
}

#[derive(Debug)]
struct Bucket {
    means: Means,
    slots: Arc<Semaphore>,
}

#[derive(Debug)]
enum Means {
    Directory(PathBuf),
    Service(InBucket),
}

/// An object that comes piece by piece, and has a place among [`MAX_FETCHES`] until it is dropped.
pub(crate) struct Object {
    /// How long it says that it is, which need not be so.
    pub(crate) len: u64,
    pieces: Pieces,
    slot: Slot,
}

enum Pieces {
    File(Arc<File>),
    Stream(BoxStream<'static, Result<Bytes, object_store::Error>>),
}

/// Of the bucket and of all. A file that is being read has it too: nobody can stop that.
type Slot = Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

impl CodeBuckets {
    /// As configured. Nothing is sent yet.
    ///
    /// # Errors
    /// A directory or a setting is of no use.
    pub(crate) fn open(configured: &[NamedBucket]) -> Result<Self, BucketError> {
        let open = |one: &NamedBucket| {
            let means = match &one.place {
                BucketPlace::Directory(path) => {
                    let failed = |source| BucketError::Directory { path: path.clone(), source };
                    fs::create_dir_all(path).map_err(failed)?;
                    Means::Directory(path.clone())
                }
                BucketPlace::Service(settings) => Means::Service(s3::client(settings, FETCH_TIMEOUT)?),
            };
            Ok((one.name.clone(), Bucket { means, slots: Arc::new(Semaphore::new(MAX_FETCHES_OF_ONE)) }))
        };
        let buckets = configured.iter().map(open).collect::<Result<_, BucketError>>()?;
        Ok(Self { buckets, slots: Arc::new(Semaphore::new(MAX_FETCHES)) })
    }

    /// An object, once there is a place for it. Who waits sees to [`FETCH_TIMEOUT`].
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub(crate) async fn object(&self, name: &ObjectName) -> Result<Object, FetchError> {
        let bucket = self.buckets.get(&name.bucket).ok_or(FetchError::NoBucket)?;
        let slot = Arc::new((place_of(&bucket.slots).await?, place_of(&self.slots).await?));
        let (len, pieces) = match &bucket.means {
            Means::Directory(root) => file(root.clone(), name, Arc::clone(&slot)).await?,
            Means::Service(service) => stream(service, name).await?,
        };
        Ok(Object { len, pieces, slot })
    }
}

impl Object {
    /// What comes next of it; `None` at its end.
    ///
    /// # Errors
    /// As [`CodeBuckets::object`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match &mut self.pieces {
            Pieces::File(file) => {
                let (file, slot) = (Arc::clone(file), Arc::clone(&self.slot));
                let read = blocking(move || {
                    let mut piece = Vec::new();
                    let read = (&*file).take(PIECE_LEN).read_to_end(&mut piece);
                    drop(slot);
                    read.map(|_| piece)
                });
                let piece = read.await.map_err(FetchError::Directory)?;
                Ok((!piece.is_empty()).then(|| piece.into()))
            }
            Pieces::Stream(pieces) => pieces.next().await.transpose().map_err(FetchError::Service),
        }
    }
}

async fn place_of(slots: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, FetchError> {
    // The semaphores are never closed.
    Arc::clone(slots).acquire_owned().await.map_err(|error| FetchError::Directory(io::Error::other(error)))
}

async fn stream((store, prefix): &InBucket, name: &ObjectName) -> Result<(u64, Pieces), FetchError> {
    let path = match prefix.as_ref() {
        "" => Path::parse(&name.key),
        prefix => Path::parse(format!("{prefix}/{}", name.key)),
    };
    // A path has no empty segments, dots alone, nor slashes at its ends, and drops the last: another object must not take its place.
    let path = path.ok().filter(|path| path.as_ref().ends_with(&name.key)).ok_or(FetchError::NoKey)?;
    let options = GetOptions { version: name.version.clone(), ..GetOptions::default() };
    let got = store.get_opts(&path, options).await.map_err(|error| refused(error, name))?;
    Ok((got.meta.size, Pieces::Stream(got.into_stream())))
}

fn refused(error: object_store::Error, name: &ObjectName) -> FetchError {
    use object_store::Error;
    match error {
        // A service tells them apart in its words alone.
        Error::NotFound { ref source, .. } if source.to_string().contains("NoSuchBucket") => {
            FetchError::NoBucket
        }
        Error::NotFound { ref source, .. } if source.to_string().contains("NoSuchVersion") => {
            FetchError::NoVersion
        }
        Error::NotFound { .. } => FetchError::NoKey,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FetchError::Denied,
        // What is no version at all is a bad request.
        Error::Generic { ref source, .. }
            if name.version.is_some() && source.to_string().contains("InvalidArgument") =>
        {
            FetchError::NoVersion
        }
        error => FetchError::Service(error),
    }
}

async fn file(root: PathBuf, name: &ObjectName, slot: Slot) -> Result<(u64, Pieces), FetchError> {
    if name.version.as_ref().is_some_and(|version| version != UNVERSIONED) {
        return Err(FetchError::NoVersion);
    }
    let key = name.key.clone();
    let opened = blocking(move || {
        let opened = open_below(&root, &key);
        drop(slot);
        opened
    });
    let (file, len) = opened.await?;
    Ok((len, Pieces::File(Arc::new(file))))
}

/// A regular file below a directory, with its length. No part of its key leads anywhere but down, and none is a link.
fn open_below(root: &FilePath, key: &str) -> Result<(File, u64), FetchError> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY;
    // The operator's own path may have links.
    let mut dir = open(root, folder | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| FetchError::Directory(errno.into()))?;
    let mut parts = key.split('/').peekable();
    while let Some(part) = parts.next() {
        if ["", ".", ".."].contains(&part) {
            return Err(FetchError::NoKey);
        }
        // Not to wait for whoever would write to a pipe.
        let kind = if parts.peek().is_some() { folder } else { OFlag::O_RDONLY | OFlag::O_NONBLOCK };
        dir = openat(&dir, part, flags | kind, Mode::empty()).map_err(absent)?;
    }
    let file = File::from(dir);
    let found = file.metadata().map_err(FetchError::Directory)?;
    if found.is_file() { Ok((file, found.len())) } else { Err(FetchError::NoKey) }
}

fn absent(errno: Errno) -> FetchError {
    match errno {
        // The last two: a pipe's other end is not there, and a NUL is in no name.
        Errno::ENOENT
        | Errno::ENOTDIR
        | Errno::ELOOP
        | Errno::ENAMETOOLONG
        | Errno::ENXIO
        | Errno::EINVAL => FetchError::NoKey,
        errno => match io::Error::from(errno) {
            error if error.kind() == ErrorKind::PermissionDenied => FetchError::Denied,
            error => FetchError::Directory(error),
        },
    }
}
