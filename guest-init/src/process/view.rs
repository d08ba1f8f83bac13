//! The function's view of the file system, entered by the keeper: its root becomes everything there is.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::boot::mounts::{SHOWN, bind};

/// The kernel makes it once and never again, so a file of ours stands before it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Makes `root`, a mount point, the root of this process's mount namespace, with the process list of its own PID
/// namespace in `/proc`.
///
/// The initial RAM disk cannot be pivoted away from (Documentation/filesystems/ramfs-rootfs-initramfs.rst), so the
/// new root is moved over it. What is below cannot be reached again without `CAP_SYS_CHROOT` or a descriptor from
/// before, and the function gets neither.
///
/// What guest-init mounts below its own copy of `root` from here on appears in this one, and not the other way round.
pub(super) fn enter(root: &Path) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    chdir(root)?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
    chroot(".")?;
    chdir("/")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE)?;
    bind(&Path::new(SHOWN).join("boot_id"), Path::new(BOOT_ID))
}
