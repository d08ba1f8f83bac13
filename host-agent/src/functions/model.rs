//! What a function is: the records that the store keeps and that an invocation runs from.
//!
//! Not the wire shape (`api::responses` has that) and not its validation (`api::settings`): a value of these types was
//! checked. Written by `functions`, read by `api` and `invoke`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::runtime_management::RuntimeManagement;
use crate::code::{
    Package, PackageKind,
    image::{Description, RunSettings},
};

/// The version that updates change; all others are numbers and stay as they were published.
pub(crate) const LATEST: &str = "$LATEST";

/// `SnapStart.ApplyOn` of a function whose published versions are resumed from snapshots.
pub(crate) const PUBLISHED_VERSIONS: &str = "PublishedVersions";

/// Beyond AWS: a variable or a tag of this name with the value [`SNAPSHOT_LATEST`] has `$LATEST` resumed, too.
pub(crate) const SNAPSHOT_SETTING: &str = "TINDERBOX_SNAPSTART";

/// See [`SNAPSHOT_SETTING`].
pub(crate) const SNAPSHOT_LATEST: &str = "latest";

/// Which function: the account is the node's, a name is unique in its region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FunctionId {
    /// Region that the creating request was signed for.
    pub(crate) region: String,
    /// Name without account, region or qualifier: `[a-zA-Z0-9-_]{1,64}`.
    pub(crate) name: String,
}

/// Settings and state of `$LATEST` or of a published version. What was published never changes but for [`Self::state`],
/// [`Self::last_update`], [`Self::runtime_management`] and [`Self::revision_id`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionConfig {
    /// Region and name.
    pub(crate) id: FunctionId,
    /// Twelve digits.
    pub(crate) account_id: String,
    /// `$LATEST` or a number.
    pub(crate) version: String,
    /// Identifier of a runtime that the node has an image of (`python3.13`); empty for a container image.
    pub(crate) runtime: String,
    /// `_HANDLER`; empty only for a runtime that needs none, or a container image.
    pub(crate) handler: String,
    /// Role ARN. The node assumes no roles; it is kept because clients read it back.
    pub(crate) role: String,
    /// Free text, at most 256 characters.
    pub(crate) description: String,
    /// 128 to 10,240 MiB.
    pub(crate) memory_mib: u32,
    /// 1 to 900 s.
    pub(crate) timeout_s: u32,
    /// 512 to 10,240 MiB of `/tmp`.
    pub(crate) ephemeral_storage_mib: u32,
    /// The customer's variables, reserved names refused, at most 4 KiB as JSON; `None` when never given.
    pub(crate) environment: Option<BTreeMap<String, String>>,
    /// `PassThrough` or `Active`.
    pub(crate) tracing_mode: String,
    /// Log format, levels and group.
    pub(crate) logging: LoggingConfig,
    /// `SnapStart.ApplyOn`: `None` or `PublishedVersions`; says nothing about `$LATEST`.
    pub(crate) snap_start: String,
    /// ARN of the queue that is given events with which the function has failed.
    #[serde(default)]
    pub(crate) dead_letter: Option<String>,
    /// Tags as given, sorted.
    pub(crate) tags: BTreeMap<String, String>,
    /// The uploaded code.
    pub(crate) code: CodeRef,
    /// The container image that it is, if it is no zip.
    #[serde(default)]
    pub(crate) image: Option<ContainerImage>,
    /// Versions of layers, in the order in which they are merged: as they were when the function was given them.
    #[serde(default)]
    pub(crate) layers: Vec<LayerRef>,
    /// When its runtime may become another version of itself.
    #[serde(default)]
    pub(crate) runtime_management: RuntimeManagement,
    /// Changes with every write of this record but of [`Self::runtime_management`], state transitions included: the client's
    /// precondition.
    pub(crate) revision_id: String,
    /// Changes exactly when a running sandbox no longer is this function: new code, new settings, deleted and made
    /// again. The pool keys sandboxes by it.
    pub(crate) deployment_id: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) last_modified_ms: i64,
    /// Life cycle.
    pub(crate) state: State,
    /// Outcome of the last update; `None` until the function has become active.
    pub(crate) last_update: Option<UpdateStatus>,
    /// Of `$LATEST`: the image that an update has given it, which is not here yet. Until then it is what it was.
    #[serde(default)]
    pub(crate) incoming: Option<Incoming>,
    /// The same in a function and its versions, another after the function was deleted and made again.
    #[serde(default)]
    pub(crate) incarnation: String,
    /// Of `$LATEST`: invocations of the function that may be in flight, and that no others may take; `None`: as many as the
    /// account has left.
    #[serde(default)]
    pub(crate) reserved_concurrency: Option<u32>,
    /// Of `$LATEST`: what becomes of an event that is one in a long chain of events.
    #[serde(default)]
    pub(crate) recursive_loop: RecursiveLoop,
    /// Of `$LATEST`: what was published last.
    #[serde(default)]
    pub(crate) published: Option<Published>,
}

