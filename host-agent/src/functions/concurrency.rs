//! Reserved concurrency: kept in the record of `$LATEST`, and no part of what a version is. `invoke::concurrency` holds
//! invocations to it.

use super::{
    ChangeError, Functions, MAX_TRIES,
    model::{FunctionConfig, FunctionId},
};

/// Invocations that may be in flight on the node: Lambda's default for an account.
pub(crate) const ACCOUNT_CONCURRENCY: u32 = 1000;

/// What of that no function may reserve: Lambda's.
pub(crate) const MIN_UNRESERVED: u32 = 100;

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReserveError {
    /// Less than [`MIN_UNRESERVED`] would be left.
    #[error("less than {MIN_UNRESERVED} would be left")]
    TooMany,
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Functions {
    /// Reserves concurrency for a function, or gives back what it has reserved.
    pub(crate) async fn reserve(&self, id: &FunctionId, reserved: Option<u32>) -> Result<(), ReserveError> {
        // What two functions reserve at a time is summed up one after the other.
        let _one = self.reserving.lock().await;
        for _ in 0..MAX_TRIES {
            let current = self.view.get(id).ok_or(ChangeError::Absent)?;
            let own = current.config.reserved_concurrency;
            if own == reserved {
                return Ok(());
            }
            let others = self.view.reserved().saturating_sub(own.unwrap_or(0));
            let sum = others.saturating_add(reserved.unwrap_or(0));
            if reserved.is_some() && sum > ACCOUNT_CONCURRENCY - MIN_UNRESERVED {
                return Err(ReserveError::TooMany);
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
