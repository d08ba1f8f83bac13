//! When the runtime of `$LATEST` or of a version may become another one: always (`Auto`), when the function is updated, or never.
//!
//! A node has one version of each runtime, that of its own image. What is pinned to it runs; when the node's image brings another
//! one, what is pinned is refused until somebody says otherwise, and never run on that.
//!
//! ```text
//!  Auto ◄──put──► FunctionUpdate { version } ◄──put──► Manual { version }
//!                   │  ▲ an update: the node's version then
//!                   └──┘
//! ```

use std::sync::Arc;

use cluster_store::{Compare, Op, Txn};
use serde::{Deserialize, Serialize};

use super::{
    ChangeError, Functions, MAX_TRIES,
    model::{FunctionConfig, FunctionId},
    view::key_of,
};
use crate::invoke::Retired;

/// When a runtime becomes another version. A version is the SHA-256 of what the runtime's image is, in lower-case hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RuntimeManagement {
    /// When the node's does.
    #[default]
    Auto,
    /// With the next update of the function; until then it is this one.
    FunctionUpdate {
        /// The node's when the function was last updated, or given this mode since.
        version: String,
    },
    /// Never.
    Manual {
        /// The one that was named.
        version: String,
    },
}

impl RuntimeManagement {
    /// The version that the runtime has to be.
    pub(crate) fn pinned(&self) -> Option<&str> {
        match self {
            Self::Auto => None,
            Self::FunctionUpdate { version } | Self::Manual { version } => Some(version),
        }
    }

    /// Whether a node with that version may run the function.
    pub(crate) fn allows(&self, version: &str) -> bool {
        self.pinned().is_none_or(|pinned| pinned == version)
    }
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// See [`RuntimeManagement::Auto`].
    Auto,
    /// See [`RuntimeManagement::FunctionUpdate`].
    FunctionUpdate,
    /// See [`RuntimeManagement::Manual`].
    Manual,
}

/// The ARN of a version of a runtime.
pub(crate) fn version_arn(region: &str, version: &str) -> String {
    format!("arn:aws:lambda:{region}::runtime:{version}")
}

impl Functions {
    /// Says when the runtime of `$LATEST` or of a version becomes another one; `version` is what the node has of `runtime`, which the
    /// function must still be of. What it has of sandboxes may be of a snapshot of another time: they are let go of when it is pinned.
    ///
    /// # Errors
    /// As for other changes.
    pub(crate) async fn manage_runtime(
        &self,
        id: &FunctionId,
        qualifier: &str,
        wanted: Wanted,
        (runtime, version): (&str, &str),
    ) -> Result<Arc<FunctionConfig>, ChangeError> {
        for _ in 0..MAX_TRIES {
            let current = self.view.named(id, qualifier).ok_or(ChangeError::Absent)?;
            if current.config.runtime != runtime {
                return Err(ChangeError::Busy);
            }
            let version = version.to_owned();
            let managed = match (wanted, &current.config.runtime_management) {
                // It is that already, since an update maybe long ago.
                (Wanted::FunctionUpdate, RuntimeManagement::FunctionUpdate { .. }) => {
                    return Ok(current.config);
                }
                (Wanted::Auto, _) => RuntimeManagement::Auto,
                (Wanted::FunctionUpdate, _) => RuntimeManagement::FunctionUpdate { version },
                (Wanted::Manual, _) => RuntimeManagement::Manual { version },
            };
            if managed == current.config.runtime_management {
                return Ok(current.config);
            }
            let mut config = FunctionConfig::clone(&current.config);
            config.runtime_management = managed;
            let key = key_of(&config).ok_or(ChangeError::Absent)?.bytes();
            let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
            let compares = vec![Compare::Modified(key, current.revision)];
            if self.commit(Txn { compares, ops: vec![put] }).await? {
                // What is kept ready is made from the record as it is now.
                self.provide(id);
                if config.runtime_management != RuntimeManagement::Auto {
                    self.invoker.retire(id, Retired::Sandboxes);
                }
                return Ok(Arc::new(config));
            }
        }
        Err(ChangeError::Busy)
    }

    /// After an update, a function whose runtime is updated with it has the node's version.
    pub(super) async fn update_runtime(&self, config: &mut FunctionConfig) {
        if matches!(config.runtime_management, RuntimeManagement::FunctionUpdate { .. })
            && let Some(version) = self.invoker.runtime_version(&config.runtime).await
        {
            config.runtime_management = RuntimeManagement::FunctionUpdate { version };
        }
    }
}
