//! What a machine needs of the host's files: `/dev/kvm`, `/dev/userfaultfd`, and what the kernel says of this process. Opened before
//! the jail closes; in a room without any path they have been handed over.

#![expect(unsafe_code, reason = "KVM's wrapper takes a descriptor as a number")]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::Kvm;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

const USERFAULTFD: &str = "/dev/userfaultfd";
const PROCESS: &str = "/proc/self";

/// Where they are.
#[derive(Debug)]
pub enum HostFiles {
    /// In the host's own tree: a process that was started by hand, or by a test.
    Paths,
    /// In descriptors.
    Handed {
        /// `/dev/kvm`.
        kvm: OwnedFd,
        /// `/dev/userfaultfd`.
        userfaultfd: OwnedFd,
        /// The directory of this process in a `/proc`.
        process: OwnedFd,
    },
}

impl HostFiles {
    pub(crate) fn kvm(&self) -> Result<Kvm, kvm_ioctls::Error> {
        match self {
            Self::Paths => Kvm::new(),
            Self::Handed { kvm, .. } => {
                let kvm = kvm
                    .try_clone()
                    .map_err(|error| kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EMFILE)))?;
                // SAFETY: the descriptor was made by the line above and is owned by nobody else. Should it not be /dev/kvm's,
                // its ioctls fail: the API's version is asked for first.
                Ok(unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) })
            }
        }
    }

    /// Not found: a kernel that is older than the device.
    pub(crate) fn userfaultfd(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Paths => File::open(USERFAULTFD).map(OwnedFd::from),
            Self::Handed { userfaultfd, .. } => userfaultfd.try_clone(),
        }
    }

    /// A file that says something of this process.
    pub(crate) fn of_process(&self, name: &str) -> io::Result<File> {
        match self {
            Self::Paths => File::open(format!("{PROCESS}/{name}")),
            Self::Handed { process, .. } => {
                Ok(openat(process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_handed_over_is_what_the_paths_lead_to() {
        let open = |path: &str| OwnedFd::from(File::options().read(true).open(path).expect(path));
        let files = HostFiles::Handed {
            kvm: File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .expect("these tests need /dev/kvm")
                .into(),
            userfaultfd: open(USERFAULTFD),
            process: open(PROCESS),
        };
        let versions = [&files, &HostFiles::Paths].map(|files| files.kvm().expect("KVM").get_api_version());
        assert_eq!(versions[0], versions[1]);
        files.userfaultfd().expect("userfaultfd");
        let mut status = String::new();
        files.of_process("status").expect("status").read_to_string(&mut status).expect("read");
        assert!(status.contains(&format!("Pid:\t{}\n", std::process::id())), "{status}");
    }
}
