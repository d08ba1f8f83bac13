//! The end of a guest that has extensions: they are told, and have the time that Lambda gives them.

use guest_protocol::{GuestMessage, HostMessage, ShutdownNeeds, ShutdownReason, encode};
use tokio::io::AsyncWriteExt;

use super::{Guest, GuestError};
use crate::sandbox::logs::Logs;

impl Guest {
    /// What it said that its end needs.
    pub(crate) fn shutdown_needs(&self) -> ShutdownNeeds {
        self.shutdown_needs
    }

    /// Has the function's processes end. The caller bounds how long, and destroys the sandbox whatever comes of it.
    ///
    /// # Errors
    /// [`GuestError`] when the guest does not say that they have.
    pub(crate) async fn shut_down(
        &mut self,
        reason: ShutdownReason,
        logs: &mut Logs,
    ) -> Result<(), GuestError> {
        self.outgoing.write_all(&encode(&HostMessage::Shutdown(reason))?).await?;
        loop {
            match self.incoming.next().await? {
                GuestMessage::Log(chunk) => logs.write(&chunk),
                GuestMessage::ShutDown => return Ok(()),
                // They crossed what was asked. Nothing depends on them any more.
                _ => {}
            }
        }
    }
}
