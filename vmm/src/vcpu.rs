//! One vCPU: its thread, how it is told to run and to pause, and what it does with an exit.
//!
//! ```text
//!        spawn            Run                    Pause: command, immediate_exit, signal
//!  (thread) ──► paused ────────► running ──┬──────────────────────────► paused
//!                                          └─ reset, crash, failure ──► ended (reported once)
//!   while paused: Attach (buses), Restore and Save (registers)
//! ```
//!
//! The thread owns the vCPU's descriptor. Others reach it through [`VcpuHandle`] only. A pause is acknowledged between
//! two instructions, never in the middle of an access that left the guest: `KVM_RUN` with `immediate_exit` finishes
//! such an access and returns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use devices::{Bus, BusDevice};
use jail::CompiledFilter;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_api::{Exit, ExitCounts};
use vmm_sys_util::eventfd::EventFd;

use crate::cpu::state::{self, VcpuState};
use crate::cpu::{CpuError, FreshCpu};
use crate::kick::{Kicker, KickerError};
use crate::power::GuestEnd;

/// The run loop calls a few levels deep and allocates nothing on the stack; pages beyond are never touched.
const STACK_LEN: usize = 256 * 1024;

/// Something on a bus, shared by the vCPU threads.
pub(crate) type Shared = Arc<Mutex<dyn BusDevice>>;

/// What answers accesses that leave the guest.
#[derive(Default)]
pub(crate) struct Buses {
    pub(crate) ports: Bus<Shared>,
    pub(crate) mmio: Bus<Shared>,
    pub(crate) end: GuestEnd,
}

/// Exits over all vCPUs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pio: AtomicU64,
    mmio: AtomicU64,
    other: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> ExitCounts {
        ExitCounts {
            pio: self.pio.load(Ordering::Relaxed),
            mmio: self.mmio.load(Ordering::Relaxed),
            other: self.other.load(Ordering::Relaxed),
        }
    }
}

/// Tells the I/O thread that the guest ended.
pub(crate) struct Reporter {
    pub(crate) reports: Sender<Report>,
    pub(crate) wake: EventFd,
}

/// Why a vCPU stopped for good.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) exit: Exit,
    pub(crate) detail: String,
}

/// A vCPU thread that could not be started or is gone.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// Its shared page cannot be mapped.
    #[error("prepare to interrupt vCPU {index}")]
    Kicker {
        /// Which vCPU.
        index: u8,
        /// Why.
        source: KickerError,
    },
    /// No thread.
    #[error("start the thread of vCPU {index}")]
    Spawn {
        /// Which vCPU.
        index: u8,
        /// Why.
        source: std::io::Error,
    },
    /// Its system call filter was refused.
    #[error("confine the thread of vCPU {index}")]
    Confine {
        /// Which vCPU.
        index: u8,
        /// Why.
        source: jail::FilterError,
    },
    /// It ended before it was ready.
    #[error("wait for the thread of vCPU {index}")]
    Gone {
        /// Which vCPU.
        index: u8,
    },
}

enum Command {
    Run,
    /// The sender is dropped when the vCPU stands still.
    Pause(Sender<()>),
    /// What answers accesses from now on.
    Attach(Arc<Buses>),
    /// Copies its state out.
    Save(Sender<(u8, Result<VcpuState, CpuError>)>),
    /// Takes over a state.
    Restore(Box<VcpuState>, Sender<Result<(), CpuError>>),
}

/// A vCPU that has no thread yet.
pub(crate) struct Vcpu {
    pub(crate) index: u8,
    pub(crate) fd: VcpuFd,
    pub(crate) fresh: FreshCpu,
    pub(crate) run_size: usize,
    pub(crate) buses: Arc<Buses>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reporter: Reporter,
}

/// The I/O thread's end of a vCPU thread.
pub(crate) struct VcpuHandle {
    commands: Sender<Command>,
    kicker: Kicker,
}

