//! Connects to the agent over vsock: once after a boot, and once after every resume.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;

use guest_protocol::{CONTROL_PORT, HOST_CID};
use tokio::io::Interest;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::control::{self, Link};
use crate::watch::watched;

/// A connection to the agent.
///
/// # Errors
/// When there is none.
pub async fn dial() -> io::Result<Link> {
    let stream = VsockStream::connect(VsockAddr::new(HOST_CID, CONTROL_PORT)).await?;
    // A transport reset (how a resumed guest learns that it is one) is an error of the socket and nothing else: it makes it
    // neither readable nor closed, so that a read alone would wait for ever.
    let errors = watched(stream.as_fd().try_clone_to_owned()?, Interest::ERROR)?;
    let broken = async move {
        if errors.ready(Interest::ERROR).await.is_err() {
            pending::<()>().await;
        }
    };
    let (from_agent, to_agent) = tokio::io::split(stream);
    Ok(Link { requests: control::spawn_reader(from_agent, broken), outgoing: Box::new(to_agent) })
}
