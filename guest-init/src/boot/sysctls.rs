//! Kernel settings, as a table.

use std::fs;
use std::io;
use std::path::Path;

use super::BootError;

/// Path below `/proc/sys`, value. A file that does not exist belongs to a feature that this kernel lacks, which is
/// as good as its being closed.
const TABLE: &[(&str, &str)] = &[
    // Links and files of other users in sticky directories are not followed and not opened.
    ("fs/protected_fifos", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_regular", "2"),
    ("fs/protected_symlinks", "1"),
    // Kernel log and addresses are nothing for the function.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    // Interfaces of the kernel that no function on Lambda has.
    ("kernel/io_uring_disabled", "2"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/sysrq", "0"),
    ("kernel/unprivileged_bpf_disabled", "2"),
    // A user namespace would give its maker capabilities over new mounts and sockets.
    ("user/max_user_namespaces", "0"),
];

/// What `gethostname` says; the image's `/etc/hosts` knows the name.
pub const HOSTNAME: &str = "localhost";

/// Applies the table.
///
/// # Errors
/// [`BootError::Sysctl`] with the setting that was refused.
pub fn apply() -> Result<(), BootError> {
    for &(name, value) in TABLE {
        match fs::write(Path::new("/proc/sys").join(name), value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BootError::Sysctl(name, error));
            }
            _ => {}
        }
    }
    nix::unistd::sethostname(HOSTNAME).map_err(|errno| BootError::Sysctl("kernel/hostname", errno.into()))
}
