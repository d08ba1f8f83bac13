//! The end of a sandbox that is not needed any more: its extensions are told, within a time that the guest has no say in.

use guest_protocol::{ShutdownNeeds, ShutdownReason};
use tokio::time::timeout;

use super::{
    describe,
    life::{GRACE, Sandbox},
};

impl Sandbox {
    /// Whether it has extensions, which may be at work for a while behind each answer.
    pub(crate) fn has_extensions(&self) -> bool {
        self.guest.shutdown_needs() != ShutdownNeeds::None
    }

    /// Lets extensions end first, if there are any, within their time and some grace.
    pub(crate) async fn shut_down(&mut self, reason: ShutdownReason) {
        let needs = self.guest.shutdown_needs();
        if needs == ShutdownNeeds::None {
            return;
        }
        let limit = needs.budget() + GRACE;
        match timeout(limit, self.guest.shut_down(reason, &mut self.logs)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(id = %self.id, error = describe(&error), "no orderly end")
            }
            Err(_) => tracing::info!(id = %self.id, "a guest did not end in its time"),
        }
    }
}
