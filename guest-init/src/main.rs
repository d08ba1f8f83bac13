//! The guest's only program that is ours: PID 1. What it does is in the library; here is the order.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use guest_init::boot::vmclock::VmClock;
use guest_init::boot::{self, BootError, Mode, console, mounts, seed, sysctls};
use guest_init::control::{Agent, ControlError, Dial, Link, Request};
use guest_init::describe::describe;
use guest_init::dial::dial;
use guest_init::gate::IdentityError;
use guest_init::process::{GuestLauncher, PrepareError};
use guest_init::runtime_api::{self, CredentialStore};
use guest_init::sandbox::{self, Connections, SandboxError};
use guest_init::unassigned;
use guest_protocol::{GuestMessage, Hello, PROTOCOL_VERSION, Start};
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Calls of the runtime that wait for the sandbox; one per connection at most, and connections are few.
const CALL_QUEUE: usize = 8;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "guest-init is PID 1 of a Tinderbox guest: it runs one function inside a microVM, and nothing here."
        );
        return ExitCode::from(2);
    }
    let first_instruction = since_kernel_start();
    console::open();
    if let Err(error) = run(first_instruction) {
        console::line(&describe(&error));
    }
    // The VMM takes a reset for the guest's end; nothing on the scratch drive is worth a sync.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    ExitCode::FAILURE
}

/// Why a guest ended by itself.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("cannot start the event loop")]
    EventLoop(#[source] io::Error),
    #[error("cannot connect to the agent")]
    Connect(#[source] io::Error),
    #[error("cannot listen for the runtime at {}", runtime_api::ADDRESS)]
    Listen(#[source] io::Error),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot give the function its memory")]
    Memory(#[source] io::Error),
    #[error("cannot say what this guest is")]
    Identity(#[from] IdentityError),
    #[error("cannot draw random bytes")]
    Random(#[source] io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

fn run(first_instruction: Duration) -> Result<(), GuestError> {
    let mode = boot::mode()?;
    console::line("up");
    if mode == Mode::BootProbe {
        return Ok(());
    }
    boot::prepare_machine()?;
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(GuestError::EventLoop)?;
    tokio::task::LocalSet::new().block_on(&event_loop, serve(first_instruction))
}

async fn serve(first_instruction: Duration) -> Result<(), GuestError> {
    let Link { requests, outgoing } = dial().await.map_err(GuestError::Connect)?;
    let agent = Agent::spawn(outgoing);
    if agent.send(GuestMessage::Hello(hello(first_instruction))).await.is_err() {
        return Err(SandboxError::AgentGone.into());
    }
    // Lets the writer send Hello, so that the agent works while this machine mounts.
    tokio::task::yield_now().await;
    mounts::build_runtime()?;
    let root = Path::new(mounts::FUNCTION_ROOT);
    let clock = VmClock::open(&root.join("dev"));
    let mut launcher = GuestLauncher::new(root, Path::new(mounts::CGROUPS), clock)?;
    mounts::bind_identity()?;
    let listener = TcpListener::bind(runtime_api::ADDRESS).await.map_err(GuestError::Listen)?;
    let (to_sandbox, calls) = mpsc::channel(CALL_QUEUE);
    let credentials = CredentialStore::default();
    tokio::task::spawn_local(runtime_api::serve(listener, to_sandbox, credentials.clone()));
    let runtime_api = runtime_api::ADDRESS.to_owned();
    let dial: Dial = Box::new(|| Box::pin(dial()));
    let mut connections = Connections { requests, agent, dial, calls, runtime_api, credentials };
    let Some(start) = identified(&mut launcher, &mut connections).await? else { return Ok(()) };
    mounts::attach_function(start.code)?;
    start.container.iter().cloned().for_each(|container| launcher.contain(container));
    launcher.limit_memory(start.memory_mib).map_err(GuestError::Memory)?;
    Ok(sandbox::run(start, launcher, connections).await?)
}

/// Waits until this guest is somebody: told by Start after a boot, or made unique after a resume and told then. `None`:
/// it is to end.
async fn identified(
    launcher: &mut GuestLauncher,
    connections: &mut Connections,
) -> Result<Option<Start>, GuestError> {
    let mut unique = false;
    loop {
        match connections.requests.recv().await {
            Some(Ok(Request::Start(start))) => {
                seed::credit_entropy(start.entropy)?;
                seed::set_clock(start.wall_clock_unix_ns)?;
                if !unique {
                    let fresh = seed::random().map_err(GuestError::Random)?;
                    launcher.identify_booted(sysctls::HOSTNAME, fresh)?;
                }
                return Ok(Some(*start));
            }
            Some(Ok(Request::Freeze)) if !unique => {
                unassigned::snapshotted(launcher, connections).await?;
                unique = true;
            }
            Some(Ok(Request::Shutdown(_))) => return Ok(None),
            Some(Ok(_)) => return Err(ControlError::OutOfTurn("something else before Start").into()),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(SandboxError::AgentGone.into()),
        }
    }
}

fn hello(first_instruction: Duration) -> Hello {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let kernel_release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Hello {
        protocol_version: PROTOCOL_VERSION,
        kernel_release,
        kernel_boot_us: us(first_instruction),
        guest_init_us: us(since_kernel_start().saturating_sub(first_instruction)),
    }
}

/// The monotonic clock starts with the kernel.
fn since_kernel_start() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
