//! What is not on this node and is told of events' ends: buckets and webhooks, as the configuration names them. A client says an ARN,
//! and never an address.
//!
//! Opened before the agent confines itself: nothing reads the files of keys and authorities again.

mod webhook;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::DateTime;
use object_store::{ObjectStoreExt as _, PutPayload, local::LocalFileSystem, path::Path as Key};
use tokio::time::timeout;

use self::webhook::{Webhook, WebhookError};
use super::record::Parcel;
use crate::{
    config::{self, DestinationPlace},
    disk::{Disk, DiskError},
    s3::{self, InBucket, S3Error},
    sandbox::describe,
};

/// Longest time in which a destination takes a record of 2 MiB: half a megabit a second does.
const GIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What is kept of why a record was not taken: a service's own words may be in it.
const MAX_PROBLEM_LEN: usize = 1024;

/// Why a destination cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    /// Its directory cannot be made or read.
    #[error("use the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nor can it be written to.
    #[error("use a directory as a bucket")]
    Local(#[from] object_store::Error),
    /// Its service cannot be spoken to.
    #[error("use a bucket")]
    Bucket(#[from] S3Error),
    /// Nor can its server.
    #[error("use a webhook")]
    Webhook(#[from] WebhookError),
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum GiveError {
    /// The configuration has another one now.
    #[error("the node's configuration does not name it")]
    Unknown,
    /// It did not answer.
    #[error("it did not take a record within {} s", GIVE_TIMEOUT.as_secs())]
    Late,
    /// Its directory's disk is full.
    #[error("its disk has no room")]
    Full(#[from] DiskError),
    /// Its bucket did not take it.
    #[error("the bucket did not take a record")]
    Bucket(#[from] object_store::Error),
    /// Its server did not take it.
    #[error("the webhook did not take a record")]
    Webhook(#[from] WebhookError),
}

impl GiveError {
    /// Whether there is no use in trying again.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Webhook(error) if error.is_final())
    }
}

/// How deliveries to a destination went since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Records that it took.
    pub(crate) delivered: u64,
    /// Attempts at which it did not.
    pub(crate) failed: u64,
    /// Records that it will not have.
    pub(crate) lost: u64,
    /// Why it did not, if it did not at the last attempt.
    pub(crate) problem: Option<String>,
}

/// All of them, by their ARNs.
#[derive(Debug, Default)]
pub(crate) struct Destinations(BTreeMap<String, Destination>);

#[derive(Debug)]
struct Destination {
    means: Means,
    past: Mutex<Past>,
}

#[derive(Debug)]
enum Means {
    Directory {
        store: LocalFileSystem,
        /// None: that of the node's state.
        disk: Option<Arc<Disk>>,
    },
    Bucket(InBucket),
    Webhook(Box<Webhook>),
}

impl Destinations {
    /// As configured. Nothing is sent yet.
    ///
    /// # Errors
    /// A directory, a file or a setting is of no use.
    pub(crate) fn open(config: &config::Events, state_dir: &Path) -> Result<Arc<Self>, DestinationError> {
        let open = |one: &config::Destination| {
            let means = match &one.place {
                DestinationPlace::Directory(path) => directory(path, state_dir)?,
                DestinationPlace::Bucket(settings) => Means::Bucket(s3::client(settings, GIVE_TIMEOUT)?),
                DestinationPlace::Webhook(settings) => {
                    Means::Webhook(Box::new(Webhook::open(&one.arn, settings)?))
                }
            };
            Ok((one.arn.clone(), Destination { means, past: Mutex::default() }))
        };
        Ok(Arc::new(Self(config.destinations.iter().map(open).collect::<Result<_, DestinationError>>()?)))
    }

    /// Whether an ARN stands for one.
    pub(crate) fn has(&self, arn: &str) -> bool {
        self.0.contains_key(arn)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How each is.
    pub(crate) fn past(&self) -> impl Iterator<Item = (&str, Past)> {
        self.0.iter().map(|(arn, one)| (arn.as_str(), one.past().clone()))
    }

    /// Gives a record to its destination. `disk`: of the node's state.
    pub(super) async fn give(&self, parcel: &Parcel, disk: &Disk) -> Result<(), GiveError> {
        let Some(one) = self.0.get(&parcel.destination) else { return Err(GiveError::Unknown) };
        let given = timeout(GIVE_TIMEOUT, one.means.give(parcel, disk)).await;
        let given = given.unwrap_or(Err(GiveError::Late));
        let mut past = one.past();
        match &given {
            Ok(()) => (past.delivered, past.problem) = (past.delivered + 1, None),
            Err(error) => {
                let problem = describe(error).chars().take(MAX_PROBLEM_LEN).collect();
                (past.failed, past.problem) = (past.failed + 1, Some(problem));
            }
        }
        drop(past);
        given
    }

    /// A record that one will not have.
    pub(super) fn lost(&self, arn: &str) {
        self.0.get(arn).into_iter().for_each(|one| one.past().lost += 1);
    }
}

impl Destination {
    fn past(&self) -> MutexGuard<'_, Past> {
        // Numbers and a text: they are good whoever panicked.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Means {
    async fn give(&self, parcel: &Parcel, node: &Disk) -> Result<(), GiveError> {
        let content = || PutPayload::from_bytes(parcel.record.clone());
        match self {
            Self::Directory { store, disk } => {
                disk.as_deref().unwrap_or(node).check(parcel.record.len() as u64)?;
                store.put(&key(Key::default(), parcel), content()).await?;
            }
            Self::Bucket((store, prefix)) => drop(store.put(&key(prefix.clone(), parcel), content()).await?),
            Self::Webhook(webhook) => webhook.post(parcel).await?,
        }
        Ok(())
    }
}

fn directory(path: &Path, state_dir: &Path) -> Result<Means, DestinationError> {
    let failed = |source| DestinationError::Directory { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(failed);
    let disk = if device(path)? == device(state_dir)? { None } else { Some(Disk::of(path)) };
    // A record's event is gone when it is said to be kept.
    let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
    Ok(Means::Directory { store, disk })
}

/// Where AWS puts a record: by function and by when its event ended, and the same at each attempt.
fn key(prefix: Key, parcel: &Parcel) -> Key {
    let ms = i64::try_from(parcel.since_ms).unwrap_or(0);
    let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    let name = format!("{}-{}", time.format("%Y-%m-%dT%H.%M.%S"), parcel.id);
    let day = time.format("%Y/%m/%d").to_string();
    let folders = ["aws", "lambda", "async", &parcel.function.name].into_iter().chain(day.split('/'));
    folders.chain([name.as_str()]).fold(prefix, |key, part| key.join(part))
}

#[cfg(test)]
pub(crate) mod tests;
