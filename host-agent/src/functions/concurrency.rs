//! Reserved concurrency: kept in the record of `$LATEST`, and no part of what a version is. `invoke::concurrency` holds
//! invocations to it.

use super::{
    ChangeError, Functions, MAX_TRIES,
    model::{FunctionConfig, FunctionId, LATEST},
};

/// What of the account's concurrency no function may have as its own: Lambda's.
pub(crate) const MIN_UNRESERVED: u32 = 100;

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReserveError {
    /// Less than [`MIN_UNRESERVED`] would be left.
    #[error("less than {MIN_UNRESERVED} would be left")]
    TooMany,
    /// So much is less than so much, which was provisioned for its versions.
    #[error("{0} are less than the {1} that were provisioned")]
    LessThanProvisioned(u32, u32),
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Functions {
    /// Reserves some of the `account`'s concurrency for a function, or gives back what it has reserved.
    pub(crate) async fn reserve(
        &self,
        id: &FunctionId,
        reserved: Option<u32>,
        account: u32,
    ) -> Result<(), ReserveError> {
        // What two functions reserve at a time is summed up one after the other.
        let _one = self.reserving.lock().await;
        for _ in 0..MAX_TRIES {
            let current = self.view.get(id).ok_or(ChangeError::Absent)?;
            let own = current.config.reserved_concurrency;
            if own == reserved {
                return Ok(());
            }
            let claim = self.view.claim(id, LATEST);
            let others = self.view.claimed().saturating_sub(claim.total());
            match reserved {
                Some(reserved) if reserved < claim.provisioned => {
                    return Err(ReserveError::LessThanProvisioned(reserved, claim.provisioned));
                }
                Some(reserved)
                    if others.saturating_add(reserved) > account.saturating_sub(MIN_UNRESERVED) =>
                {
                    return Err(ReserveError::TooMany);
                }
                _ => {}
            }
            let mut config = FunctionConfig::clone(&current.config);
            config.reserved_concurrency = reserved;
            if self.replace(&current, &mut config).await? {
                return Ok(());
            }
        }
        Err(ChangeError::Busy.into())
    }
}
