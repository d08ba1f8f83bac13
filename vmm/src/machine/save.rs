//! A paused machine as sections of a snapshot. vCPUs copy themselves out, each in its own thread; meanwhile the I/O thread
//! copies the rest.

use std::sync::mpsc;

use devices::Memory;
use kvm_bindings::kvm_irqchip;
use snapshot::{FormatError, PageIndex, Persist, StateWriter};

use super::devices::{Kind, lock};
use super::state::{DeviceKind, IRQCHIPS, Irqchips, MachineState, PlatformState};
use super::{Base, Machine};
use crate::cpu::{CpuError, Raw, baseline};
use crate::memory::{self, MemoryError, Tracking, WrittenPages};
use crate::pager::Pager;

/// A machine that cannot be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// A vCPU's registers.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A vCPU that ended meanwhile.
    #[error("a vCPU has ended")]
    Ended,
    /// What KVM keeps for all vCPUs.
    #[error("{what}")]
    Kvm {
        /// What was attempted.
        what: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// The format has no room.
    #[error("write the state")]
    Format(#[from] FormatError),
}

impl Machine {
    /// Adds everything but memory to `writer`. The machine is paused.
    pub(crate) fn save(&self, writer: &mut StateWriter) -> Result<(), SaveError> {
        let (reply, states) = mpsc::channel();
        for vcpu in &self.vcpus {
            vcpu.save(reply.clone());
        }
        drop(reply);
        let devices = self.save_devices(writer)?;
        let mut saved = 0;
        for (index, state) in states {
            let state = state?;
            if index == 0 {
                writer.add(0, &baseline::fingerprint(&state.cpuid.0))?;
            }
            writer.add(index.into(), &state)?;
            saved += 1;
        }
        if saved != self.vcpus.len() {
            return Err(SaveError::Ended);
        }
        // After the vCPUs: no time that one of them has seen is later.
        writer.add(0, &self.save_platform()?)?;
        let shape = self.frame.shape;
        let machine =
            MachineState { vcpu_count: shape.vcpus.get(), mem_size_mib: shape.memory.mib(), devices };
        Ok(writer.add(0, &machine)?)
    }

    fn save_devices(&self, writer: &mut StateWriter) -> Result<Vec<DeviceKind>, SaveError> {
        if let Some(serial) = &self.fittings.serial {
            writer.add(0, &lock(serial).save())?;
        }
        if let Some(generation) = &self.fittings.generation {
            writer.add(0, &generation.save())?;
        }
        let mut kinds = Vec::with_capacity(self.fittings.attached.len());
        for (slot, device) in (0..).zip(&self.fittings.attached) {
            writer.add(slot, &lock(&device.transport).save())?;
            kinds.push(match &device.kind {
                Kind::Block(block) => {
                    writer.add(slot, &lock(block).save())?;
                    DeviceKind::Block
                }
                Kind::Vsock(vsock) => {
                    writer.add(slot, &lock(vsock).save())?;
                    DeviceKind::Vsock
                }
                Kind::Net(net) => {
                    writer.add(slot, &lock(net).save())?;
                    DeviceKind::Net
                }
                Kind::Entropy => DeviceKind::Entropy,
            });
        }
        Ok(kinds)
    }

    fn save_platform(&self) -> Result<PlatformState, SaveError> {
        let failed = |what| move |source| SaveError::Kvm { what, source };
        let mut irqchips = IRQCHIPS.map(|chip_id| Raw(kvm_irqchip { chip_id, ..Default::default() }));
        for Raw(chip) in &mut irqchips {
            self.frame.vm.get_irqchip(chip).map_err(failed("read an interrupt controller"))?;
        }
        let clock = self.frame.vm.get_clock().map_err(failed("read the clock"))?;
        Ok(PlatformState { irqchips: Irqchips(irqchips), clock_ns: clock.clock })
    }

    /// Guest memory, and which of its pages may still be where this machine was loaded from.
    pub(crate) fn memory(&self) -> (&Memory, Option<&PageIndex>) {
        (&self.frame.memory, self.pager.as_ref().and_then(Pager::index))
    }

    /// The snapshot that changes are tracked since, if they are.
    pub(crate) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Pages written since the base. They are told once: whatever comes of them, nothing is a base any more until
    /// [`Machine::track`] says so.
    pub(crate) fn take_changes(&mut self) -> Result<WrittenPages, MemoryError> {
        self.base = None;
        memory::take_dirty(&self.frame.vm, &self.frame.memory)
    }

    /// From now on changes since `base`, which memory is as of this moment, are tracked; or none at all. None when this
    /// fails. The machine is paused.
    pub(crate) fn track(&mut self, base: Option<Base>) -> Result<(), MemoryError> {
        self.base = None;
        let tracking = Tracking::since(base.as_ref());
        if tracking != self.tracking {
            memory::register(&self.frame.vm, &self.frame.memory, tracking)?;
            self.tracking = tracking;
        } else if tracking == Tracking::On {
            // What was written before is part of the base.
            memory::take_dirty(&self.frame.vm, &self.frame.memory)?;
        }
        self.base = base;
        Ok(())
    }
}
