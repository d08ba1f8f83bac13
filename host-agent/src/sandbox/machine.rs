//! What a function's configuration means for its microVM: memory, vCPUs, drives, kernel command line. Pure.

use std::{num::NonZeroU32, os::fd::OwnedFd};

use jail::{CpuQuota, launch::Allotment};
use vmm_api::{
    DriveAccess, DriveConfig, Grant, Identity, Key, Layered, LoadConfig, MachineConfig, SerialConfig, Shape,
    SnapshotConfig, SnapshotKind, Source, VsockConfig,
};

use crate::chunks::Handed;

/// Guest memory beyond the function's own: kernel text and data, page tables, guest-init, the initrd in memory. The
/// function's cgroup is limited to the function's memory, so this part is the platform's alone.
pub(crate) const PLATFORM_MEMORY_MIB: u32 = 64;

/// Memory of a `vmm` process beyond its guest's: the product's bound is 4 MiB private, plus page tables of the host.
pub(crate) const VMM_MEMORY_MIB: u64 = 8;

/// What the kernel may need for a machine beyond that, within its control group's bound: tables of pages, sockets, pages of files
/// that are being written. No sandbox is counted by it: it bounds a `vmm` that was taken over, and must not end one that was not.
const KERNEL_MEMORY_MIB: u32 = 64;

/// … and for each so many MiB of the guest's one more: tables of pages grow with it.
const KERNEL_PART: u32 = 64;

/// Part of the processors of a function with one vCPU's memory, as cgroups count it. Others have theirs by their memory.
const FULL_WEIGHT: u32 = 100;

/// What serving a guest takes at most, beside its vCPUs: the I/O thread and the pager have work for one processor together.
const SERVICE_CPU_PERCENT: u32 = 100;

/// Lambda gives one vCPU for every 1,769 MB of memory …
pub(crate) const MEMORY_PER_VCPU_MIB: u32 = 1769;

/// … up to six, which 10,240 MB reach.
const MAX_VCPUS: u32 = 6;

/// The guest's vsock address: the first that is not reserved. Each microVM has its own space, so all use the same.
const GUEST_CID: u32 = 3;

/// Kernel command line of every sandbox. A serial line costs a VM exit a byte: only warnings and worse are printed.
/// A panic resets at once (`panic=-1`) through the keyboard controller (`reboot=k`): the VMM reports that as a reset,
/// and a triple fault as the crash that it is. The CPU's own generator is credited (without it the first reader of
/// random bytes waits for timer jitter, most of a boot's time); the host's entropy device and `Start` are mixed in.
const CMDLINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=k";

/// Positions of the descriptors that accompany every sandbox's `Configure` and `Load`.
const SCRATCH: usize = 0;
const BROKER: usize = 1;
const SERIAL: usize = 2;
const RUNTIME: usize = 3;
const CODE: usize = RUNTIME + GRANT;

/// Behind these, with `Configure`.
const KERNEL: usize = CODE + GRANT;
const INITRD: usize = KERNEL + 1;

/// Behind the common ones, with `Load`.
const STATE: usize = CODE + GRANT;
const MEMORY: usize = STATE + 1;
/// What not every clone has: `Extras`.
const EXTRAS: usize = MEMORY + GRANT;

/// Positions of the descriptors that accompany `Snapshot`.
const SAVED_STATE: usize = 0;
const SAVED_MEMORY: usize = 1;

/// Drives that are read by chunks.
pub(crate) const RUNTIME_DRIVE: &str = "runtime";
/// See [`RUNTIME_DRIVE`].
pub(crate) const CODE_DRIVE: &str = "code";
/// /tmp: a file, or what a snapshot's was with a file over it.
pub(crate) const SCRATCH_DRIVE: &str = "scratch";

/// Descriptors of a content.
const GRANT: usize = 3;

/// What every sandbox has.
#[derive(Debug)]
pub(crate) struct Connections {
    /// /tmp, or what is written of it.
    pub(crate) scratch: OwnedFd,
    /// Hands over vsock connections.
    pub(crate) broker: OwnedFd,
    /// Write end of the console's pipe.
    pub(crate) serial: OwnedFd,
    /// Root file system of the runtime.
    pub(crate) runtime: Handed,
    /// /var/task.
    pub(crate) code: Handed,
}

impl Connections {
    fn into_fds(self) -> Vec<OwnedFd> {
        let Self { scratch, broker, serial, runtime, code } = self;
        [scratch, broker, serial].into_iter().chain(runtime.0).chain(code.0).collect()
    }

    /// All descriptors of a machine that is booted.
    pub(crate) fn and_kernel(self, kernel: OwnedFd, initrd: OwnedFd) -> Vec<OwnedFd> {
        let mut fds = self.into_fds();
        fds.extend([kernel, initrd]);
        fds
    }

