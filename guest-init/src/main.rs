//! The guest's only program that is ours: PID 1. What it does is in the library; here is the order.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use guest_init::boot::{self, BootError, Mode, console, mounts, seed};
use guest_init::cgroup::Cgroup;
use guest_init::control::{self, ControlError, Request};
use guest_init::process::GuestLauncher;
use guest_init::runtime_api;
use guest_init::sandbox::{self, Connections, SandboxError};
use guest_protocol::{CONTROL_PORT, GuestMessage, HOST_CID, Hello, PROTOCOL_VERSION};
use nix::sys::reboot::{RebootMode, reboot};
use nix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_vsock::{VsockAddr, VsockStream};

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
    #[error("cannot make the function's cgroup")]
    Cgroup(#[source] io::Error),
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
    let address = VsockAddr::new(HOST_CID, CONTROL_PORT);
    let (from_agent, to_agent) =
        tokio::io::split(VsockStream::connect(address).await.map_err(GuestError::Connect)?);
    let agent = control::spawn_writer(to_agent);
    let mut requests = control::spawn_reader(from_agent);
    if agent.send(GuestMessage::Hello(hello(first_instruction))).await.is_err() {
        return Err(SandboxError::AgentGone.into());
    }
    // Lets the writer send Hello, so that the agent works while this machine mounts.
    tokio::task::yield_now().await;
    mounts::build_view()?;
    let listener = TcpListener::bind(runtime_api::ADDRESS).await.map_err(GuestError::Listen)?;

    let start = match requests.recv().await {
        Some(Ok(Request::Start(start))) => start,
        Some(Ok(Request::Shutdown)) => return Ok(()),
        Some(Ok(Request::Invoke(..) | Request::Freeze | Request::MakeUnique(_))) => {
            return Err(ControlError::OutOfTurn("something else before Start").into());
        }
        Some(Err(error)) => return Err(error.into()),
        None => return Err(SandboxError::AgentGone.into()),
    };
    seed::credit_entropy(start.entropy)?;
    seed::set_clock(start.wall_clock_unix_ns)?;
    let cgroup = Cgroup::create(Path::new(mounts::CGROUPS), start.memory_mib).map_err(GuestError::Cgroup)?;
    let launcher = GuestLauncher::new(Path::new(mounts::FUNCTION_ROOT), cgroup);
    let (to_sandbox, calls) = mpsc::channel(CALL_QUEUE);
    tokio::task::spawn_local(runtime_api::serve(listener, to_sandbox));
    let connections = Connections { requests, agent, calls, runtime_api: runtime_api::ADDRESS.to_owned() };
    Ok(sandbox::run(*start, launcher, connections).await?)
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

/// The error and its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
