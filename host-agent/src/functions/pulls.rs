//! Images that functions are waiting for, which come from registries: who waits, one pull at a time, and how it ends.
//!
//! ```text
//!  create ──► Pending ───┬─ here ───► Active
//!                        └─ failed ─► Failed          InvalidImage, ImageAccessDenied, ImageDeleted, InternalError
//!  update ──► Active, incoming, InProgress ─┬─ here ───► Active, what was incoming, Successful
//!                                           └─ failed ─► Active as before, update Failed
//! ```
//!
//! What is pulled is an archive in a file without a name, which goes where one that was pushed does. A record says what it waits for, so
//! an agent that starts goes on with it; nothing else is left of a pull that did not end. Whoever waits for an image that is being
//! pulled waits for that pull; when nobody does any more it ends.

use std::{
    collections::HashMap,
    io::{Seek as _, SeekFrom},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::{
    Functions, MAX_TRIES,
    images::{HeldImage, ImageUri, TaggedImage, Which},
    model::{Failure, FunctionConfig, Incoming, State, UpdateStatus},
    new_id, now_ms,
};
use crate::{
    code::{BuildError, CodeError, Package, image::Description, image::ImageRefusal},
    disk::DiskError,
    functions::view::Function,
    invoke::{CodeImage, NODE_FAILED, Retired},
    registry::{Found, Refusal, Registries},
    sandbox::describe,
};

/// Most images that are waited for when another one may be asked for. Those that an agent finds when it starts are not counted.
const MAX_WAITING: usize = 64;

/// How often an image is tried to be had from a registry that does not answer as it should, and how long after each.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// How often who waits looks whether it is still to wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An image that is on the node, where it stays while this lives.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) description: Description,
    image: Arc<CodeImage>,
}

type Pulled = Result<Arc<Here>, Failure>;

/// Pulls that are under way or wait for their turn.
pub(super) struct Pulls {
    registries: Registries,
    /// By digest.
    under_way: Mutex<HashMap<String, watch::Receiver<Option<Pulled>>>>,
    /// One at a time: it may take 10 GiB of the disk several times.
    turn: Semaphore,
    /// Whether the agent ends.
    stopping: watch::Sender<bool>,
}

/// Why an image was not pulled when an operator asked for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// No registry that the node knows.
    #[error("no registry of that name is configured")]
    Unknown,
    /// The tag is somebody's who pushed it.
    #[error("it was pushed by hand")]
    Pushed,
    /// The registry's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// How the pull ended.
    #[error("{}", .0.reason)]
    Failed(Failure),
    /// It cannot be kept.
    #[error(transparent)]
    Image(#[from] super::images::ImageError),
}