/// Whether a function goes on with events that are each other's cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RecursiveLoop {
    /// It does not: probably nobody meant them to.
    #[default]
    Terminate,
    /// It does: somebody said so.
    Allow,
}

/// The last publication of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Number of the version; the next one is higher, even if this one is deleted.
    pub(crate) version: u64,
    /// [`FunctionConfig::content`] of `$LATEST` then.
    pub(crate) content: String,
}

impl FunctionConfig {
    /// The ARN without a qualifier.
    pub(crate) fn arn(&self) -> String {
        arn(&self.id, &self.account_id)
    }

    /// The ARN with the version.
    pub(crate) fn version_arn(&self) -> String {
        format!("{}:{}", self.arn(), self.version)
    }

    /// What the image of its code is made of.
    pub(crate) fn package(&self) -> Package {
        if self.image.is_some() {
            return Package::container(&self.code.sha256);
        }
        let layers = self.layers.iter().map(|layer| layer.code.sha256.clone());
        Package { kind: PackageKind::Zip, code: self.code.sha256.clone(), layers: layers.collect() }
    }

    /// Digest of everything that a publication copies: equal digests are not published twice.
    pub(crate) fn content(&self) -> String {
        let Self {
            runtime, handler, role, description, memory_mib, timeout_s, ephemeral_storage_mib, ..
        } = self;
        let Self { environment, tracing_mode, logging, snap_start, code, dead_letter, .. } = self;
        let settings = (runtime, handler, role, description, memory_mib, timeout_s, ephemeral_storage_mib);
        // Strings and numbers: nothing in them can fail to be JSON.
        let text = serde_json::to_vec(&(settings, environment, tracing_mode, logging, snap_start, code));
        let mut digest = Sha256::new_with_prefix(text.unwrap_or_default());
        // Digests of records from before there was one stay what they are.
        digest.update(dead_letter.as_deref().unwrap_or_default());
        if !self.layers.is_empty() {
            digest.update(serde_json::to_vec(&self.layers).unwrap_or_default());
        }
        if let Some(ContainerImage { uri, name, instead, .. }) = &self.image {
            // What an image says itself is known by its digest, before it is here.
            digest.update(serde_json::to_vec(&(uri, name, instead)).unwrap_or_default());
        }
        crate::code::hex(&digest.finalize())
    }

    /// Whether it is a container image that this node does not have yet.
    pub(crate) fn awaits_image(&self) -> bool {
        self.image.as_ref().is_some_and(|image| !image.is_known())
    }

    /// What is known of an image by this function, if it is that one.
    pub(crate) fn description_of(&self, digest: &str) -> Option<Description> {
        let image = self.image.as_ref().filter(|image| image.is_known() && self.code.sha256 == digest)?;
        let CodeRef { sha256, size } = self.code.clone();
        Some(Description { digest: sha256, size, unpacked: image.unpacked, run: image.own.clone() })
    }

    /// As it will be when the image that it waits for is here.
    pub(crate) fn updated(&self) -> Self {
        let mut config = self.clone();
        if let Some(Incoming { code, image }) = config.incoming.take() {
            let instead = config.image.take().map(|image| image.instead).unwrap_or_default();
            (config.code, config.image) = (code, Some(ContainerImage { instead, ..image }));
        }
        config
    }

    /// How this version comes to life.
    pub(crate) fn start_kind(&self) -> StartKind {
        if !self.can_be_snapshotted() {
            StartKind::Boot
        } else if self.version != LATEST {
            if self.snap_start == PUBLISHED_VERSIONS { StartKind::Snapshot } else { StartKind::Boot }
        } else if self.wants_latest_snapshotted() {
            StartKind::SnapshotWhenReady
        } else {
            StartKind::Boot
        }
    }

    /// Whether clones of it can be made different: not those of Node.js, whose generators (`Math.random`, `crypto`) nothing
    /// reseeds; nor those of a container image, of which nothing is known. Lambda has no SnapStart for either.
    pub(crate) fn can_be_snapshotted(&self) -> bool {
        !self.runtime.starts_with("nodejs") && self.image.is_none()
    }

    /// Whether any of its versions, or `$LATEST`, is to be resumed.
    pub(crate) fn wants_snapshots(&self) -> bool {
        self.snap_start == PUBLISHED_VERSIONS || self.wants_latest_snapshotted()
    }

    fn wants_latest_snapshotted(&self) -> bool {
        let wants = |value: Option<&String>| value.is_some_and(|value| value == SNAPSHOT_LATEST);
        wants(self.tags.get(SNAPSHOT_SETTING))
            || wants(self.environment.as_ref().and_then(|variables| variables.get(SNAPSHOT_SETTING)))
    }
}

