//! What is mounted where, as tables: guest-init's own surroundings and the function's view.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use guest_protocol::{CodeLayout, LAYERS_FOLDER, TASK_FOLDER};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{BootError, drives};

/// Where the function's root is put together, in guest-init's view.
pub const FUNCTION_ROOT: &str = "/function";

/// Where the cgroup hierarchy is, in guest-init's view.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// Where guests say what they are, in the function's view.
pub const SHOWN: &str = "/run/tinderbox";

/// Where a mount comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The kernel itself.
    Kernel,
    /// The drive with this serial.
    Drive(&'static str),
}

/// One mount.
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    source: Source,
    target: &'static str,
    fstype: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const IMAGE: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);

/// What tells how the machine was started.
pub const FIRST: &[Mount] =
    &[Mount { source: Source::Kernel, target: "/proc", fstype: "proc", flags: NOTHING, options: "" }];

/// The rest of guest-init's own surroundings.
pub const MACHINE: &[Mount] = &[
    Mount { source: Source::Kernel, target: "/sys", fstype: "sysfs", flags: NOTHING, options: "" },
    Mount { source: Source::Kernel, target: CGROUPS, fstype: "cgroup2", flags: NOTHING, options: "" },
];

/// The runtime's part of the function's view. `/proc` is missing: the keeper mounts the one of its own namespace. `/sys`
/// stays empty.
const RUNTIME: &[Mount] = &[
    Mount {
        source: Source::Drive("runtime"),
        target: "/function",
        fstype: "erofs",
        flags: IMAGE,
        options: "",
    },
    // Holds the nodes below and nothing more; root-owned, so the function cannot fill it.
    Mount {
        source: Source::Kernel,
        target: "/function/dev",
        fstype: "tmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "mode=755,size=64k",
    },
    // Charged to the function's cgroup; the bound keeps it from taking all of that.
    Mount {
        source: Source::Kernel,
        target: "/function/dev/shm",
        fstype: "tmpfs",
        flags: NOTHING,
        options: "mode=1777,size=64m",
    },
    // What the guest is, and its generation; root-owned.
    Mount {
        source: Source::Kernel,
        target: "/function/run",
        fstype: "tmpfs",
        flags: NOTHING,
        options: "mode=755,size=64k",
    },
];

/// The function's own part, which a guest that was snapshotted without a function gets after the resume: its code, …
const CODE: Mount = Mount {
    source: Source::Drive("code"),
    target: "/function/var/task",
    fstype: "erofs",
    flags: IMAGE,
    options: "",
};

/// … which is in one image with its layers, if it has some, and is mounted where the function sees nothing, …
const CODE_AND_LAYERS: Mount = Mount { target: "/package", ..CODE };

/// … so that these folders of it can be shown, …
const FOLDERS: &[(&str, &str)] = &[(TASK_FOLDER, "/function/var/task"), (LAYERS_FOLDER, "/function/opt")];

/// … and its `/tmp`. Programs in it run, as on Lambda. No discard: the agent throws the whole file away.
const SCRATCH: Mount = Mount {
    source: Source::Drive("scratch"),
    target: "/function/tmp",
    fstype: "ext4",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOATIME),
    options: "",
};

