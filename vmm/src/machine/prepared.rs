//! A frame whose vCPUs have threads and whose pager waits: everything that a load does not have to do. And the load.
//!
//! ```text
//!  I/O thread                               vCPU threads              pager
//!  pages that clones want first written
//!  pages of the snapshot registered ───────────────────────────────► serves faults from here on
//!  changes tracked, when that is wanted
//!  states handed over ────────────────────► registers, APIC, MSRs
//!  devices plugged in                        (they may touch memory)
//!  all done ◄─────────────────────────────── done
//!  interrupt controllers, clock: after the APICs and TSCs they depend on
//!  interrupts that were on their way
//!  generation: its interrupt waits in the controllers
//!  run ───────────────────────────────────► first instruction
//! ```

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use devices::{
    BlockState, GenerationError, GenerationState, NetState, SerialState, TransportState, VsockState,
};
use kvm_bindings::{kvm_clock_data, kvm_irqchip};
use snapshot::{Fingerprint, FormatError, StateReader};
use vmm_api::{DriveAccess, Refusal};

use super::assembly::{Assembly, Fittings, Saved};
use super::devices::lock;
use super::error::{MachineError, kvm_failed};
use super::frame::{Crew, Frame, FreshMsrs, Shape};
use super::state::{DeviceKind, IRQCHIPS, MachineState, PlatformState};
use super::{Base, Machine, spawn};
use crate::config::{Drive, DriveId, Net, SerialOutput, Vsock};
use crate::confine::Filters;
use crate::cpu::CpuError;
use crate::cpu::state::VcpuState;
use crate::host_files::HostFiles;
use crate::memory::{self, Tracking};
use crate::pager::{LastWords, Pager, PagerError, SavedMemory, Userfault};
use crate::vcpu::{Buses, Vcpu, VcpuError, VcpuHandle};

/// A machine that can become any one of its shape.
pub(crate) struct Prepared {
    vcpus: Vec<VcpuHandle>,
    frame: Frame,
    crew: Crew,
    pager: Pager,
}

/// What a loaded machine is connected to on this host.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) drives: Vec<Drive>,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) net: Option<Net>,
    pub(crate) serial: SerialOutput,
    /// Tells it from every other clone.
    pub(crate) generation: [u8; 16],
}

/// The sections of a snapshot, decoded.
pub(crate) struct States {
    pub(crate) machine: MachineState,
    platform: PlatformState,
    vcpus: Vec<VcpuState>,
    serial: SerialState,
    generation: GenerationState,
    devices: Vec<(TransportState, DeviceState)>,
    fingerprint: Fingerprint,
}

enum DeviceState {
    Block(BlockState),
    Vsock(VsockState),
    Entropy,
    Net(NetState),
}

