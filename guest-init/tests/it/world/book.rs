//! The launcher and the machine of a sandbox under test: a book of what was done to them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use guest_init::control::Agent;
use guest_init::environment::Environment;
use guest_init::gate::{HookError, HookPlan, Identity, IdentityError, Machine};
use guest_init::lifecycle::Exit;
use guest_init::platform_log::Memory;
use guest_init::sandbox::{LaunchError, Launched, Launcher};
use guest_protocol::Seed;
use tokio::sync::{oneshot, watch};

/// What the launcher has done, and the ends that a real process would hold.
pub(super) struct Books {
    pub(super) launched: watch::Sender<usize>,
    pub(super) kills: usize,
    /// How often the runtime alone was asked to end, or ended.
    pub(super) ends_of_runtime: usize,
    /// Names of the external extensions.
    pub(super) extensions: Vec<&'static str>,
    /// Ends of their processes, by name.
    pub(super) extension_exits: HashMap<String, oneshot::Sender<Exit>>,
    /// What was done to the machine, in order.
    pub(super) machine: Vec<String>,
    /// The step that is to fail.
    pub(super) fails: Option<&'static str>,
    /// The environment of the last start.
    pub(super) environment: Option<Environment>,
    pub(super) exit: Option<oneshot::Sender<Exit>>,
    pub(super) output: Option<OwnedFd>,
}

pub(super) struct Bookkeeper(pub(super) Rc<RefCell<Books>>);

impl Launcher for Bookkeeper {
    fn launch(&mut self, environment: &Environment) -> Result<Launched, LaunchError> {
        let (output, writer) = std::io::pipe().unwrap();
        let (tell, exit) = oneshot::channel();
        let mut books = self.0.borrow_mut();
        books.exit = Some(tell);
        books.environment = Some(environment.clone());
        books.output = Some(writer.into());
        books.launched.send_modify(|count| *count += 1);
        Ok(Launched { exit, output: output.into() })
    }

    fn extensions(&self) -> Vec<String> {
        self.0.borrow().extensions.iter().map(|&name| name.to_owned()).collect()
    }

    fn launch_extension(&mut self, name: &str, _: &Environment) -> Result<Launched, LaunchError> {
        let (output, _writer) = std::io::pipe().unwrap();
        let (tell, exit) = oneshot::channel();
        self.0.borrow_mut().extension_exits.insert(name.to_owned(), tell);
        Ok(Launched { exit, output: output.into() })
    }

    fn terminate_runtime(&mut self) {
        self.kill_runtime();
    }

    fn kill_runtime(&mut self) {
        let mut books = self.0.borrow_mut();
        books.ends_of_runtime += 1;
        books.output = None;
        if let Some(exit) = books.exit.take() {
            exit.send(Exit::Signal(libc::SIGTERM)).unwrap();
        }
    }

    fn kill(&mut self) {
        self.0.borrow_mut().kills += 1;
    }

    fn memory(&self) -> Memory {
        Memory { size_mib: 0, used_mib: 20, exhausted: false }
    }
}

impl Bookkeeper {
    fn note(&self, step: &str) -> io::Result<()> {
        let mut books = self.0.borrow_mut();
        books.machine.push(step.to_owned());
        if books.fails == Some(step) { Err(io::Error::other("as told")) } else { Ok(()) }
    }
}

impl Machine for Bookkeeper {
    async fn freeze(&mut self) -> io::Result<()> {
        self.note("freeze")
    }

    fn sync(&mut self) -> io::Result<()> {
        self.note("sync")
    }

    fn credit_entropy(&mut self, _: &Seed) -> io::Result<()> {
        self.note("entropy")
    }

    fn reseed(&mut self) -> io::Result<()> {
        self.note("reseed")
    }

    fn set_clock(&mut self, _: u64) -> io::Result<()> {
        self.note("clock")
    }

    fn set_identity(&mut self, _: Identity<'_>) -> Result<(), IdentityError> {
        self.note("identity").map_err(|error| IdentityError::File("x".into(), error))
    }

    fn reset_connections(&mut self) -> io::Result<()> {
        self.note("connections")
    }

    fn publish(&mut self, _: [u8; 16], _: u64, _: u64) -> io::Result<()> {
        self.note("generation")
    }

    async fn run_hooks(&mut self, _: HookPlan, _: &Agent) -> Result<usize, HookError> {
        self.note("hooks").map_err(|error| HookError::List("x", error))?;
        Ok(1)
    }

    fn thaw(&mut self) -> io::Result<()> {
        self.note("thaw")
    }

    fn generation_counter(&self) -> Option<u64> {
        Some(7)
    }
}
