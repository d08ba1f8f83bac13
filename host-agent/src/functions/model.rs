//! What a function is: the record that the store keeps and that an invocation runs from.
//!
//! Not the wire shape (`api::shapes` has that) and not its validation (`api::validate`): a value of these types was
//! checked. Written by `functions`, read by `api` and `invoke`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The only version of a function so far.
pub(crate) const LATEST: &str = "$LATEST";

/// Which function: the account is the node's, a name is unique in its region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FunctionId {
    /// Region that the creating request was signed for.
    pub(crate) region: String,
    /// Name without account, region or qualifier: `[a-zA-Z0-9-_]{1,64}`.
    pub(crate) name: String,
}

/// A function's settings and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FunctionConfig {
    /// Region and name.
    pub(crate) id: FunctionId,
    /// Twelve digits.
    pub(crate) account_id: String,
    /// `$LATEST` or a number.
    pub(crate) version: String,
    /// Identifier of a runtime that the node has an image of (`python3.13`).
    pub(crate) runtime: String,
    /// `_HANDLER`; empty only for a runtime that needs none.
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
    /// Tags as given, sorted.
    pub(crate) tags: BTreeMap<String, String>,
    /// The uploaded code.
    pub(crate) code: CodeRef,
    /// Changes with every write of this record, state transitions included: the client's precondition.
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
}

impl FunctionConfig {
    /// The ARN without a qualifier.
    pub(crate) fn arn(&self) -> String {
        arn(&self.id, &self.account_id)
    }
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

/// Names the code of a function: the zip as uploaded and the image made from it, both in the code store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRef {
    /// SHA-256 of the uploaded zip, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Length of the uploaded zip in bytes.
    pub(crate) size: u64,
}

/// Life cycle of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Being created.
    Pending,
    /// Takes invocations.
    Active,
}

/// Outcome of the last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UpdateStatus {
    /// Being applied; the function before it still serves.
    InProgress,
    /// Applied.
    Successful,
}
