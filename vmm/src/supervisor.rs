//! The I/O thread: waits for requests, device events and the guest's end, and does one at a time.

mod snapshots;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use jail::Entered;
use vmm_api::{Exit, MachineConfig, Metrics, Refusal, Request, Response};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::allocator;
use crate::config::{Config, longest_file};
use crate::confine::{self, Role};
use crate::control::{Control, ControlError, Incoming};
use crate::host_files::HostFiles;
use crate::lifecycle::Lifecycle;
use crate::machine::{self, Machine, Prepared};
use crate::memory_file::Pagemap;
use crate::metrics::MemoryMap;
use crate::vcpu::{Report, VcpuError};

/// Why the process ends, when nothing went wrong with the VMM itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client said stop, or is gone.
    Stopped,
    /// The guest ended.
    GuestEnded {
        /// How.
        exit: Exit,
        /// What was seen.
        detail: String,
    },
}

impl Outcome {
    /// A guest that asked for its end has reset itself, however another of its vCPUs ended meanwhile; a failure of the VMM
    /// stays one.
    fn of(report: Report, end_was_asked: bool) -> Self {
        let exit = if end_was_asked && report.exit == Exit::Crashed { Exit::Reset } else { report.exit };
        Self::GuestEnded { exit, detail: report.detail }
    }
}

