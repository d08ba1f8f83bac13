//! Captures what a sandbox says about itself outside the protocol: the guest's serial console and the VMM's stderr.
//!
//! Both are for the operator, bounded, and read to their end so that no writer blocks. Function output does not pass
//! here; see `logs`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::JoinHandle,
    time::timeout,
};

use super::{
    SandboxId,
    logs::{Lines, Tail},
};

/// What one stream of one sandbox may put into the node's log: a kernel's panic with its trace fits many times.
const MAX_LOGGED: usize = 64 * 1024;

/// Read size: serial output arrives in small pieces.
const READ_LEN: usize = 4096;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// `ttyS0` of the guest.
    Serial,
    /// Standard error of the `vmm` process.
    VmmStderr,
}

/// How long the end of a stream is waited for once its writer is gone: what it wrote lies in a pipe.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The last bytes of a stream, for the report of a sandbox that failed.
#[derive(Debug)]
pub(crate) struct Captured {
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
}

impl Captured {
    /// Reads `source` to its end in a task of its own.
    pub(crate) fn from(
        source: impl AsyncRead + Send + Unpin + 'static,
        sandbox: SandboxId,
        stream: Stream,
    ) -> Self {
        let tail = Arc::default();
        let reader = tokio::spawn(capture(source, Arc::clone(&tail), sandbox, stream));
        Self { tail, reader }
    }

    /// What was said last by a writer that is gone.
    pub(crate) async fn last_words(self) -> String {
        // A stream that does not end is reported as far as it came.
        drop(timeout(END_TIMEOUT, self.reader).await);
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

async fn capture(
    mut source: impl AsyncRead + Unpin,
    tail: Arc<Mutex<Tail>>,
    sandbox: SandboxId,
    stream: Stream,
) {
    let mut lines = Lines::new(MAX_LOGGED);
    let emit = |line: &str| match stream {
        Stream::Serial => tracing::debug!(target: "console", %sandbox, "{line}"),
        Stream::VmmStderr => tracing::warn!(target: "vmm", %sandbox, "{line}"),
    };
    let mut buffer = [0; READ_LEN];
    // A read error is the end of the stream as far as the operator's log goes.
    while let Ok(len @ 1..) = source.read(&mut buffer).await {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..len]);
        lines.push(&buffer[..len], emit);
    }
    lines.flush(emit);
}
