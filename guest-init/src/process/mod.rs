//! Starts the runtime in a guest, as an unprivileged user in its own view of the machine.
//!
//! ```text
//! guest-init (PID 1) ──clone3──► keeper (PID 1 of a new PID, mount and IPC namespace; root; reaps) ──fork──► runtime
//! ```
//!
//! The keeper exists because PID 1 of a namespace is deaf to signals it does not handle, which a runtime must not be,
//! and because somebody must reap what the function leaves behind. It holds no secret and no descriptor but the
//! status pipe; when it ends, the kernel ends everything in the namespace. guest-init learns of the end by pidfd.

mod confine;
mod hook;
mod keeper;
mod machine;
mod preload;
mod program;
mod status;
mod view;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use guest_protocol::Container;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, fchown, pipe2};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::boot::mounts::{SHOWN, is_folder};
use crate::boot::vmclock::VmClock;
use crate::cgroup::Cgroup;
use crate::environment::Environment;
use crate::extensions::MAX_EXTENSIONS;
use crate::gate::connections::Connections;
use crate::gate::{GenerationPage, Hook, HookError, IdentityError, IdentityFiles};
use crate::lifecycle::Exit;
use crate::platform_log::Memory;
use crate::sandbox::{LaunchError, Launched, Launcher};
use crate::watch::watched;
use keeper::Keeper;
use preload::Preloaded;
use program::{Program, ROOT_PATH, TASK_ROOT_PATH};

/// The user that functions run as, `sbx_user1051`: the same numbers as on Lambda.
pub const FUNCTION_UID: u32 = 993;

/// Its group.
pub const FUNCTION_GID: u32 = 990;

/// Where a runtime's program may be, best first: the image's own, the function's, a layer's.
const BOOTSTRAPS: &[&str] = &[OWN_BOOTSTRAP, "/var/task/bootstrap", "/opt/bootstrap"];

/// The image's own, of a runtime that is the platform's.
const OWN_BOOTSTRAP: &str = "/var/runtime/bootstrap";

/// The variable by which a function has a program of its own run before the runtime: Lambda's "wrapper script".
const EXEC_WRAPPER: &str = "AWS_LAMBDA_EXEC_WRAPPER";

/// As much of a bootstrap as the kernel looks at for an interpreter, in bytes.
const MAX_INTERPRETER_LEN: u64 = 256;

/// Where layers' external extensions are.
const EXTENSIONS: &str = "/opt/extensions";

/// The bootstraps that Lambda names when there is none.
const CUSTOMER_BOOTSTRAPS: &str = "/var/task/bootstrap /opt/bootstrap";

/// Starts runtimes whose root directory is `root`, and makes the guest around them another one after a resume.
#[derive(Debug)]
pub struct GuestLauncher {
    root: PathBuf,
    cgroup: Cgroup,
    hooks: Cgroup,
    /// What was in `restore.d` when the function was frozen: neither image nor code changes afterwards.
    restore_d: Result<Vec<Hook>, HookError>,
    /// What it had of connections over the network then.
    connections: Connections,
    identity: IdentityFiles,
    page: GenerationPage,
    clock: Option<VmClock>,
    /// A pidfd of the last keeper.
    keeper: Option<OwnedFd>,
    /// A runtime that waits to be told its function.
    preloaded: Option<Preloaded>,
    /// The container image that the function is, if it is one.
    container: Option<Container>,
}

impl GuestLauncher {
    /// With the function's view mounted at `root` and cgroups at `hierarchy`.
    ///
    /// # Errors
    /// When a cgroup or a file cannot be made.
    pub fn new(root: &Path, hierarchy: &Path, clock: Option<VmClock>) -> Result<Self, PrepareError> {
        let shown = root.join(SHOWN.trim_start_matches('/'));
        Ok(Self {
            root: root.to_owned(),
            cgroup: Cgroup::function(hierarchy).map_err(PrepareError::Cgroup)?,
            hooks: Cgroup::hooks(hierarchy).map_err(PrepareError::Cgroup)?,
            restore_d: Ok(Vec::new()),
            connections: Connections::default(),
            identity: IdentityFiles::create(&shown)?,
            page: GenerationPage::create(&shown.join("generation")).map_err(PrepareError::Generation)?,
            clock,
            keeper: None,
            preloaded: None,
            container: None,
        })
    }

    /// The function is a container image, which is run like this.
    pub fn contain(&mut self, container: Container) {
        self.container = Some(container);
    }

    /// Gives the function its memory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_memory(&self, mib: u32) -> io::Result<()> {
        self.cgroup.limit_memory(mib)
    }

    fn bootstrap(&self) -> Option<&'static str> {
        BOOTSTRAPS.iter().copied().find(|path| {
            // Not followed: a link is resolved in the function's view, at exec.
            let inside = self.root.join(path.trim_start_matches('/'));
            inside.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir())
        })
    }

    fn wrapped(&self, wrapper: &str) -> io::Result<Program> {
        let bootstrap = File::open(self.root.join(OWN_BOOTSTRAP.trim_start_matches('/')))?;
        let mut beginning = Vec::new();
        bootstrap.take(MAX_INTERPRETER_LEN).read_to_end(&mut beginning)?;
        Ok(Program::wrapped(wrapper, OWN_BOOTSTRAP, &beginning, TASK_ROOT_PATH)?)
    }

    fn start(
        &mut self,
        program: Program,
        environment: &Environment,
        orders: Option<OwnedFd>,
    ) -> io::Result<Launched> {
        let (launched, keeper) = self.start_kept(program, environment, orders)?;
        self.keeper = Some(keeper);
        Ok(launched)
    }

    /// Starts a program under a keeper of its own: what the function sees of it, and a pidfd of the keeper.
    fn start_kept(
        &self,
        program: Program,
        environment: &Environment,
        orders: Option<OwnedFd>,
    ) -> io::Result<(Launched, OwnedFd)> {
        let called = program.arguments.first().map(|name| name.to_string_lossy().into_owned());
        let (output, output_writer) = pipe2(OFlag::O_CLOEXEC)?;
        // So that the function can open /dev/stdout and /dev/stderr.
        fchown(&output_writer, Some(Uid::from_raw(FUNCTION_UID)), Some(Gid::from_raw(FUNCTION_GID)))?;
        let (status, status_writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let keeper = Keeper {
            root: self.root.clone(),
            program,
            environment: environment.to_exec(),
            null: File::open("/dev/null")?.into(),
            output: output_writer,
            status: status_writer,
            cgroup_procs: self.cgroup.procs()?,
            orders,
            filter: confine::socket_filter()?,
        };
        let (pid, pidfd) = keeper.start()?;
        let kept = pidfd.try_clone()?;
        let pidfd = watched(pidfd, Interest::READABLE)?;
        let (tell, exit) = oneshot::channel();
        tokio::task::spawn_local(watch(pid, pidfd, status, called.unwrap_or_default(), tell));
        Ok((Launched { exit, output }, kept))
    }
}