/// A machine that is half loaded and of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A device, or KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A vCPU.
    #[error("restore a vCPU")]
    Cpu(#[source] CpuError),
    /// A vCPU whose thread has ended.
    #[error("restore a vCPU: its thread has ended")]
    Ended,
    /// Memory.
    #[error(transparent)]
    Pager(#[from] PagerError),
    /// The guest could not be told that it is another one.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

impl States {
    /// Decodes what a load needs. Nothing has been done when this fails.
    pub(crate) fn read(file: &StateReader<'_>) -> Result<Self, FormatError> {
        let machine: MachineState = file.get(0)?;
        let vcpus = (0..machine.vcpu_count.into()).map(|index| file.get(index));
        let vcpus = vcpus.collect::<Result<_, FormatError>>()?;
        let device = |(slot, kind): (u32, &DeviceKind)| {
            let state = match kind {
                DeviceKind::Block => DeviceState::Block(file.get(slot)?),
                DeviceKind::Vsock => DeviceState::Vsock(file.get(slot)?),
                DeviceKind::Entropy => DeviceState::Entropy,
                DeviceKind::Net => DeviceState::Net(file.get(slot)?),
            };
            Ok((file.get(slot)?, state))
        };
        let devices = (0..).zip(&machine.devices).map(device).collect::<Result<_, FormatError>>()?;
        let (platform, serial, fingerprint) = (file.get(0)?, file.get(0)?, file.get(0)?);
        let generation = file.get(0)?;
        Ok(Self { platform, serial, generation, fingerprint, vcpus, devices, machine })
    }

    /// Whether the client gave exactly what the saved devices need.
    pub(crate) fn check(&self, connections: &Connections) -> Result<(), Refusal> {
        let refuse = |field: String, message: String| Err(refuse(&field, message));
        let blocks = || {
            self.devices.iter().filter_map(|(_, state)| match state {
                DeviceState::Block(block) => Some(block),
                _ => None,
            })
        };
        for (index, drive) in connections.drives.iter().enumerate() {
            let Some(block) = blocks().find(|block| is_id(&block.id, &drive.id)) else {
                let message = format!("the snapshot has no drive {}", drive.id.as_str());
                return refuse(format!("drives[{index}].id"), message);
            };
            if block.read_only != (drive.access == DriveAccess::ReadOnly) {
                let access = if block.read_only { "read_only" } else { "read_write" };
                return refuse(format!("drives[{index}].access"), format!("saved as {access}"));
            }
        }
        for block in blocks() {
            if !connections.drives.iter().any(|drive| is_id(&block.id, &drive.id)) {
                let id = String::from_utf8_lossy(&block.id);
                let message = format!("drive {} of the snapshot is not given", id.trim_end_matches('\0'));
                return refuse("drives".into(), message);
            }
        }
        let has_net = self.devices.iter().any(|(_, state)| matches!(state, DeviceState::Net(_)));
        if connections.net.is_some() && !has_net {
            return refuse("net".into(), "the snapshot has no network device".into());
        }
        let saved = self.devices.iter().find_map(|(_, state)| match state {
            DeviceState::Vsock(vsock) => Some(vsock.guest_cid),
            _ => None,
        });
        let given = connections.vsock.as_ref().map(|vsock| u64::from(vsock.guest_cid));
        match (saved, given) {
            (None, Some(_)) => refuse("vsock".into(), "the snapshot has no socket device".into()),
            (Some(_), None) => refuse("vsock".into(), "the snapshot has a socket device".into()),
            (Some(saved), Some(given)) if saved != given => {
                refuse("vsock.guest_cid".into(), format!("saved as {saved}"))
            }
            _ => Ok(()),
        }
    }
}

fn refuse(field: &str, message: impl Into<String>) -> Refusal {
    Refusal { field: Some(field.to_owned()), message: message.into() }
}

fn is_id(saved: &[u8; 20], id: &DriveId) -> bool {
    let id = id.as_str().as_bytes();
    saved.starts_with(id) && saved.iter().skip(id.len()).all(|&byte| byte == 0)
}

impl Prepared {
    /// Everything that depends on the shape alone. The process is confined between this and [`Unmanned::spawn`].
    pub(crate) fn frame(files: &HostFiles, shape: Shape) -> Result<Unmanned, MachineError> {
        let (frame, cpus) = Frame::new(files, shape, FreshMsrs::Read)?;
        let crew = Crew::new()?;
        let vcpus = crew.enlist(&frame, cpus, &Arc::new(Buses::default()))?;
        let userfault = Userfault::open(files).map_err(MachineError::OpenUserfault)?;
        Ok(Unmanned { vcpus, frame, crew, userfault })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.frame.shape
    }

    /// Whether the vCPUs can go on on this host.
    pub(crate) fn check(&self, states: &States) -> Result<(), Refusal> {
        let check = |vcpu| self.frame.host.check(&states.fingerprint, vcpu);
        states.vcpus.iter().try_for_each(check).map_err(|unfit| refuse("state", unfit.to_string()))
    }

    /// Becomes the machine of a snapshot, paused. `base` is the snapshot, when changes since are to be tracked.
    pub(crate) fn load(
        self,
        states: States,
        connections: Connections,
        saved: SavedMemory,
        base: Option<Base>,
    ) -> Result<Machine, LoadError> {
        let Self { vcpus, frame, crew, pager } = self;
        let States { machine: _, fingerprint: _, platform, vcpus: vcpu_states, serial, generation, devices } =
            states;
        let id = connections.generation;
        pager.serve(&frame.memory, saved)?;
        let tracking = Tracking::since(base.as_ref());
        if tracking == Tracking::On {
            // After the snapshot's own pages, before anything else is written: the generation is, and what vCPUs are set to
            // may make KVM write.
            memory::register(&frame.vm, &frame.memory, tracking).map_err(MachineError::Memory)?;
        }
        let restored = restore_vcpus(&vcpus, vcpu_states);
        let mut fittings = plug_in(&frame, &vcpus, connections, (&serial, &generation), &devices)?;
        for _ in &vcpus {
            restored.recv().map_err(|_| LoadError::Ended)?.map_err(LoadError::Cpu)?;
        }
        restore_platform(&frame, &platform)?;
        for device in &fittings.attached {
            lock(&device.transport).repeat_interrupt().map_err(MachineError::Events)?;
        }
        // Before the first instruction of the guest, after everything that the interrupt goes through.
        fittings.generation.as_mut().map_or(Ok(()), |generation| generation.renew(id))?;
        Ok(Machine { vcpus, frame, crew, fittings, pager: Some(pager), base, tracking })
    }
}

/// A prepared machine without threads.
pub(crate) struct Unmanned {
    vcpus: Vec<Vcpu>,
    frame: Frame,
    crew: Crew,
    userfault: Userfault,
}

impl Unmanned {
    /// Starts vCPUs and pager, each under its filter.
    pub(crate) fn spawn(self, filters: &Filters, last_words: LastWords) -> Result<Prepared, ThreadError> {
        let Self { vcpus, frame, crew, userfault } = self;
        let pager = Pager::spawn(userfault, filters.pager.clone(), last_words)?;
        Ok(Prepared { vcpus: spawn(vcpus, filters)?, frame, crew, pager })
    }
}

/// A thread that could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThreadError {
    /// A vCPU's.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The pager's.
    #[error(transparent)]
    Pager(#[from] PagerError),
}

fn restore_vcpus(vcpus: &[VcpuHandle], states: Vec<VcpuState>) -> Receiver<Result<(), CpuError>> {
    let (reply, restored) = mpsc::channel();
    for (vcpu, state) in vcpus.iter().zip(states) {
        vcpu.restore(Box::new(state), reply.clone());
    }
    restored
}

fn plug_in(
    frame: &Frame,
    vcpus: &[VcpuHandle],
    connections: Connections,
    (serial, generation): (&SerialState, &GenerationState),
    devices: &[(TransportState, DeviceState)],
) -> Result<Fittings, MachineError> {
    let Connections { mut drives, mut vsock, mut net, serial: output, generation: _ } = connections;
    let mut assembly = Assembly::new(frame)?;
    assembly.attach_serial(output, Some(serial))?;
    assembly.attach_reset_port()?;
    assembly.attach_power_ports()?;
    assembly.attach_generation(Some(generation))?;
    for (transport, device) in devices {
        match device {
            DeviceState::Block(device) => {
                // `States::check` has found one for each.
                let Some(at) = drives.iter().position(|drive| is_id(&device.id, &drive.id)) else { continue };
                let drive = drives.swap_remove(at);
                assembly.attach_block(drive, Some(Saved { device, transport }))?;
            }
            DeviceState::Vsock(device) => {
                let Some(vsock) = vsock.take() else { continue };
                assembly.attach_vsock(vsock, Some(Saved { device, transport }))?;
            }
            DeviceState::Entropy => assembly.attach_entropy(Some(transport))?,
            DeviceState::Net(device) => {
                assembly.attach_net(net.take(), Some(Saved { device, transport }))?;
            }
        }
    }
    let (buses, fittings) = assembly.finish();
    for vcpu in vcpus {
        vcpu.attach(Arc::clone(&buses));
    }
    Ok(fittings)
}

fn restore_platform(frame: &Frame, platform: &PlatformState) -> Result<(), MachineError> {
    for (chip, id) in platform.irqchips.0.iter().zip(IRQCHIPS) {
        let chip = kvm_irqchip { chip_id: id, ..chip.0 };
        frame.vm.set_irqchip(&chip).map_err(kvm_failed("set an interrupt controller"))?;
    }
    let clock = kvm_clock_data { clock: platform.clock_ns, ..Default::default() };
    frame.vm.set_clock(&clock).map_err(kvm_failed("set the clock"))
}
