//! A `vmm` that has not confined itself: asked over its control socket.

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd as _, AsRawFd as _};

use crate::launcher::Sandbox;

/// Said before an attempt is made.
const TRYING: &[u8] = b"trying";

/// Longest outcome, bytes.
const MAX_WORD: usize = 256;

pub(crate) fn attempt(sandbox: &mut Sandbox, name: &str) -> Result<Option<String>> {
    let control = sandbox.client.as_fd().as_raw_fd();
    send(control, format!("try {name}").as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let mut said = [0; MAX_WORD];
    // Nothing that ends it before it tries counts.
    let len = recv(control, &mut said, MsgFlags::empty()).context("hear of its try")?;
    ensure!(&said[..len] == TRYING, "it says {:?}", String::from_utf8_lossy(&said[..len]));
    let len = recv(control, &mut said, MsgFlags::empty()).context("hear of its outcome")?;
    Ok((len > 0).then(|| String::from_utf8_lossy(&said[..len]).into_owned()))
}
