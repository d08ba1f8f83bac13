//! What a sandbox needs to start and end a runtime's process. [`crate::process`] does it in a guest; tests do it
//! without one.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use crate::environment::Environment;
use crate::lifecycle::Exit;
use crate::platform_log::Memory;

/// Starts and ends the function's processes: one runtime at a time, and its extensions.
pub trait Launcher {
    /// Starts the runtime.
    ///
    /// # Errors
    /// [`LaunchError`], whose text becomes the message of `Runtime.InvalidEntrypoint`.
    fn launch(&mut self, environment: &Environment) -> Result<Launched, LaunchError>;

    /// Names of the external extensions, in the order in which they are started.
    fn extensions(&self) -> Vec<String>;

    /// Starts one of them.
    ///
    /// # Errors
    /// [`LaunchError`].
    fn launch_extension(&mut self, name: &str, environment: &Environment) -> Result<Launched, LaunchError>;

    /// Asks the runtime's process to end.
    fn terminate_runtime(&mut self);

    /// Ends the runtime and all that it started, and no extension.
    fn kill_runtime(&mut self);

    /// Ends all processes of the function at once; [`Launched::exit`] tells when they are gone.
    fn kill(&mut self);

    /// What the function has used of its memory so far; `size_mib` is not looked at.
    fn memory(&self) -> Memory;
}

/// A started runtime.
#[derive(Debug)]
pub struct Launched {
    /// Told once, when the runtime's process and all that it started are gone.
    pub exit: oneshot::Receiver<Exit>,
    /// Read end of the pipe that is the function's standard output and error.
    pub output: OwnedFd,
}

/// Why a runtime could not be started, in words for the customer.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no program to start.
    #[error("Couldn't find valid bootstrap(s): [{0}]")]
    NoBootstrap(String),
    /// The container image says nothing that is to be run.
    #[error("the image has neither an entry point nor a command")]
    NoEntryPoint,
    /// The guest could not start it.
    #[error("fork/exec {program}: {source}")]
    Fork {
        /// The program.
        program: String,
        /// What failed.
        source: std::io::Error,
    },
}