    /// All descriptors of a clone.
    pub(crate) fn and_snapshot(
        self,
        state: OwnedFd,
        memory: Handed,
        Extras { prefetch, tmp }: Extras<Handed>,
    ) -> Vec<OwnedFd> {
        let mut fds = self.into_fds();
        fds.push(state);
        fds.extend(memory.0);
        fds.extend([prefetch, tmp].into_iter().flatten().flat_map(|extra| extra.0));
        fds
    }
}

/// Contents that not every clone has, in this order where there are any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras<T> {
    /// Pages that are wanted first.
    pub(crate) prefetch: Option<T>,
    /// What /tmp was when the snapshot was taken.
    pub(crate) tmp: Option<T>,
}

impl<T> Extras<T> {
    /// Where their descriptors are.
    pub(crate) fn places(&self) -> Extras<Grant> {
        let prefetch = self.prefetch.as_ref().map(|_| grant(EXTRAS));
        let behind = EXTRAS + prefetch.map_or(0, |_| GRANT);
        Extras { prefetch, tmp: self.tmp.as_ref().map(|_| grant(behind)) }
    }
}

/// Memory that a sandbox takes from the node, MiB: what the pool counts.
pub(crate) fn charge_mib(function_memory_mib: u32) -> u64 {
    u64::from(function_memory_mib) + u64::from(PLATFORM_MEMORY_MIB) + VMM_MEMORY_MIB
}

/// Memory of the largest function for which [`charge_mib`] is within `room_mib`.
pub(crate) fn largest_function_mib(room_mib: u64) -> u64 {
    room_mib.saturating_sub(charge_mib(0))
}

/// The machine of a function with that much memory.
pub(crate) fn config(function_memory_mib: u32) -> MachineConfig {
    let Shape { vcpu_count, mem_size_mib } = shape(function_memory_mib);
    MachineConfig {
        vcpu_count,
        mem_size_mib,
        kernel: Source::Fd(KERNEL),
        initrd: Some(Source::Fd(INITRD)),
        cmdline: CMDLINE.into(),
        drives: drives(Source::Fd(SCRATCH)),
        vsock: Some(vsock()),
        net: None,
        entropy: true,
        serial: SerialConfig::Fd(SERIAL),
        allow_snapshots: false,
    }
}

/// What the machine of a function with that much memory is reserved by.
pub(crate) fn shape(function_memory_mib: u32) -> Shape {
    Shape {
        vcpu_count: vcpus(function_memory_mib),
        mem_size_mib: function_memory_mib.saturating_add(PLATFORM_MEMORY_MIB),
    }
}

/// What the process of such a machine may have of the node.
pub(crate) fn allotment(shape: Shape) -> Allotment {
    let Shape { vcpu_count, mem_size_mib } = shape;
    let function_mib = mem_size_mib.saturating_sub(PLATFORM_MEMORY_MIB);
    let kernel_mib = KERNEL_MEMORY_MIB + mem_size_mib / KERNEL_PART;
    Allotment {
        memory_mib: mem_size_mib.saturating_add(VMM_MEMORY_MIB as u32).saturating_add(kernel_mib),
        cpu_weight: (function_mib * FULL_WEIGHT / MEMORY_PER_VCPU_MIB).max(1),
        cpu_percent: u32::from(vcpu_count) * 100 + SERVICE_CPU_PERCENT,
    }
}

/// What it may have of the processors when it has begun to serve: one for so much memory, never more than at first.
pub(crate) fn serving_quota(function_memory_mib: u32, memory_mib_per_cpu: NonZeroU32) -> CpuQuota {
    let at_first = allotment(shape(function_memory_mib)).cpu_percent;
    CpuQuota::of(function_memory_mib, memory_mib_per_cpu.get()).within(CpuQuota::of(at_first, 100))
}

/// A clone that runs at once: the same devices, connected anew.
pub(crate) fn load(
    key: Key,
    generation: [u8; 16],
    identity: Identity,
    Extras { prefetch, tmp }: Extras<Grant>,
    learn: bool,
) -> LoadConfig {
    let scratch = match tmp {
        Some(base) => Source::Layered(Layered { base, layer: SCRATCH }),
        None => Source::Fd(SCRATCH),
    };
    LoadConfig {
        state: Source::Fd(STATE),
        memory: grant(MEMORY),
        key,
        drives: drives(scratch),
        vsock: Some(vsock()),
        net: None,
        serial: SerialConfig::Fd(SERIAL),
        generation,
        identity: Some(identity),
        prefetch,
        learn,
        track_changes: false,
        resume: true,
        allow_snapshots: false,
    }
}

