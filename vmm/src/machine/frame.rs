//! What a machine is before anything is plugged into it: virtual machine, memory, interrupt controllers, vCPUs. It depends
//! on the machine's shape alone, so it can be made before anybody knows which machine it becomes.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use devices::Memory;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::error::{MachineError, kvm_failed};
use super::new_event;
use crate::config::{MemSize, VcpuCount};
use crate::cpu::cpuid::{self, DeadlineTimer, Topology};
use crate::cpu::host::{Host, Tsc, TscScaling};
use crate::cpu::{self, FreshCpu, baseline};
use crate::host_files::HostFiles;
use crate::memory::Tracking;
use crate::vcpu::{Buses, Counters, Report, Reporter, Vcpu};
use crate::{layout, memory};

/// KVM's own numbering of its interface, unchanged since Linux 2.6.22.
const KVM_API_VERSION: i32 = 12;

/// How many vCPUs and how much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) vcpus: VcpuCount,
    pub(crate) memory: MemSize,
}

/// The machine without its devices. The virtual machine is dropped first: KVM forgets the memory before it is unmapped.
pub(crate) struct Frame {
    pub(crate) vm: VmFd,
    pub(crate) memory: Memory,
    pub(crate) shape: Shape,
    /// What this host offers.
    pub(crate) host: Host,
}

/// Whether the values of MSRs before the first instruction are wanted, which a restore compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreshMsrs {
    /// They will be.
    Read,
    /// A machine that boots.
    Skip,
}

/// A vCPU without a thread.
pub(crate) struct Cpu {
    pub(crate) fd: VcpuFd,
    fresh: FreshCpu,
}

impl Frame {
    /// The frame and its vCPUs, which have features and no registers yet.
    pub(crate) fn new(
        files: &HostFiles,
        shape: Shape,
        msrs: FreshMsrs,
    ) -> Result<(Self, Vec<Cpu>), MachineError> {
        let kvm = open_kvm(files)?;
        let vm = kvm.create_vm().map_err(kvm_failed("create a virtual machine"))?;
        let memory = memory::create(shape.memory.bytes())?;
        memory::register(&vm, &memory, Tracking::Off)?;
        create_interrupt_controllers(&vm)?;
        let cpus = create_cpus(&kvm, &vm, shape.vcpus, msrs)?;
        let host = host(&kvm, cpus.first().map(|cpu| &cpu.fresh));
        Ok((Self { vm, memory, shape, host }, cpus))
    }
}

/// What a host offers whose vCPUs are like this one.
fn host(kvm: &Kvm, fresh: Option<&FreshCpu>) -> Host {
    let scaling =
        if kvm.check_extension(Cap::TscControl) { TscScaling::Hardware } else { TscScaling::CatchUp };
    Host {
        fingerprint: baseline::fingerprint(fresh.map_or(&[], |fresh| &fresh.cpuid)),
        tsc: Tsc { khz: fresh.map_or(0, |fresh| fresh.tsc_khz), scaling },
        msrs: fresh.map(|fresh| Arc::clone(&fresh.msrs)).unwrap_or_default(),
    }
}

/// A machine without memory and devices, and its one vCPU, which cannot run.
///
/// # Errors
/// KVM's.
pub(crate) fn bare_machine(files: &HostFiles) -> Result<(VmFd, VcpuFd), MachineError> {
    let vm = open_kvm(files)?.create_vm().map_err(kvm_failed("create a virtual machine"))?;
    create_interrupt_controllers(&vm)?;
    let vcpu = vm.create_vcpu(0).map_err(kvm_failed("create a vCPU"))?;
    Ok((vm, vcpu))
}

fn open_kvm(files: &HostFiles) -> Result<Kvm, MachineError> {
    let kvm = files.kvm().map_err(MachineError::OpenKvm)?;
    if kvm.get_api_version() != KVM_API_VERSION {
        return Err(MachineError::MissingCapability("stable API (version 12)"));
    }
    let needed = [
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    ];
    match needed.into_iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(MachineError::MissingCapability(name)),
        None => Ok(kvm),
    }
}

/// Local APICs, IOAPIC and (unused by a hardware-reduced guest) PICs in the kernel. No PIT: a guest whose APIC timer
/// never stops and has a TSC deadline does not look for one.
fn create_interrupt_controllers(vm: &VmFd) -> Result<(), MachineError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(kvm_failed("place KVM's identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(kvm_failed("place KVM's task state"))?;
    vm.create_irq_chip().map_err(kvm_failed("create the interrupt controllers"))
}

fn create_cpus(kvm: &Kvm, vm: &VmFd, count: VcpuCount, msrs: FreshMsrs) -> Result<Vec<Cpu>, MachineError> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm_failed("read the supported CPUID"))?;
    let timer = if kvm.check_extension(Cap::TscDeadlineTimer) {
        DeadlineTimer::Emulated
    } else {
        DeadlineTimer::Missing
    };
    let msr_indices = cpu::msr_indices(kvm).map_err(kvm_failed("list the MSRs"))?;
    let mut fresh_msrs = None;
    let mut cpus = Vec::with_capacity(count.get().into());
    for index in 0..count.get() {
        let fd = vm.create_vcpu(index.into()).map_err(kvm_failed("create a vCPU"))?;
        let topology = Topology { count: count.get(), index };
        let mut cpuid = cpuid::normalise(supported.as_slice(), topology, timer);
        baseline::limit(&mut cpuid);
        cpu::state::set_cpuid(&fd, index, &cpuid)?;
        if msrs == FreshMsrs::Read && fresh_msrs.is_none() {
            // Those of one vCPU are those of all.
            fresh_msrs = Some(Arc::from(cpu::read_msrs(&fd, index, &msr_indices)?));
        }
        let fresh = FreshCpu {
            cpuid,
            tsc_khz: fd.get_tsc_khz().unwrap_or(0),
            msr_indices: Arc::clone(&msr_indices),
            msrs: fresh_msrs.clone().unwrap_or_default(),
        };
        cpus.push(Cpu { fd, fresh });
    }
    Ok(cpus)
}

/// What the I/O thread hears of its vCPUs.
pub(crate) struct Crew {
    pub(crate) counters: Arc<Counters>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) vcpu_ended: EventFd,
    reporter: Sender<Report>,
}

impl Crew {
    pub(crate) fn new() -> Result<Self, MachineError> {
        let (reporter, reports) = mpsc::channel();
        Ok(Self { counters: Arc::default(), reports, vcpu_ended: new_event()?, reporter })
    }

    /// vCPUs that can be given threads; `buses` answer them.
    pub(crate) fn enlist(
        &self,
        frame: &Frame,
        cpus: Vec<Cpu>,
        buses: &Arc<Buses>,
    ) -> Result<Vec<Vcpu>, MachineError> {
        let enlist = |(index, Cpu { fd, fresh })| {
            let wake = self.vcpu_ended.try_clone().map_err(MachineError::Events)?;
            Ok(Vcpu {
                index,
                fd,
                fresh,
                run_size: frame.vm.run_size(),
                buses: Arc::clone(buses),
                counters: Arc::clone(&self.counters),
                reporter: Reporter { reports: self.reporter.clone(), wake },
            })
        };
        (0..).zip(cpus).map(enlist).collect()
    }
}
