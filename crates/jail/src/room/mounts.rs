//! Mounts without a path: an empty root, and a `/proc` that is nowhere.

#![expect(unsafe_code, reason = "the mount calls that work on descriptors have no wrapper")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};

/// `linux/mount.h`.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOUNT_ATTR_RDONLY: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOUNT_ATTR_NOEXEC: libc::c_uint = 8;

/// Nothing is written, run or a device there.
const CLOSED: libc::c_uint = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// The root, which has nothing in it, is listed by whoever wants to see that.
const EMPTY: &[(&CStr, &CStr)] = &[(c"mode", c"0555"), (c"nr_inodes", c"1")];

/// Processes and nothing of the host.
const PROCESSES: &[(&CStr, &CStr)] = &[(c"subset", c"pid")];

/// Makes an empty directory, to which nobody can write, the root of the calling process's mount namespace, and the only mount
/// in it. What was open stays open.
///
/// # Errors
/// The kernel's: the caller has `CAP_SYS_ADMIN` and a mount namespace of its own.
pub fn enter_empty_root() -> Result<(), Errno> {
    let none = None::<&str>;
    // Nothing that happens here is to be seen elsewhere.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = mount_of(c"tmpfs", EMPTY)?;
    move_to_root(&root)?;
    fchdir(&root)?;
    // The old root lands on the new one, and is taken off it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// The directory of the calling process, in a `/proc` of its process namespace.
pub(super) fn own_process() -> Result<OwnedFd, Errno> {
    let processes = mount_of(c"proc", PROCESSES)?;
    openat(&processes, "self", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A mount of a new file system, attached nowhere.
fn mount_of(kind: &CStr, options: &[(&CStr, &CStr)]) -> Result<OwnedFd, Errno> {
    // SAFETY: the call reads a string that ends with NUL, and takes flags by value.
    let context = own(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    for (key, value) in options {
        let (key, value) = (key.as_ptr(), value.as_ptr());
        // SAFETY: the descriptor is open; the call reads two strings that end with NUL.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_SET_STRING, key, value, 0)
        };
        Errno::result(result)?;
    }
    let (key, value) = (std::ptr::null::<libc::c_char>(), std::ptr::null::<libc::c_char>());
    // SAFETY: the descriptor is open; FSCONFIG_CMD_CREATE takes no key and no value.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, key, value, 0) };
    Errno::result(result)?;
    // SAFETY: the descriptor is open; the rest are flags by value.
    own(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, CLOSED) })
}

fn move_to_root(mounted: impl AsFd) -> Result<(), Errno> {
    let from = mounted.as_fd().as_raw_fd();
    // SAFETY: both paths end with NUL and the descriptor is open; the flag says that the first path is the descriptor itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

fn own(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as libc::c_int;
    // SAFETY: the call that gave this number has just made the descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