/// An error that the VMM cannot go on from.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration of a standalone machine.
    #[error("{}{}", .0.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default(), .0.message)]
    Refused(Refusal),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// epoll.
    #[error("wait for events")]
    Events(#[source] io::Error),
    /// `/proc/self/smaps`.
    #[error("read the process's memory map")]
    MemoryMap(#[source] io::Error),
    /// The jail.
    #[error("enter the jail")]
    Jail(#[from] jail::JailError),
    /// A system call filter.
    #[error("filter system calls")]
    Filter(#[from] jail::FilterError),
    /// A vCPU thread.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A thread of a prepared machine.
    #[error("prepare a machine")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A snapshot that was in order and still could not be restored.
    #[error("load the snapshot")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Serves a control socket until its client or the guest ends.
///
/// # Errors
/// What the VMM cannot go on from.
pub fn serve(control: Control, files: HostFiles) -> Result<Outcome, RunError> {
    #[cfg(feature = "hostile")]
    crate::hostile::before_anything(&control);
    let mut supervisor = Supervisor::new(Some(control), files)?;
    supervisor.watch(Token::Control)?;
    supervisor.run().inspect_err(|_| supervisor.say_failed())
}

/// Runs one machine, without a client, until its guest ends.
///
/// # Errors
/// A refused configuration, and what the VMM cannot go on from.
pub fn run_config(config: MachineConfig) -> Result<Outcome, RunError> {
    let mut supervisor = Supervisor::new(None, HostFiles::Paths)?;
    for request in [Request::Configure(config), Request::Start] {
        if let Response::Refused(refusal) = supervisor.answer(request, Vec::new())? {
            return Err(RunError::Refused(refusal));
        }
    }
    supervisor.run()
}

/// What an epoll event is about.
#[derive(Clone, Copy)]
enum Token {
    Control,
    Devices,
    VcpuEnded,
}

impl Token {
    const ALL: [Self; 3] = [Self::Control, Self::Devices, Self::VcpuEnded];

    fn from_event(event: &EpollEvent) -> Option<Self> {
        usize::try_from(event.data()).ok().and_then(|index| Self::ALL.get(index)).copied()
    }
}

struct Supervisor {
    epoll: Epoll,
    control: Option<Control>,
    memory_map: MemoryMap,
    pagemap: Pagemap,
    /// Until the process is confined.
    files: HostFiles,
    lifecycle: Lifecycle,
    /// What the jail has, once the process is in it.
    entered: Option<Entered>,
    /// Between `Prepare` and `Load`.
    prepared: Option<Prepared>,
    machine: Option<Machine>,
    /// Whether snapshots of the machine may be taken.
    allow_snapshots: bool,
}

impl Supervisor {
    fn new(control: Option<Control>, files: HostFiles) -> Result<Self, RunError> {
        allocator::use_one_heap();
        let memory_map = MemoryMap::open(&files).map_err(RunError::MemoryMap)?;
        let pagemap = Pagemap::open(&files).map_err(RunError::MemoryMap)?;
        // What they say of a process that is closed to others, only root may open.
        confine::close_to_others()?;
        Ok(Self {
            epoll: Epoll::new().map_err(RunError::Events)?,
            control,
            memory_map,
            pagemap,
            files,
            lifecycle: Lifecycle::Blank,
            entered: None,
            prepared: None,
            machine: None,
            allow_snapshots: false,
        })
    }

    fn descriptor(&self, token: Token) -> Option<RawFd> {
        let machine = self.machine.as_ref();
        match token {
            Token::Control => self.control.as_ref().map(|control| control.as_fd().as_raw_fd()),
            Token::Devices => machine.map(|machine| machine.devices().as_raw_fd()),
            Token::VcpuEnded => machine.map(Machine::vcpu_ended_fd),
        }
    }

    fn watch(&self, token: Token) -> Result<(), RunError> {
        self.change(ControlOperation::Add, token)
    }

    fn change(&self, operation: ControlOperation, token: Token) -> Result<(), RunError> {
        let Some(fd) = self.descriptor(token) else { return Ok(()) };
        let event = EpollEvent::new(EventSet::IN, token as u64);
        self.epoll.ctl(operation, fd, event).map_err(RunError::Events)
    }

    fn run(&mut self) -> Result<Outcome, RunError> {
        loop {
            let mut events = [EpollEvent::default(); Token::ALL.len()];
            let count = match self.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(RunError::Events)?,
            };
            for token in events[..count].iter().filter_map(Token::from_event) {
                if let Some(outcome) = self.handle(token)? {
                    return self.end(outcome);
                }
            }
        }
    }

    fn handle(&mut self, token: Token) -> Result<Option<Outcome>, RunError> {
        #[cfg(feature = "hostile")]
        crate::hostile::turn(crate::hostile::Thread::Io);
        match (token, &mut self.machine) {
            (Token::Control, _) => self.handle_request(),
            (Token::Devices, Some(machine)) if self.lifecycle == Lifecycle::Running => {
                machine.dispatch().map_err(RunError::Events)?;
                Ok(None)
            }
            (Token::VcpuEnded, Some(machine)) => {
                Ok(machine.report().map(|report| Outcome::of(report, machine.end_was_asked())))
            }
            _ => Ok(None),
        }
    }

    fn end(&self, outcome: Outcome) -> Result<Outcome, RunError> {
        if let Some(machine) = &self.machine {
            machine.flush_serial();
        }
        if let (Outcome::GuestEnded { exit, .. }, Some(control)) = (&outcome, &self.control) {
            control.send(&Response::Exited(*exit))?;
        }
        Ok(outcome)
    }

    /// Tells the client; the socket may be what failed.
    fn say_failed(&self) {
        if let Some(control) = &self.control {
            let _ = control.send(&Response::Exited(Exit::Failed));
        }
    }

    fn handle_request(&mut self) -> Result<Option<Outcome>, RunError> {
        let Some(control) = &mut self.control else { return Ok(None) };
        let (request, fds) = match control.receive()? {
            Incoming::Request(request, fds) => (*request, fds),
            Incoming::Closed => return Ok(Some(Outcome::Stopped)),
            Incoming::Malformed(refusal) => {
                control.send(&Response::Refused(refusal))?;
                return Ok(None);
            }
        };
        let stop = matches!(request, Request::Stop);
        let response = self.answer(request, fds)?;
        if let Some(control) = &self.control {
            control.send(&response)?;
        }
        Ok(stop.then_some(Outcome::Stopped))
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Response, RunError> {
        let next = match self.lifecycle.after(&request) {
            Ok(next) => next,
            Err(refusal) => return Ok(Response::Refused(refusal)),
        };
        let done = match request {
            Request::Configure(config) => self.configure(config, fds)?.map(|()| Response::Ok),
            Request::Prepare(shape) => self.prepare(shape)?.map(|()| Response::Ok),
            Request::Load(config) => self.load(&config, fds)?.map(Response::Loaded),
            Request::Snapshot(config) => self.snapshot(&config, fds).map(Response::Snapshotted),
            Request::Start | Request::Resume => self.resume().map(|()| Ok(Response::Ok))?,
            Request::Pause => self.pause().map(|()| Ok(Response::Ok))?,
            Request::Stop => Ok(Response::Ok),
            Request::Metrics => Ok(Response::Metrics(self.metrics()?)),
            Request::WorkingSet => Ok(Response::WorkingSet(self.working_set())),
        };
        if done.is_ok() {
            self.lifecycle = next;
        }
        Ok(done.unwrap_or_else(Response::Refused))
    }

    /// Builds the machine, then gives up every right that running it does not need.
    fn configure(
        &mut self,
        config: MachineConfig,
        fds: Vec<OwnedFd>,
    ) -> Result<Result<(), Refusal>, RunError> {
        let allow_snapshots = config.allow_snapshots;
        let config = match Config::new(config, fds) {
            Ok(config) => config,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let longest_file = longest_file(&config.drives, config.memory, allow_snapshots);
        let built = match machine::build(&self.files, config) {
            Ok(built) => built,
            Err(error) => return Ok(Err(error.refusal())),
        };
        let filters = confine::filters(Role::Boot)?;
        self.confine()?;
        confine::bound_files(longest_file)?;
        self.allow_snapshots = allow_snapshots;
        let machine = built.spawn_vcpus(&filters)?;
        filters.io.apply()?;
        self.adopt(machine).map(Ok)
    }

    /// Closes the jail, and what is of no use in there.
    fn confine(&mut self) -> Result<(), RunError> {
        self.entered = Some(confine::plan().enter()?);
        self.files = HostFiles::Paths;
        Ok(())
    }

    fn adopt(&mut self, machine: Machine) -> Result<(), RunError> {
        self.machine = Some(machine);
        self.watch(Token::VcpuEnded)
    }

    fn resume(&self) -> Result<(), RunError> {
        self.watch(Token::Devices)?;
        if let Some(machine) = &self.machine {
            machine.run();
        }
        Ok(())
    }

    fn pause(&self) -> Result<(), RunError> {
        if let Some(machine) = &self.machine {
            machine.pause();
        }
        self.change(ControlOperation::Delete, Token::Devices)
    }

    fn metrics(&mut self) -> Result<Metrics, RunError> {
        let machine = self.machine.as_ref();
        let guest = machine.map(Machine::memory_ranges).unwrap_or_default();
        let overhead_bytes = self.memory_map.overhead_bytes(&guest).map_err(RunError::MemoryMap)?;
        Ok(Metrics {
            exits: machine.map(Machine::exits).unwrap_or_default(),
            overhead_bytes,
            landlock: self.entered.map(|entered| entered.landlock),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crash_that_nobody_asked_for_is_one() {
        let ended = |exit, asked| match Outcome::of(Report { exit, detail: String::new() }, asked) {
            Outcome::GuestEnded { exit, .. } => exit,
            Outcome::Stopped => unreachable!("nobody said stop"),
        };
        assert_eq!(ended(Exit::Crashed, false), Exit::Crashed);
        assert_eq!(ended(Exit::Crashed, true), Exit::Reset);
        assert_eq!(ended(Exit::Failed, true), Exit::Failed);
    }
}