/// Files under [`SHOWN`] and what they stand for, in the function's view. One that the image lacks is left out.
const BOUND: &[(&str, &str)] =
    &[("machine-id", "/etc/machine-id"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Where a container image's processes find the name server, in the function's view. The node's own runtimes bring the file.
const RESOLVER: &str = "/etc/resolv.conf";

/// The function's devices: name, major, minor (Documentation/admin-guide/devices.txt). No disk, console or socket.
const NODES: &[(&str, u64, u64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];

/// The function's links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Mounts a table in its order, making directories where there are none.
///
/// # Errors
/// [`BootError`] with the mount that failed.
pub fn mount_all(table: &[Mount]) -> Result<(), BootError> {
    for entry in table {
        let target = Path::new(entry.target);
        make_folder(target).map_err(|error| BootError::Directory(target.into(), error))?;
        let source = match entry.source {
            Source::Kernel => PathBuf::from(entry.fstype),
            Source::Drive(serial) => drives::node(serial)?,
        };
        mount(Some(&source), target, Some(entry.fstype), entry.flags, Some(entry.options))
            .map_err(|error| BootError::Mount(target.into(), error))?;
    }
    Ok(())
}

/// Makes a folder where there is none. A link on the way is refused: the function's root may be a customer's own, whose links lead
/// wherever it likes, and here they would lead out of it.
fn make_folder(target: &Path) -> io::Result<()> {
    let mut folders: Vec<_> = target.ancestors().collect();
    folders.reverse();
    for folder in folders {
        match fs::symlink_metadata(folder) {
            Ok(there) if there.is_dir() => {}
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(folder)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether this is a folder, and no link leads there.
pub(crate) fn is_folder(path: &Path) -> bool {
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|there| there.is_dir());
    path.ancestors().all(is_folder)
}

/// The same of a file.
fn is_file(path: &Path) -> bool {
    path.parent().is_some_and(is_folder) && fs::symlink_metadata(path).is_ok_and(|there| there.is_file())
}

/// Puts the runtime's part of the function's view together at [`FUNCTION_ROOT`], with the folder [`SHOWN`] in it. What
/// is mounted below later appears in namespaces that were made meanwhile.
///
/// # Errors
/// [`BootError`] with the step that failed.
pub fn build_runtime() -> Result<(), BootError> {
    let device = |path: &Path, error| BootError::Device(path.to_owned(), error);
    mount_all(RUNTIME)?;
    share(FUNCTION_ROOT)?;
    let dev = Path::new(FUNCTION_ROOT).join("dev");
    for &(name, major, minor) in NODES {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))
            .map_err(|error| device(&path, error))?;
        // Not by mknod's mode, which the umask cuts.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .map_err(|error| BootError::Directory(path, error))?;
    }
    for &(name, target) in LINKS {
        let path = dev.join(name);
        symlink(target, &path).map_err(|error| BootError::Directory(path, error))?;
    }
    let shown = Path::new(FUNCTION_ROOT).join(SHOWN.trim_start_matches('/'));
    fs::create_dir(&shown).map_err(|error| BootError::Directory(shown, error))
}

/// Puts the files that say what the guest is over the image's own.
///
/// # Errors
/// [`BootError::Mount`].
pub fn bind_identity() -> Result<(), BootError> {
    let root = Path::new(FUNCTION_ROOT);
    let shown = root.join(SHOWN.trim_start_matches('/'));
    for &(name, target) in BOUND {
        let target = root.join(target.trim_start_matches('/'));
        if is_file(&target) {
            bind(&shown.join(name), &target).map_err(|error| BootError::Mount(target, error))?;
        }
    }
    Ok(())
}

/// Shows the content of `file`, or a folder, at `target`; read-only if it is where it comes from.
pub(crate) fn bind(file: &Path, target: &Path) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(Some(file), target, NONE, MsFlags::MS_BIND, NONE)
}

/// Tells a container image's processes the name server.
fn show_resolver() -> Result<(), BootError> {
    let root = Path::new(FUNCTION_ROOT);
    let (shown, target) = (
        root.join(SHOWN.trim_start_matches('/')).join("resolv.conf"),
        root.join(RESOLVER.trim_start_matches('/')),
    );
    if !is_file(&target) {
        return Ok(());
    }
    fs::write(&shown, format!("nameserver {}\n", inner_network::GATEWAY))
        .map_err(|error| BootError::Directory(shown.clone(), error))?;
    bind(&shown, &target).map_err(|error| BootError::Mount(target, error))
}

/// Mounts the function's code, its layers and its `/tmp`.
///
/// # Errors
/// [`BootError`] with the step that failed.
pub fn attach_function(code: CodeLayout) -> Result<(), BootError> {
    match code {
        CodeLayout::Root => show_resolver()?,
        CodeLayout::Alone => mount_all(&[CODE])?,
        CodeLayout::WithLayers => {
            mount_all(&[CODE_AND_LAYERS])?;
            for (folder, target) in FOLDERS {
                let (folder, target) = (Path::new(CODE_AND_LAYERS.target).join(folder), Path::new(target));
                bind(&folder, target).map_err(|error| BootError::Mount(target.into(), error))?;
            }
        }
    }
    mount_all(&[SCRATCH])?;
    // As on Lambda: root's, writable for everyone, sticky; and without what mkfs leaves behind.
    let tmp = Path::new(FUNCTION_ROOT).join("tmp");
    let _ = fs::remove_dir(tmp.join("lost+found"));
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
        .map_err(|error| BootError::Directory(tmp, error))
}

/// Lets mounts below `target` reach the copies of it in other namespaces (mount_namespaces(7)).
fn share(target: &str) -> Result<(), BootError> {
    const NONE: Option<&str> = None;
    mount(NONE, target, NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)
        .map_err(|error| BootError::Mount(target.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_is_followed_to_where_something_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let (root, outside) = (root.path().join("function"), root.path().join("outside"));
        for folder in [&root, &outside] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(outside.join("hosts"), "").unwrap();
        symlink("../outside", root.join("etc")).unwrap();
        symlink(&outside, root.join("run")).unwrap();
        assert!(make_folder(&root.join("run")).is_err());
        assert!(make_folder(&root.join("etc/below")).is_err());
        assert!(!is_folder(&root.join("etc")) && !is_file(&root.join("etc/hosts")));
        make_folder(&root.join("dev/shm")).unwrap();
        assert!(is_folder(&root.join("dev/shm")) && is_file(&outside.join("hosts")));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was made outside");
    }
}
