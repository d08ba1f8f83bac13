//! The VMClock page (`/dev/vmclock0`): tells by a memory read whether this guest is a clone. Nothing here needs it; the agent
//! does, which takes no clone that does not find its generation there.
#![expect(unsafe_code, reason = "the page is read where it is mapped")]

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Where the kernel says which numbers the device has.
const NUMBERS: &str = "/sys/class/misc/vmclock0/dev";

/// Name of the node, in guest-init's and in the function's `/dev`.
const NODE: &str = "vmclock0";

const PAGE_LEN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Offsets of the fields that are read (Linux, `include/uapi/linux/vmclock-abi.h`).
const SEQUENCE: usize = 0x0c;
const FLAGS: usize = 0x18;
const VM_GENERATION_COUNTER: usize = 0x68;

/// `VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT`.
const COUNTER_PRESENT: u64 = 1 << 8;

/// Attempts to read the page between two changes. The VMM changes it only while no vCPU runs.
const MAX_ATTEMPTS: usize = 100;

/// The mapped page; mapped for guest-init's whole life.
#[derive(Debug)]
pub struct VmClock {
    page: NonNull<u8>,
}

impl VmClock {
    /// Makes the node in `/dev` and in the function's `/dev`, and maps the page. `None` when there is no such device or
    /// the kernel does not let it be mapped.
    #[must_use]
    pub fn open(function_dev: &Path) -> Option<Self> {
        let numbers = fs::read_to_string(NUMBERS).ok()?;
        let (major, minor) = numbers.trim().split_once(':')?;
        let device = makedev(major.parse().ok()?, minor.parse().ok()?);
        for dev in [Path::new("/dev"), function_dev] {
            mknod(&dev.join(NODE), SFlag::S_IFCHR, Mode::from_bits_truncate(0o444), device).ok()?;
        }
        let file = File::open(Path::new("/dev").join(NODE)).ok()?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours, and is never unmapped.
        let page = unsafe { mmap(None, PAGE_LEN, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0) };
        Some(Self { page: page.ok()?.cast() })
    }

    /// `vm_generation_counter`: 0 in a machine that was booted.
    #[must_use]
    pub fn generation_counter(&self) -> Option<u64> {
        (0..MAX_ATTEMPTS).find_map(|_| self.read_once())?
    }

    /// `None` while the page is being changed.
    fn read_once(&self) -> Option<Option<u64>> {
        let before = self.u32_at(SEQUENCE);
        let present = self.u64_at(FLAGS) & COUNTER_PRESENT != 0;
        let counter = self.u64_at(VM_GENERATION_COUNTER);
        let unchanged = before.is_multiple_of(2) && self.u32_at(SEQUENCE) == before;
        unchanged.then(|| present.then_some(counter))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        // SAFETY: the offset is one of the constants above, all within the page.
        let field = unsafe { self.page.add(offset) };
        // SAFETY: the page is mapped readable for as long as this process lives, the field is aligned (the page is, and
        // the offset is a multiple of 4), and whoever else changes it is outside of this machine.
        let field = unsafe { AtomicU32::from_ptr(field.as_ptr().cast()) };
        field.load(Ordering::Acquire)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        // SAFETY: as above.
        let field = unsafe { self.page.add(offset) };
        // SAFETY: as above, with an offset that is a multiple of 8.
        let field = unsafe { AtomicU64::from_ptr(field.as_ptr().cast()) };
        field.load(Ordering::Acquire)
    }
}