/// How a version comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartKind {
    /// A guest is booted and the function initialised.
    Boot,
    /// Resumed from a snapshot; not active before there is one.
    Snapshot,
    /// Resumed from a snapshot as soon as there is one, booted until then.
    SnapshotWhenReady,
}

/// ARN of a function, without a qualifier.
pub(crate) fn arn(id: &FunctionId, account_id: &str) -> String {
    format!("arn:aws:lambda:{}:{account_id}:function:{}", id.region, id.name)
}

/// Where a function's log lines go and how they look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggingConfig {
    /// `Text` or `JSON`.
    pub(crate) format: String,
    /// `AWS_LAMBDA_LOG_LEVEL`, only with `JSON`.
    pub(crate) application_level: Option<String>,
    /// Level of platform lines, only with `JSON`.
    pub(crate) system_level: Option<String>,
    /// `AWS_LAMBDA_LOG_GROUP_NAME`.
    pub(crate) group: String,
}

/// A container image that is a function's code, and what the function changes of how it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerImage {
    /// `ImageUri` as it was given.
    pub(crate) uri: String,
    /// Its name, without tag or digest.
    pub(crate) name: String,
    /// What the image says itself; nothing before it is here.
    pub(crate) own: RunSettings,
    /// Bytes of its layers unpacked; 0 where an older agent has not kept that.
    #[serde(default)]
    pub(crate) unpacked: u64,
    /// `ImageConfig`: what is said in place of that.
    #[serde(default)]
    pub(crate) instead: Instead,
}

/// What a function says of how its image is run; empty: as the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instead {
    /// `EntryPoint`.
    pub(crate) entry_point: Vec<String>,
    /// `Command`.
    pub(crate) command: Vec<String>,
    /// `WorkingDirectory`.
    pub(crate) working_directory: String,
}

/// An image that a function is to be, and what it is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incoming {
    /// Its digest.
    pub(crate) code: CodeRef,
    /// Its name.
    pub(crate) image: ContainerImage,
}

impl ContainerImage {
    /// Whether the node has had it, and knows how it is run: each image has a folder to run in.
    pub(crate) fn is_known(&self) -> bool {
        !self.own.working_directory.is_empty()
    }

    /// The same image when it is here.
    pub(crate) fn known(&self, description: &Description, instead: Instead) -> Self {
        let Description { unpacked, run, .. } = description.clone();
        Self { own: run, unpacked, instead, ..self.clone() }
    }

    /// Program and arguments.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { own, instead, .. } = self;
        let or = |said: &[String], own: &[String]| if said.is_empty() { own.to_vec() } else { said.to_vec() };
        [or(&instead.entry_point, &own.entry_point), or(&instead.command, &own.command)].concat()
    }

    /// Where it is run.
    pub(crate) fn working_directory(&self) -> &str {
        let said = &self.instead.working_directory;
        if said.is_empty() { &self.own.working_directory } else { said }
    }
}

/// Names the code of a function: the zip as uploaded and the image made from it, both in the code store; or a container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRef {
    /// SHA-256 of the uploaded zip, or of a container image's manifest, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Length of the uploaded zip, or of the image's layers as they were stored, in bytes.
    pub(crate) size: u64,
}

/// Names a version of a layer that a function has. It stays the function's when the version is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRef {
    /// ARN with the version.
    pub(crate) arn: String,
    /// The layer's zip.
    pub(crate) code: CodeRef,
}

/// Life cycle of a function or a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Being created.
    Pending,
    /// Takes invocations.
    Active,
    /// Could not be initialised; takes no invocations.
    Failed(Failure),
}

/// Why a version failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// `StateReasonCode`: one of AWS's words (`FunctionError.RuntimeInitError`).
    pub(crate) code: String,
    /// `StateReason`.
    pub(crate) reason: String,
}

/// A name for a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alias {
    /// `[a-zA-Z0-9-_]{1,128}`, not a number.
    pub(crate) name: String,
    /// The version that it names: `$LATEST` or a number.
    pub(crate) version: String,
    /// Free text, at most 256 characters.
    pub(crate) description: String,
    /// A second version and its share of the invocations, 0.0 to 1.0.
    pub(crate) second: Option<(String, f64)>,
    /// The version that serves for as long as the one that is named does not.
    pub(crate) fallback: Option<String>,
    /// Changes with every write.
    pub(crate) revision_id: String,
    /// The function's.
    pub(crate) incarnation: String,
}

/// Outcome of the last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UpdateStatus {
    /// Being applied; the function before it still serves.
    InProgress,
    /// Applied.
    Successful,
    /// Not applied: the function is what it was before.
    Failed(Failure),
}
