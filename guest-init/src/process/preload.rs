//! A runtime that is started before any function is known, imports what every function of its language needs, and waits
//! for its orders: so that a runtime snapshot holds more than an idle kernel.
//!
//! An image that can do so brings [`PROGRAM`]. It gets a socket as descriptor 3, writes one byte when it is ready, reads one
//! JSON object of environment variables up to the end, and is an ordinary runtime from there on. The function's code is
//! mounted between the two.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::GuestLauncher;
use super::program::{Program, TASK_ROOT_PATH};
use crate::boot::console;
use crate::environment::Environment;
use crate::sandbox::{Launched, SandboxError};

/// In the function's view.
const PROGRAM: &str = "/var/runtime/preload";

/// How long it may take to be ready: a cold Python on an emulated machine with margin. Only makers of runtime snapshots
/// wait for it.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A runtime that waits.
#[derive(Debug)]
pub(super) struct Preloaded {
    orders: StdStream,
    environment: Environment,
    launched: Launched,
}

impl GuestLauncher {
    /// Starts the image's waiting runtime, when it has one, and returns when it is ready. One that fails is ended: functions
    /// are then started as usual.
    ///
    /// # Errors
    /// Never for the runtime's sake.
    pub async fn preload(&mut self, runtime_api: &str) -> Result<(), SandboxError> {
        let program = self.root.join(PROGRAM.trim_start_matches('/'));
        if !program.is_file() {
            return Ok(());
        }
        let started = self.start_preload(Environment::of_nobody(runtime_api));
        let ready = async {
            let (stream, preloaded) = started?;
            let mut stream = stream;
            stream.read_u8().await?;
            Ok::<_, io::Error>(preloaded)
        };
        match timeout(READY_LIMIT, ready).await {
            Ok(Ok(preloaded)) => self.preloaded = Some(preloaded),
            Ok(Err(error)) => self.give_up_preload(&error.to_string()),
            Err(_) => self.give_up_preload("it was not ready in time"),
        }
        Ok(())
    }

    fn give_up_preload(&mut self, why: &str) {
        console::line(&format!("no runtime is preloaded: {why}"));
        let _ = self.cgroup.kill();
        self.keeper = None;
    }

    fn start_preload(&mut self, environment: Environment) -> io::Result<(UnixStream, Preloaded)> {
        let (orders, theirs) = StdStream::pair()?;
        let program = Program::at(PROGRAM, TASK_ROOT_PATH)?;
        let launched = self.start(program, &environment, Some(theirs.into()))?;
        let ready = orders.try_clone()?;
        ready.set_nonblocking(true)?;
        let ready = UnixStream::from_std(ready)?;
        Ok((ready, Preloaded { orders, environment, launched }))
    }

    /// Tells the waiting runtime its function, when there is one that can become it.
    pub(super) fn assign(&mut self, environment: &Environment) -> Option<Launched> {
        let Preloaded { mut orders, environment: started_with, launched } = self.preloaded.take()?;
        let variables: serde_json::Map<String, serde_json::Value> =
            environment.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let text = serde_json::Value::Object(variables).to_string();
        // A few KiB into an empty socket: nothing here waits.
        let told = started_with.can_become(environment)
            && orders.write_all(text.as_bytes()).is_ok()
            && orders.shutdown(Shutdown::Write).is_ok();
        if !told {
            let _ = self.cgroup.kill();
        }
        told.then_some(launched)
    }
}