impl Vcpu {
    /// Starts the thread, paused and confined by `filter`.
    pub(crate) fn spawn(self, filter: Arc<CompiledFilter>) -> Result<VcpuHandle, VcpuError> {
        let index = self.index;
        let kicker =
            Kicker::new(&self.fd, self.run_size).map_err(|source| VcpuError::Kicker { index, source })?;
        let (commands, inbox) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK_LEN)
            .spawn(move || {
                let confined = filter.apply();
                let go = confined.is_ok();
                // The waiting side is gone only when the process is ending.
                let _ = ready.send(confined);
                if go {
                    self.serve(&inbox);
                }
            })
            .map_err(|source| VcpuError::Spawn { index, source })?;
        match is_ready.recv() {
            Ok(Ok(())) => Ok(VcpuHandle { commands, kicker: kicker.with_thread(thread) }),
            Ok(Err(source)) => Err(VcpuError::Confine { index, source }),
            Err(_) => Err(VcpuError::Gone { index }),
        }
    }

    fn serve(mut self, inbox: &Receiver<Command>) {
        // The channel's end is the machine's end.
        while let Ok(command) = inbox.recv() {
            match command {
                Command::Pause(standing_still) => drop(standing_still),
                Command::Attach(buses) => self.buses = buses,
                // The waiting side of the next two is gone only when the process is ending.
                Command::Save(reply) => {
                    let saved = state::save(&self.fd, &self.fresh, self.index);
                    let _ = reply.send((self.index, saved));
                }
                Command::Restore(state, reply) => {
                    let restored = state::restore(&self.fd, &mut self.fresh, self.index, &state);
                    let _ = reply.send(restored);
                }
                Command::Run => match self.run(inbox) {
                    Stop::Paused(standing_still) => {
                        // Tells kvm-clock that time stood still, so that the guest's watchdogs stay calm. A guest
                        // without kvm-clock makes it fail, and needs nothing.
                        let _ = self.fd.kvmclock_ctrl();
                        drop(standing_still);
                    }
                    Stop::Ended(report) => return self.report(report),
                },
            }
        }
    }

    fn report(self, report: Report) {
        // Both fail only when the I/O thread is gone, and the process with it.
        let _ = self.reporter.reports.send(report);
        let _ = self.reporter.wake.write(1);
    }

    fn run(&mut self, inbox: &Receiver<Command>) -> Stop {
        loop {
            match self.step() {
                Step::Continue => {}
                Step::Interrupted => {
                    // Cleared before looking: a command sent after the look comes with a kick of its own.
                    self.fd.set_kvm_immediate_exit(0);
                    // Nothing but a pause is asked of a vCPU that runs.
                    if let Ok(Command::Pause(standing_still)) = inbox.try_recv() {
                        return Stop::Paused(standing_still);
                    }
                }
                Step::Ended(exit, detail) => return Stop::Ended(Report { exit, detail }),
            }
        }
    }

    fn step(&mut self) -> Step {
        let (buses, counters) = (&self.buses, &self.counters);
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                count(&counters.pio);
                write_port(&buses.ports, port, data);
                if buses.end.is_asked() {
                    return Step::Ended(Exit::Reset, "reset or power off".into());
                }
                Step::Continue
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                count(&counters.pio);
                read_port(&buses.ports, port, data);
                Step::Continue
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(&counters.mmio);
                if let Some((device, offset)) = buses.mmio.get(address, data.len()) {
                    lock(device).write(offset, data);
                }
                Step::Continue
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&counters.mmio);
                match buses.mmio.get(address, data.len()) {
                    Some((device, offset)) => lock(device).read(offset, data),
                    None => data.fill(0xff),
                }
                Step::Continue
            }
            Ok(other) => {
                count(&counters.other);
                classify(&other)
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Step::Interrupted,
            Err(error) => Step::Ended(Exit::Failed, format!("KVM_RUN failed: {error}")),
        }
    }
}

enum Stop {
    Paused(Sender<()>),
    Ended(Report),
}

enum Step {
    Continue,
    Interrupted,
    Ended(Exit, String),
}

fn classify(exit: &VcpuExit<'_>) -> Step {
    match exit {
        VcpuExit::Shutdown => Step::Ended(Exit::Crashed, "triple fault".into()),
        VcpuExit::SystemEvent(kind, _) => match *kind {
            kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN | kvm_bindings::KVM_SYSTEM_EVENT_RESET => {
                Step::Ended(Exit::Reset, "system event".into())
            }
            kind => Step::Ended(Exit::Crashed, format!("system event {kind}")),
        },
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => Step::Continue,
        // KVM could not emulate an instruction, or the host refuses the guest's state.
        other => Step::Ended(Exit::Failed, format!("KVM exit {other:?}")),
    }
}

fn lock(device: &Shared) -> std::sync::MutexGuard<'_, dyn BusDevice + 'static> {
    // A panic in a device ends the process (panic = abort); in tests the state behind it is still defined.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every port register here has one byte, so a wide access or a string instruction is its bytes, one after the other.
fn write_port(ports: &Bus<Shared>, port: u16, data: &[u8]) {
    if let Some((device, offset)) = ports.get(port.into(), 1) {
        let mut device = lock(device);
        for byte in data.chunks(1) {
            device.write(offset, byte);
        }
    }
}

/// A port that nothing answers reads as all ones, as on a PC.
fn read_port(ports: &Bus<Shared>, port: u16, data: &mut [u8]) {
    match ports.get(port.into(), 1) {
        Some((device, offset)) => {
            let mut device = lock(device);
            for byte in data.chunks_mut(1) {
                device.read(offset, byte);
            }
        }
        None => data.fill(0xff),
    }
}

impl VcpuHandle {
    /// Lets the vCPU run. One that ended already has reported that itself.
    pub(crate) fn run(&self) {
        let _ = self.commands.send(Command::Run);
    }

    /// Asks it to stand still; `standing_still` is dropped when it does, or when it has ended.
    pub(crate) fn pause(&self, standing_still: Sender<()>) {
        if self.commands.send(Command::Pause(standing_still)).is_ok() {
            self.kicker.kick();
        }
    }

    /// Gives a paused vCPU its buses.
    pub(crate) fn attach(&self, buses: Arc<Buses>) {
        let _ = self.commands.send(Command::Attach(buses));
    }

    /// Asks a paused vCPU for its state. One that has ended drops `reply`.
    pub(crate) fn save(&self, reply: Sender<(u8, Result<VcpuState, CpuError>)>) {
        let _ = self.commands.send(Command::Save(reply));
    }

    /// Hands a paused vCPU its state. One that has ended drops `reply`.
    pub(crate) fn restore(&self, state: Box<VcpuState>, reply: Sender<Result<(), CpuError>>) {
        let _ = self.commands.send(Command::Restore(state, reply));
    }
}