/// A snapshot of a whole machine, to two files: state and memory.
pub(crate) fn snapshot(key: Key, identity: Identity) -> SnapshotConfig {
    SnapshotConfig {
        state: Source::Fd(SAVED_STATE),
        memory: Source::Fd(SAVED_MEMORY),
        key,
        kind: SnapshotKind::Full,
        identity,
        track_changes: false,
    }
}

fn drives(scratch: Source) -> Vec<DriveConfig> {
    let drive = |id: &str, source, access| DriveConfig { id: id.into(), source, access };
    vec![
        drive(RUNTIME_DRIVE, Source::Chunks(grant(RUNTIME)), DriveAccess::ReadOnly),
        drive(CODE_DRIVE, Source::Chunks(grant(CODE)), DriveAccess::ReadOnly),
        drive(SCRATCH_DRIVE, scratch, DriveAccess::ReadWrite),
    ]
}

fn grant(first: usize) -> Grant {
    Grant { table: first, slots: first + 1, asks: first + 2 }
}

fn vsock() -> VsockConfig {
    VsockConfig { guest_cid: GUEST_CID, broker_fd: BROKER }
}

fn vcpus(function_memory_mib: u32) -> u8 {
    let wanted = function_memory_mib.div_ceil(MEMORY_PER_VCPU_MIB).clamp(1, MAX_VCPUS);
    u8::try_from(wanted).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_follow_memory_as_on_lambda() {
        let check = |memory_mib, expected| assert_eq!(vcpus(memory_mib), expected, "{memory_mib} MiB");
        check(128, 1);
        check(1769, 1);
        check(1770, 2);
        check(3538, 2);
        check(8845, 5);
        check(10_240, 6);
    }

    #[test]
    fn a_machine_has_the_functions_memory_and_the_platforms() {
        let config = config(128);
        assert_eq!(config.mem_size_mib, 128 + PLATFORM_MEMORY_MIB);
        assert!(charge_mib(128) > u64::from(config.mem_size_mib));
        assert_eq!(largest_function_mib(charge_mib(128)), 128);
        let ids: Vec<_> = config.drives.iter().map(|drive| drive.id.as_str()).collect();
        assert_eq!(ids, ["runtime", "code", "scratch"]);
        let serial = SerialConfig::Fd(SERIAL);
        assert_eq!(
            (config.serial, config.kernel, config.initrd),
            (serial, Source::Fd(9), Some(Source::Fd(10)))
        );
    }

    #[test]
    fn an_allotment_has_room_for_the_machine_and_is_one_that_a_launcher_accepts() {
        for memory_mib in [128, 1769, 10_240] {
            let allotment = allotment(shape(memory_mib));
            assert!(u64::from(allotment.memory_mib) > charge_mib(memory_mib));
            assert_eq!(Allotment::from_request(&allotment.to_request()), Ok(allotment));
        }
        assert_eq!(allotment(shape(1769)).cpu_weight, FULL_WEIGHT);
        assert_eq!(allotment(shape(1770)).cpu_percent, 300);
        let serving = |mib, per_cpu| serving_quota(mib, NonZeroU32::new(per_cpu).unwrap()).to_string();
        assert_eq!(serving(128, MEMORY_PER_VCPU_MIB), "7235 100000");
        assert_eq!(serving(1769, MEMORY_PER_VCPU_MIB), "100000 100000");
        assert_eq!(serving(1769, 1), "200000 100000", "not more than its vCPUs and who serves them");
    }

    #[test]
    fn a_clone_has_the_devices_that_its_original_had() {
        let load = |extras: Extras<()>| {
            load(Key::new([1; 32]), [2; 16], Identity::default(), extras.places(), false)
        };
        let with_tmp = load(Extras { prefetch: None, tmp: Some(()) });
        let layered = |base| Source::Layered(Layered { base: grant(base), layer: SCRATCH });
        assert_eq!((&with_tmp.drives[2].source, with_tmp.prefetch), (&layered(13), None));
        let with_both = load(Extras { prefetch: Some(()), tmp: Some(()) });
        assert_eq!((&with_both.drives[2].source, with_both.prefetch), (&layered(16), Some(grant(13))));
        let load = load(Extras { prefetch: Some(()), tmp: None });
        let config = config(2048);
        assert_eq!((config.drives, config.vsock, config.serial), (load.drives, load.vsock, load.serial));
        assert_eq!(
            (config.vcpu_count, config.mem_size_mib),
            (shape(2048).vcpu_count, shape(2048).mem_size_mib)
        );
        assert_eq!((load.state, load.memory, load.prefetch), (Source::Fd(9), grant(10), Some(grant(13))));
    }
}
