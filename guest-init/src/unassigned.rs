//! A guest that is snapshotted before it is a function's (a *runtime snapshot*): kernel, guest-init and, where the image
//! brings one, a runtime that waits with everything imported. After the resume it passes the same gate as every clone;
//! only then is it told which function it is, and only then are that function's drives looked at.

use guest_protocol::GuestMessage;

use crate::boot::drives::Detached;
use crate::control::{ControlError, Request};
use crate::gate;
use crate::process::GuestLauncher;
use crate::sandbox::{Connections, SandboxError, is_broken};

/// Drives that belong to the function: whatever stands in for them when the snapshot is taken is never read.
const FUNCTION_DRIVES: &[&str] = &["code", "scratch"];

/// Lets the guest be snapshotted, and returns when it has been resumed and is unique.
///
/// # Errors
/// [`SandboxError`]; the guest is of no use then.
pub async fn snapshotted(
    launcher: &mut GuestLauncher,
    connections: &mut Connections,
) -> Result<(), SandboxError> {
    launcher.preload(&connections.runtime_api).await?;
    let drives = Detached::detach(FUNCTION_DRIVES).map_err(SandboxError::Drives)?;
    let report = gate::freeze(launcher).await.map_err(SandboxError::NotFrozen)?;
    connections.agent.send(GuestMessage::Frozen(report)).await?;
    let mut request = connections.requests.recv().await;
    let mut resumed = tokio::time::Instant::now();
    if is_broken(request.as_ref()) {
        resumed = connections.reconnect(launcher).await?;
        request = connections.requests.recv().await;
    }
    let unique = match request {
        Some(Ok(Request::MakeUnique(unique))) => unique,
        Some(Ok(_)) => return Err(ControlError::OutOfTurn("something else to a frozen guest").into()),
        Some(Err(error)) => return Err(error.into()),
        None => return Err(SandboxError::AgentGone),
    };
    let Connections { agent, credentials, .. } = connections;
    match gate::pass(launcher, &unique, credentials, agent, resumed).await {
        Ok(report) => agent.send(GuestMessage::Unique(report)).await?,
        Err(report) => {
            agent.send(GuestMessage::GateFailed(report)).await?;
            // The agent destroys this guest; until then nothing happens in it.
            return std::future::pending().await;
        }
    }
    drives.attach().map_err(SandboxError::Drives)
}
