//! What a function does in a long chain of events: kept in the record of `$LATEST`, and no part of what a version is. `events` asks.

use super::{
    ChangeError, Functions, MAX_TRIES,
    model::{FunctionConfig, FunctionId, RecursiveLoop},
};

impl Functions {
    /// Says what becomes of such events.
    ///
    /// # Errors
    /// The function is not there, or it could not be written.
    pub(crate) async fn set_recursive_loop(
        &self,
        id: &FunctionId,
        wanted: RecursiveLoop,
    ) -> Result<(), ChangeError> {
        for _ in 0..MAX_TRIES {
            let current = self.view.get(id).ok_or(ChangeError::Absent)?;
            if current.config.recursive_loop == wanted {
                return Ok(());
            }
            let mut config = FunctionConfig::clone(&current.config);
            config.recursive_loop = wanted;
            if self.replace(&current, &mut config).await? {
                return Ok(());
            }
        }
        Err(ChangeError::Busy)
    }
}