impl Pulls {
    /// None yet.
    pub(super) fn new(registries: Registries) -> Self {
        let (under_way, stopping) = Default::default();
        Self { registries, under_way, turn: Semaphore::new(1), stopping }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Pulled>>>> {
        // Nothing under the lock panics.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// Whether images of that name come from a registry.
    pub(crate) fn have_registry(&self, name: &str) -> bool {
        self.pulls.registries.have(name)
    }

    /// Whether so many images are waited for that no other one may be.
    pub(crate) fn waits_for_too_many(&self) -> bool {
        self.pulls.under_way().len() >= MAX_WAITING
    }

    /// Ends all pulls: an agent that starts goes on with them.
    pub(crate) fn stop_pulls(&self) {
        self.pulls.stopping.send_replace(true);
    }

    /// The image that is meant, as its registry has it now.
    ///
    /// # Errors
    /// The registry's answer.
    pub(crate) async fn resolve_image(&self, uri: &ImageUri) -> Result<Found, Refusal> {
        self.pulls.registries.resolve(uri).await
    }

    /// Pulls the image that a tag names in its registry, and has the tag name it here, too, from now on.
    ///
    /// # Errors
    /// The registry's answer, what is wrong with the image, and the node's.
    pub(crate) async fn pull_image(
        self: &Arc<Self>,
        (name, tag): (String, String),
    ) -> Result<Arc<TaggedImage>, PullError> {
        if !self.have_registry(&name) {
            return Err(PullError::Unknown);
        }
        let uri = ImageUri { name, which: Which::Tag(tag.clone()) };
        if self.images().find(&uri).is_some() {
            return Err(PullError::Pushed);
        }
        let found = self.resolve_image(&uri).await?;
        let Some(pulled) = self.obtain(&uri.name, &found, || true).await else {
            return Err(Refusal::Unavailable("the pull was given up".into()).into());
        };
        let here = pulled.map_err(PullError::Failed)?;
        let Description { digest, size, unpacked, run } = here.description.clone();
        let name = uri.name;
        let tagged =
            TaggedImage { name, tag, digest, size, unpacked, run, pushed_ms: now_ms(), pulled: true };
        Ok(self.tag_image(HeldImage::new(tagged, Arc::clone(&here.image))).await?)
    }

    /// Has an image on the node: pulls it, or waits for who does, as long as it is wanted. `None` when it is not any more, or the agent
    /// ends.
    async fn obtain(
        self: &Arc<Self>,
        name: &str,
        image: &Found,
        wanted: impl Fn() -> bool,
    ) -> Option<Pulled> {
        if let Some(here) = self.here(&image.digest).await {
            return Some(Ok(here));
        }
        let (mut pulled, mut stopping) = (self.begin(name, image), self.pulls.stopping.subscribe());
        loop {
            tokio::select! {
                ended = pulled.wait_for(Option::is_some) => return ended.ok()?.clone(),
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !wanted() {
                return None;
            }
        }
    }

    /// The pull of an image, which is begun unless it is under way.
    fn begin(self: &Arc<Self>, name: &str, image: &Found) -> watch::Receiver<Option<Pulled>> {
        let mut under_way = self.pulls.under_way();
        if let Some(pulled) = under_way.get(&image.digest) {
            return pulled.clone();
        }
        let (ends, pulled) = watch::channel(None);
        // The table has one of its own, which is not somebody who waits: see `unwanted`.
        under_way.insert(image.digest.clone(), pulled.clone());
        let (functions, name, image) = (Arc::clone(self), name.to_owned(), image.clone());
        tokio::spawn(async move {
            let mut pull = pin!(functions.pull(&name, &image));
            let mut stopping = functions.pulls.stopping.subscribe();
            let ended = loop {
                tokio::select! {
                    ended = &mut pull => break ended,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                    () = unwanted(&ends) => {}
                }
                let mut under_way = functions.pulls.under_way();
                // Somebody may have come in between; from here on nobody can.
                if ends.receiver_count() <= 1 {
                    under_way.remove(&image.digest);
                    return;
                }
            };
            functions.pulls.under_way().remove(&image.digest);
            ends.send_replace(Some(ended));
        });
        pulled
    }

    async fn pull(&self, name: &str, image: &Found) -> Pulled {
        // The semaphore is never closed.
        let _turn = self.pulls.turn.acquire().await;
        let mut pauses = PAUSES.iter();
        loop {
            match self.try_to_pull(name, image).await {
                Err(TryError::Refused(Refusal::Unavailable(why))) => {
                    tracing::warn!(image = name, "it cannot be pulled: {why}");
                    let Some(pause) = pauses.next() else {
                        return Err(failure(NODE_FAILED, format!("The image could not be pulled: {why}.")));
                    };
                    tokio::time::sleep(*pause).await;
                }
                Err(error) => {
                    tracing::warn!(image = name, "it cannot be pulled: {}", describe(&error));
                    return Err(error.failure());
                }
                Ok(here) => return Ok(Arc::new(here)),
            }
        }
    }

    async fn try_to_pull(&self, name: &str, image: &Found) -> Result<Here, TryError> {
        let (mut file, room) = self.code.archive(crate::registry::archive_len(image.size))?;
        let ours = file.try_clone().map_err(DiskError::Io).map_err(CodeError::Disk)?;
        self.pulls.registries.fetch(name, image, ours).await?;
        // Where the helper has left it, as they share it.
        file.seek(SeekFrom::Start(0)).map_err(DiskError::Io).map_err(CodeError::Disk)?;
        let (description, held) = self.code.ingest_image(file).await?;
        drop(room);
        if description.digest == image.digest {
            Ok(Here { description, image: held })
        } else {
            Err(Refusal::Unsuitable(format!("the archive holds sha256:{}", description.digest)).into())
        }
    }

    /// The image of a digest, if it is on the node and known.
    async fn here(&self, digest: &str) -> Option<Arc<Here>> {
        let image = self.code.image(&Package::container(digest)).await;
        self.code.restore(&Package::container(digest)).await.ok()?;
        let tagged = self.images.list().into_iter().find(|tagged| tagged.digest == *digest);
        let described = tagged.map(|tagged| tagged.description()).or_else(|| {
            let known = |function: &Function| function.config.description_of(digest);
            self.view.collect(known).into_iter().next()
        });
        described.map(|description| Arc::new(Here { description, image }))
    }

    /// Has the image of a function that is being created, and says what becomes of it then; `None` if that is nobody's any more.
    pub(super) async fn await_image(self: &Arc<Self>, config: &FunctionConfig) -> Option<Pulled> {
        let name = config.image.as_ref().map(|image| image.name.clone())?;
        let image = Found { digest: config.code.sha256.clone(), size: config.code.size };
        let wanted = || {
            let now = self.view.named(&config.id, &config.version);
            now.is_some_and(|now| now.config.deployment_id == config.deployment_id)
        };
        self.obtain(&name, &image, wanted).await
    }

    /// Has the image of a function again that this node has lost, if it came from a registry.
    pub(super) fn pull_again(self: &Arc<Self>, config: &Arc<FunctionConfig>) {
        if config.image.as_ref().is_some_and(|image| self.have_registry(&image.name)) {
            let (functions, config) = (Arc::clone(self), Arc::clone(config));
            // That it fails is in the log; the next start tries again.
            tokio::spawn(async move { functions.await_image(&config).await.map(drop) });
        }
    }

    /// Has the image that a function is to have instead of its own, and gives it that.
    pub(super) async fn await_incoming(self: &Arc<Self>, config: &FunctionConfig, incoming: &Incoming) {
        let same = |now: &Function| now.config.incoming.as_ref() == Some(incoming);
        let wanted = || self.view.named(&config.id, &config.version).as_ref().is_some_and(same);
        let image = Found { digest: incoming.code.sha256.clone(), size: incoming.code.size };
        let Some(pulled) = self.obtain(&incoming.image.name, &image, wanted).await else { return };
        for _ in 0..MAX_TRIES {
            let Some(current) = self.view.named(&config.id, &config.version).filter(|now| same(now)) else {
                return;
            };
            let mut settled = FunctionConfig::clone(&current.config);
            settled.incoming = None;
            match &pulled {
                Ok(here) => {
                    settled.code = incoming.code.clone();
                    let instead = settled.image.take().map(|image| image.instead).unwrap_or_default();
                    settled.image = Some(incoming.image.known(&here.description, instead));
                    (settled.state, settled.last_update) = (State::Active, Some(UpdateStatus::Successful));
                    settled.deployment_id = new_id();
                }
                Err(failure) => settled.last_update = Some(UpdateStatus::Failed(failure.clone())),
            }
            match self.replace(&current, &mut settled).await {
                Ok(true) => {
                    if pulled.is_ok() {
                        let replaced = Retired::Deployment(&current.config.deployment_id);
                        self.invoker.retire(&config.id, replaced);
                        self.sweep_later();
                    }
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(function = config.version_arn(), "its image cannot be changed: {error}");
                    return;
                }
            }
        }
    }
}

/// Returns when nobody waits any more: the table has the last receiver.
async fn unwanted(ends: &watch::Sender<Option<Pulled>>) {
    while ends.receiver_count() > 1 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why one try gave no image.
#[derive(Debug, thiserror::Error)]
enum TryError {
    /// The registry's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The archive, or the disk.
    #[error(transparent)]
    Code(#[from] CodeError),
}

impl TryError {
    fn failure(&self) -> Failure {
        match self {
            Self::Refused(Refusal::Absent) => {
                failure("ImageDeleted", "The image was deleted from its registry.".into())
            }
            Self::Refused(Refusal::Denied(_)) => {
                let reason = "The registry does not let this Tinderbox node have the image.";
                failure("ImageAccessDenied", reason.into())
            }
            Self::Refused(Refusal::Unsuitable(why)) => invalid(why),
            Self::Code(
                CodeError::Build(BuildError::Image(ImageRefusal::NoRoom { .. })) | CodeError::Disk(_),
            ) => failure(NODE_FAILED, "This Tinderbox node's disk has no room for the image.".into()),
            Self::Code(CodeError::Build(BuildError::Image(refusal))) => invalid(refusal),
            Self::Refused(Refusal::Unavailable(_)) | Self::Code(_) => {
                failure(NODE_FAILED, "An internal error occurred. The node's log has the details.".into())
            }
        }
    }
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    failure("InvalidImage", format!("The image is refused: {why}."))
}

fn failure(code: &str, reason: String) -> Failure {
    Failure { code: code.into(), reason }
}
