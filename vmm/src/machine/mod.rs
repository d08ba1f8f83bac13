//! A machine: a [`Frame`] that depends on its shape alone, devices plugged into it as a list of `attach_*` steps, vCPU
//! threads. Then run, paused, resumed, saved.
//!
//! Owned by the I/O thread. vCPU threads share its buses; see the crate's root for who owns what.

mod assembly;
mod devices;
mod error;
mod frame;
mod prepared;
mod save;
pub(crate) mod state;

use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, mpsc};

use snapshot::PageIndex;
use vmm_api::{ExitCounts, WorkingSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::chunk_drive::FirstReads;
use crate::config::Config;
use crate::confine::Filters;
use crate::host_files::HostFiles;
use crate::memory::Tracking;
use crate::pager::Pager;
use crate::vcpu::{Report, Vcpu, VcpuError, VcpuHandle};
use crate::{cpu, memory};
use assembly::{Assembly, Fittings};
pub(crate) use devices::{DeviceSet, lock};
pub(crate) use error::MachineError;
use frame::{Crew, FreshMsrs};
pub(crate) use frame::{Frame, Shape, bare_machine};
pub(crate) use prepared::{Connections, Prepared, States};

/// A machine whose vCPUs have no threads yet.
pub(crate) struct Built {
    vcpus: Vec<Vcpu>,
    frame: Frame,
    crew: Crew,
    fittings: Fittings,
}

/// A machine that can run.
pub(crate) struct Machine {
    vcpus: Vec<VcpuHandle>,
    frame: Frame,
    crew: Crew,
    fittings: Fittings,
    /// Of a machine that was loaded: what fills its memory.
    pager: Option<Pager>,
    /// The snapshot that changes are tracked since.
    base: Option<Base>,
    /// What KVM was told.
    tracking: Tracking,
}

/// A snapshot that an incremental one can follow.
pub(crate) struct Base {
    pub(crate) index: Arc<PageIndex>,
}

/// Builds what `config` says. Nothing runs yet.
pub(crate) fn build(files: &HostFiles, config: Config) -> Result<Built, MachineError> {
    let Config { vcpus, memory, kernel, initrd, cmdline, drives, vsock, net, entropy, serial } = config;
    let (frame, cpus) = Frame::new(files, Shape { vcpus, memory }, FreshMsrs::Skip)?;
    let mut assembly = Assembly::new(&frame)?;
    assembly.attach_serial(serial, None)?;
    assembly.attach_reset_port()?;
    assembly.attach_power_ports()?;
    assembly.attach_generation(None)?;
    for drive in drives {
        assembly.attach_block(drive, None)?;
    }
    if let Some(vsock) = vsock {
        assembly.attach_vsock(vsock, None)?;
    }
    if entropy {
        assembly.attach_entropy(None)?;
    }
    assembly.attach_net(net, None)?;
    assembly.write_acpi_tables()?;
    let entry = assembly.load_kernel(&kernel, initrd.as_ref(), &cmdline)?;
    let (buses, fittings) = assembly.finish();
    cpu::write_boot_tables(&frame.memory, entry)?;
    for (index, cpu) in (0..).zip(&cpus) {
        cpu::set_boot_msrs(&cpu.fd, index)?;
        cpu::set_local_interrupts(&cpu.fd, index)?;
        if index == 0 {
            cpu::set_boot_registers(&cpu.fd, index, entry)?;
        }
    }
    let crew = Crew::new()?;
    let vcpus = crew.enlist(&frame, cpus, &buses)?;
    Ok(Built { vcpus, frame, crew, fittings })
}

impl Built {
    /// Starts the vCPU threads, paused, each under its filter.
    pub(crate) fn spawn_vcpus(self, filters: &Filters) -> Result<Machine, VcpuError> {
        let Self { vcpus, frame, crew, fittings } = self;
        Ok(Machine {
            vcpus: spawn(vcpus, filters)?,
            frame,
            crew,
            fittings,
            pager: None,
            base: None,
            tracking: Tracking::Off,
        })
    }
}

fn spawn(vcpus: Vec<Vcpu>, filters: &Filters) -> Result<Vec<VcpuHandle>, VcpuError> {
    vcpus.into_iter().map(|vcpu| vcpu.spawn(filters.vcpu.clone())).collect()
}

fn new_event() -> Result<EventFd, MachineError> {
    EventFd::new(EFD_NONBLOCK).map_err(MachineError::Events)
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
        &self.fittings.devices
    }

    /// Lets the devices that have something to do work.
    pub(crate) fn dispatch(&mut self) -> std::io::Result<()> {
        self.fittings.devices.dispatch()
    }

    /// Pages that somebody had to wait for, and what was read of drives.
    pub(crate) fn working_set(&self) -> WorkingSet {
        let read = |(id, reads): (&String, &FirstReads)| (id.clone(), reads.list());
        WorkingSet {
            pages: self.pager.as_ref().map(Pager::faulted).unwrap_or_default(),
            drives: self.fittings.first_reads.iter().map(read).collect(),
        }
    }

    pub(crate) fn exits(&self) -> ExitCounts {
        self.crew.counters.read()
    }

    /// Where guest memory is in this process.
    pub(crate) fn memory_ranges(&self) -> Vec<Range<usize>> {
        // Cannot fail for mappings that `build` has asked the same of.
        memory::host_ranges(&self.frame.memory).unwrap_or_default()
    }

    /// Readable when a vCPU has ended; then [`Machine::report`] says why.
    pub(crate) fn vcpu_ended_fd(&self) -> RawFd {
        self.crew.vcpu_ended.as_raw_fd()
    }

    /// Writes out the last, unfinished line of the console.
    pub(crate) fn flush_serial(&self) {
        if let Some(serial) = &self.fittings.serial {
            lock(serial).flush();
        }
    }

    /// Whether the guest has asked for a reset or to be powered off. A vCPU other than the one that asked may have gone on:
    /// what counts is that it was asked.
    pub(crate) fn end_was_asked(&self) -> bool {
        self.fittings.end.is_asked()
    }

    /// Why a vCPU has ended.
    pub(crate) fn report(&self) -> Option<Report> {
        self.crew.reports.try_recv().ok()
    }
}
