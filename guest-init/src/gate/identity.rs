//! What a guest says it is: small files under `/run/tinderbox`, bound over the places where programs look
//! (`/etc/machine-id`, `/etc/hostname`, `/etc/hosts`, the kernel's `boot_id`), and the kernel's host name.
//!
//! Files are written in place, so that who has one open, or bound, sees the new content. The kernel makes its own
//! `boot_id` once and never again; that is why a file stands before it in the function's view.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest host name (hostname(7)).
const MAX_HOSTNAME_LEN: usize = 63;

/// Longest instance id: a UUID with room to spare.
const MAX_INSTANCE_ID_LEN: usize = 128;

/// Names of the files.
pub(crate) mod file {
    pub(crate) const BOOT_ID: &str = "boot_id";
    pub(crate) const MACHINE_ID: &str = "machine-id";
    pub(crate) const HOSTNAME: &str = "hostname";
    pub(crate) const HOSTS: &str = "hosts";
    pub(crate) const INSTANCE_ID: &str = "instance-id";
    /// All of them.
    pub(crate) const ALL: &[&str] = &[BOOT_ID, MACHINE_ID, HOSTNAME, HOSTS, INSTANCE_ID];
}

/// One part of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// `/proc/sys/kernel/random/boot_id`, as the UUID that these bytes become.
    BootId([u8; 16]),
    /// `/etc/machine-id`.
    MachineId([u8; 16]),
    /// The host name, `/etc/hostname` and its line in `/etc/hosts`.
    Hostname(&'a str),
    /// `/run/tinderbox/instance-id`.
    InstanceId(&'a str),
}

/// Why a part could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a host name.
    #[error("{0:?} is no host name")]
    Hostname(String),
    /// Not an instance id.
    #[error("{0:?} is no instance id")]
    InstanceId(String),
    /// The kernel refused the host name.
    #[error("set the host name")]
    SetHostname(#[source] nix::Error),
    /// The file could not be written.
    #[error("write {}", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// The files, kept open: between a request and its answer there are no paths to be walked.
#[derive(Debug)]
pub struct IdentityFiles {
    dir: PathBuf,
    open: Vec<(&'static str, fs::File)>,
}

impl IdentityFiles {
    /// Makes them, empty.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn create(dir: &Path) -> Result<Self, IdentityError> {
        let create = |name: &'static str| {
            let path = dir.join(name);
            let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&path);
            file.map(|file| (name, file)).map_err(|error| IdentityError::File(path, error))
        };
        let open: Result<_, _> = file::ALL.iter().copied().map(create).collect();
        Ok(Self { dir: dir.to_owned(), open: open? })
    }

    /// Replaces one part; the kernel's host name is the caller's.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn set(&self, part: Identity<'_>) -> Result<(), IdentityError> {
        match part {
            Identity::BootId(bytes) => self.write(file::BOOT_ID, &format!("{}\n", uuid(bytes))),
            Identity::MachineId(bytes) => {
                self.write(file::MACHINE_ID, &format!("{:032x}\n", u128::from_be_bytes(bytes)))
            }
            Identity::Hostname(name) => {
                if !is_hostname(name) {
                    return Err(IdentityError::Hostname(name.to_owned()));
                }
                self.write(file::HOSTNAME, &format!("{name}\n"))?;
                self.write(file::HOSTS, &hosts(name))
            }
            Identity::InstanceId(id) => {
                let plain = id.bytes().all(|byte| byte.is_ascii_graphic());
                if !plain || id.len() > MAX_INSTANCE_ID_LEN {
                    return Err(IdentityError::InstanceId(id.to_owned()));
                }
                self.write(file::INSTANCE_ID, &format!("{id}\n"))
            }
        }
    }

    /// The text of the kernel's own `boot_id`, for a guest that was booted.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn copy_boot_id(&self, from: &Path) -> Result<(), IdentityError> {
        let text = fs::read_to_string(from).map_err(|error| IdentityError::File(from.to_owned(), error))?;
        self.write(file::BOOT_ID, &text)
    }

    fn write(&self, name: &str, content: &str) -> Result<(), IdentityError> {
        let file = self.open.iter().find_map(|(known, file)| (*known == name).then_some(file));
        let written = file.ok_or_else(|| io::ErrorKind::NotFound.into()).and_then(|file| {
            file.write_all_at(content.as_bytes(), 0)?;
            file.set_len(content.len() as u64)
        });
        written.map_err(|error| IdentityError::File(self.dir.join(name), error))
    }
}

/// `/etc/hosts` of a guest of this name, with those by which extensions know it on Lambda.
fn hosts(hostname: &str) -> String {
    format!("127.0.0.1 localhost localhost.localdomain sandbox sandbox.localdomain {hostname}\n")
}

fn is_hostname(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    letters && !name.is_empty() && name.len() <= MAX_HOSTNAME_LEN && !name.starts_with('-')
}

/// Random bytes as a version 4 UUID (RFC 9562 §5.4).
#[must_use]
pub fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default()).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::create(dir.path()).unwrap();
        let open = fs::File::open(dir.path().join("machine-id")).unwrap();
        files.set(Identity::MachineId([0x0a; 16])).unwrap();
        assert_eq!(io::read_to_string(open).unwrap(), "0a".repeat(16) + "\n");
        files.set(Identity::BootId([0xff; 16])).unwrap();
        files.set(Identity::Hostname("tb-1")).unwrap();
        files.set(Identity::InstanceId("i-1")).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("boot_id"), "ffffffff-ffff-4fff-bfff-ffffffffffff\n");
        assert_eq!(read("hostname"), "tb-1\n");
        assert!(read("hosts").ends_with(" sandbox.localdomain tb-1\n"));
        assert_eq!(read("instance-id"), "i-1\n");
        files.set(Identity::InstanceId("another")).unwrap();
        files.set(Identity::InstanceId("i-2")).unwrap();
        assert_eq!(read("instance-id"), "i-2\n", "nothing is left of a longer one");
    }

    #[test]
    fn what_would_be_more_than_a_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = IdentityFiles::create(dir.path()).unwrap();
        for name in ["", "-a", "a b", "a\n127.0.0.1 evil", &"a".repeat(64)] {
            assert!(files.set(Identity::Hostname(name)).is_err(), "{name:?}");
        }
        assert!(files.set(Identity::InstanceId("a\nb")).is_err());
    }
}