/// Why a guest cannot run any function.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A cgroup could not be made.
    #[error("cannot make the function's cgroups")]
    Cgroup(#[source] io::Error),
    /// A file that says what this guest is could not be made.
    #[error("cannot make the guest's identity")]
    Identity(#[from] IdentityError),
    /// The generation page could not be made.
    #[error("cannot make the generation page")]
    Generation(#[source] io::Error),
}

impl Launcher for GuestLauncher {
    fn launch(&mut self, environment: &Environment) -> Result<Launched, LaunchError> {
        if let Some(container) = &self.container {
            let name = container.arguments.first().cloned().unwrap_or_default();
            let program = Program::of(container, environment).map_err(io::Error::from);
            let started = match program.transpose().ok_or(LaunchError::NoEntryPoint)? {
                Ok(program) => self.start(program, environment, None),
                Err(error) => Err(error),
            };
            return started.map_err(|source| LaunchError::Fork { program: name, source });
        }
        let program =
            self.bootstrap().ok_or_else(|| LaunchError::NoBootstrap(CUSTOMER_BOOTSTRAPS.to_owned()))?;
        if let Some(launched) = self.assign(environment) {
            return Ok(launched);
        }
        // A function that brings its bootstrap has no need of a wrapper, and none on Lambda.
        let wrapper =
            environment.get(EXEC_WRAPPER).filter(|path| program == OWN_BOOTSTRAP && !path.is_empty());
        let found = match wrapper {
            Some(wrapper) => self.wrapped(wrapper),
            None => Program::at(program, TASK_ROOT_PATH).map_err(io::Error::from),
        };
        found
            .and_then(|program| self.start(program, environment, None))
            .map_err(|source| LaunchError::Fork { program: wrapper.unwrap_or(program).to_owned(), source })
    }

    fn extensions(&self) -> Vec<String> {
        let folder = Some(self.root.join(EXTENSIONS.trim_start_matches('/')));
        // Not over a link, which here leads elsewhere than in the function's view.
        let entries = folder
            .filter(|folder| is_folder(folder))
            .map(std::fs::read_dir)
            .into_iter()
            .flatten()
            .flatten()
            .flatten();
        // Not followed, as a bootstrap is not.
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        let mut names: Vec<_> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        // One more than there may be tells that they are too many.
        names.truncate(MAX_EXTENSIONS + 1);
        names
    }

    fn launch_extension(&mut self, name: &str, environment: &Environment) -> Result<Launched, LaunchError> {
        let program = format!("{EXTENSIONS}/{name}");
        let folder = if self.container.is_some() { ROOT_PATH } else { TASK_ROOT_PATH };
        let started = Program::at(&program, folder).map_err(io::Error::from);
        match started.and_then(|program| self.start_kept(program, environment, None)) {
            // Its keeper ends with it.
            Ok((launched, _keeper)) => Ok(launched),
            Err(source) => Err(LaunchError::Fork { program, source }),
        }
    }

    fn terminate_runtime(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper::signal_keeper(keeper, Signal::SIGTERM);
        }
    }

    fn kill_runtime(&mut self) {
        if let Some(keeper) = &self.keeper {
            // The kernel ends everything in its namespace.
            keeper::signal_keeper(keeper, Signal::SIGKILL);
        }
    }

    fn kill(&mut self) {
        // The keeper sees the runtime end and ends too. A cgroup that cannot be killed is one that is gone.
        let _ = self.cgroup.kill();
    }

    fn memory(&self) -> Memory {
        Memory { size_mib: 0, used_mib: self.cgroup.peak_mib(), exhausted: self.cgroup.was_out_of_memory() }
    }
}

/// Waits for the keeper's end, reaps it and tells how the runtime ended.
async fn watch(
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    status: OwnedFd,
    program: String,
    tell: oneshot::Sender<Exit>,
) {
    // Readable once the process can be reaped; an error cannot happen while we hold the descriptor.
    let _ = pidfd.readable().await;
    let _ = waitpid(pid, None);
    reap_strays();
    let mut records = Vec::new();
    // Non-blocking: all writers are gone, or it would have been told by now.
    let _ = File::from(status).take(status::MAX_LEN).read_to_end(&mut records);
    let _ = tell.send(status::exit_of(&records, &program));
}

/// PID 1 inherits every orphan. None is expected, as the keeper's namespace dies with it.
fn reap_strays() {
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
    {}
}

/// The number of a descriptor, for comparison and for system calls that take numbers.
fn number(fd: &impl AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}
