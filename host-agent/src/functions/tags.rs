//! Tags of a function: kept in the record of `$LATEST`, and no part of what a version is.
//!
//! One of them says how `$LATEST` starts (`model::SNAPSHOT_SETTING`). A change of that is a new deployment, as an update of
//! the configuration is; any other change leaves sandboxes and state as they are.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ChangeError, Functions, MAX_TRIES,
    model::{FunctionConfig, FunctionId},
    new_id,
};
use crate::invoke::Retired;

/// Most tags of a function: AWS's limit.
pub(crate) const MAX_TAGS: usize = 50;

/// Tags by their keys.
pub(crate) type Tags = BTreeMap<String, String>;

/// Why tags were not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TagError {
    /// More than [`MAX_TAGS`].
    #[error("the function would have {0} tags")]
    TooMany(usize),
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Functions {
    /// Gives a function tags, or other values to those that it has.
    pub(crate) async fn tag(self: &Arc<Self>, id: &FunctionId, tags: &Tags) -> Result<(), TagError> {
        self.retag(id, |has| has.extend(tags.clone())).await
    }

    /// Takes tags from a function; one that it does not have is as good as taken.
    pub(crate) async fn untag(self: &Arc<Self>, id: &FunctionId, keys: &[String]) -> Result<(), TagError> {
        self.retag(id, |has| has.retain(|key, _| !keys.contains(key))).await
    }

    /// Applies a change to the tags as they are, again if the function was changed in between.
    async fn retag(
        self: &Arc<Self>,
        id: &FunctionId,
        change: impl Fn(&mut Tags) + Send,
    ) -> Result<(), TagError> {
        for _ in 0..MAX_TRIES {
            let current = self.view.get(id).ok_or(ChangeError::Absent)?;
            let mut config = FunctionConfig::clone(&current.config);
            change(&mut config.tags);
            if config.tags.len() > MAX_TAGS {
                return Err(TagError::TooMany(config.tags.len()));
            }
            if config.tags == current.config.tags {
                return Ok(());
            }
            let starts_otherwise = config.start_kind() != current.config.start_kind();
            if starts_otherwise {
                config.deployment_id = new_id();
            }
            if self.replace(&current, &mut config).await? {
                if starts_otherwise {
                    self.invoker.retire(id, Retired::Deployment(&current.config.deployment_id));
                    self.settle(Arc::new(config));
                }
                return Ok(());
            }
        }
        Err(ChangeError::Busy.into())
    }
}
