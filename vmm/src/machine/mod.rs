//! A machine: put together from a [`Config`] as a list of `attach_*` steps, then run, paused and resumed.
//!
//! Owned by the I/O thread. vCPU threads share its buses; see the crate's root for who owns what.

mod assembly;
mod devices;
mod error;

use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use ::devices::{Memory, Serial};
use kvm_ioctls::VmFd;
use vmm_api::{DriveAccess, ExitCounts};
use vmm_sys_util::eventfd::EventFd;

use crate::config::Config;
use crate::confine::Filters;
use crate::memory;
use crate::vcpu::{Counters, Report, Vcpu, VcpuError, VcpuHandle};
use assembly::Assembly;
pub(crate) use devices::DeviceSet;
pub(crate) use error::MachineError;

/// A machine whose vCPUs have no threads yet.
pub(crate) struct Built {
    vcpus: Vec<Vcpu>,
    parts: Parts,
}

/// What a machine is made of beside its vCPUs.
struct Parts {
    /// Dropped first: KVM forgets the memory before it is unmapped.
    _vm: VmFd,
    memory: Memory,
    devices: DeviceSet,
    serial: Option<Arc<Mutex<Serial>>>,
    counters: Arc<Counters>,
    reports: Receiver<Report>,
    vcpu_ended: EventFd,
    guest_ended: EventFd,
}

/// A machine that can run.
pub(crate) struct Machine {
    vcpus: Vec<VcpuHandle>,
    parts: Parts,
}

/// Builds what `config` says. Nothing runs yet.
pub(crate) fn build(config: Config) -> Result<Built, MachineError> {
    let Config { vcpus, memory, kernel, initrd, cmdline, drives, vsock, entropy, serial } = config;
    let mut assembly = Assembly::new(memory)?;
    assembly.attach_interrupt_controllers()?;
    assembly.attach_serial(serial)?;
    assembly.attach_reset_port()?;
    assembly.attach_power_ports()?;
    for drive in drives {
        let writable = drive.access == DriveAccess::ReadWrite;
        assembly.attach_block(drive.id, drive.file, writable)?;
    }
    if let Some(vsock) = vsock {
        assembly.attach_vsock(vsock)?;
    }
    if entropy {
        assembly.attach_entropy()?;
    }
    assembly.write_acpi_tables(vcpus)?;
    let entry = assembly.load_kernel(&kernel, initrd.as_ref(), &cmdline)?;
    assembly.create_vcpus(vcpus, entry)
}

impl Built {
    /// Starts the vCPU threads, paused, each under its filter.
    pub(crate) fn spawn_vcpus(self, filters: &Filters) -> Result<Machine, VcpuError> {
        let vcpus =
            self.vcpus.into_iter().map(|vcpu| vcpu.spawn(filters.vcpu.clone())).collect::<Result<_, _>>()?;
        Ok(Machine { vcpus, parts: self.parts })
    }
}

impl Machine {
    /// Lets every vCPU run.
    pub(crate) fn run(&self) {
        self.vcpus.iter().for_each(VcpuHandle::run);
    }

    /// Returns when every vCPU stands still or has ended.
    pub(crate) fn pause(&self) {
        let (standing_still, all) = mpsc::channel();
        for vcpu in &self.vcpus {
            vcpu.pause(standing_still.clone());
        }
        drop(standing_still);
        // Nothing is ever sent: this ends when the last clone is dropped.
        let _ = all.recv();
    }

    /// The virtio devices.
    pub(crate) fn devices(&self) -> &DeviceSet {
        &self.parts.devices
    }

    /// Lets the devices that have something to do work.
    pub(crate) fn dispatch(&mut self) -> std::io::Result<()> {
        self.parts.devices.dispatch()
    }

    pub(crate) fn exits(&self) -> ExitCounts {
        self.parts.counters.read()
    }

    /// Where guest memory is in this process.
    pub(crate) fn memory_ranges(&self) -> Vec<Range<usize>> {
        // Cannot fail for mappings that `build` has asked the same of.
        memory::host_ranges(&self.parts.memory).unwrap_or_default()
    }

    /// Readable when a vCPU has ended; then [`Machine::report`] says why.
    pub(crate) fn vcpu_ended_fd(&self) -> RawFd {
        self.parts.vcpu_ended.as_raw_fd()
    }

    /// Readable when the guest has reset itself or powered off.
    pub(crate) fn guest_ended_fd(&self) -> RawFd {
        self.parts.guest_ended.as_raw_fd()
    }

    /// Writes out the last, unfinished line of the console.
    pub(crate) fn flush_serial(&self) {
        if let Some(serial) = &self.parts.serial {
            serial.lock().unwrap_or_else(PoisonError::into_inner).flush();
        }
    }

    /// Whether the guest has asked for a reset or to be powered off. A guest whose request is not served at once goes on
    /// to a triple fault, its last way to reset: what counts then is that it asked.
    pub(crate) fn end_was_asked(&self) -> bool {
        self.parts.guest_ended.read().is_ok()
    }

    /// Why a vCPU has ended.
    pub(crate) fn report(&self) -> Option<Report> {
        self.parts.reports.try_recv().ok()
    }
}
