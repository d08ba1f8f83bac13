//! The disks that sandboxes read and write, and what one of them may take of each: without a bound, who writes all the time has
//! everybody else wait for the disk's queue.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jail::Setting;
use nix::sys::stat::{major, minor};

/// Where the kernel says what a block device is.
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// Major number of file systems that have no disk of their own: what a node that came by network has its programs in.
const NO_DISK: u64 = 0;

/// What one sandbox may take of each disk, and the same again in the other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskShare {
    /// MiB a second.
    pub(crate) mib_per_s: u32,
    /// Operations a second.
    pub(crate) ops_per_s: u32,
}

/// A directory whose disk cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("find the disk of {directory}")]
pub(crate) struct DiskError {
    directory: PathBuf,
    source: io::Error,
}

/// The bound on each disk that the directories are on, as control groups take it.
pub(crate) fn settings(directories: &[PathBuf], share: DiskShare) -> Result<Vec<Setting>, DiskError> {
    let mut disks = BTreeSet::new();
    for directory in directories {
        let failed = |source| DiskError { directory: directory.clone(), source };
        disks.extend(disk(directory, BLOCK_DEVICES.as_ref()).map_err(failed)?);
    }
    Ok(disks.iter().map(|disk| setting(disk, share)).collect())
}

fn setting(disk: &str, DiskShare { mib_per_s, ops_per_s }: DiskShare) -> Setting {
    let bytes = u64::from(mib_per_s) << 20;
    Setting {
        controller: "io",
        file: "io.max",
        value: format!("{disk} rbps={bytes} wbps={bytes} riops={ops_per_s} wiops={ops_per_s}"),
        reason: "leaves the disk to others",
    }
}

/// `MAJOR:MINOR` of the disk that a directory is on, if it is on one. The kernel counts whole disks, not their partitions.
fn disk(directory: &Path, devices: &Path) -> io::Result<Option<String>> {
    let device = fs::metadata(directory)?.st_dev();
    if major(device) == NO_DISK {
        return Ok(None);
    }
    let name = format!("{}:{}", major(device), minor(device));
    let known = devices.join(&name);
    if !known.join("partition").exists() {
        return Ok(Some(name));
    }
    // What lies above a partition, once the link has been followed, is its disk.
    Ok(Some(fs::read_to_string(known.join("../dev"))?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SHARE: DiskShare = DiskShare { mib_per_s: 3, ops_per_s: 70 };

    /// A kernel's view in which the device that `directory` is on is `known`.
    fn devices(directory: &Path, known: &Path) -> PathBuf {
        let device = fs::metadata(directory).unwrap().st_dev();
        let devices = directory.join("block");
        fs::create_dir(&devices).unwrap();
        symlink(known, devices.join(format!("{}:{}", major(device), minor(device)))).unwrap();
        devices
    }

    #[test]
    fn a_partition_counts_as_the_disk_that_it_is_on() {
        let directory = tempfile::tempdir().unwrap();
        let partition = directory.path().join("sda/sda1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(directory.path().join("sda/dev"), "8:0\n").unwrap();
        let devices = devices(directory.path(), &partition);
        let device = fs::metadata(directory.path()).unwrap().st_dev();
        let expected = |name: &str| (major(device) != NO_DISK).then(|| name.to_owned());
        let own = format!("{}:{}", major(device), minor(device));
        assert_eq!(disk(directory.path(), &devices).unwrap(), expected(&own));
        fs::write(partition.join("partition"), "1\n").unwrap();
        assert_eq!(disk(directory.path(), &devices).unwrap(), expected("8:0"));
    }

    #[test]
    fn what_is_in_memory_has_no_disk_and_what_is_not_there_is_an_error() {
        assert_eq!(disk("/proc".as_ref(), BLOCK_DEVICES.as_ref()).unwrap(), None);
        assert_eq!(settings(&["/proc".into(), "/sys".into()], SHARE).unwrap(), []);
        assert!(settings(&["/proc".into(), "/is/not/there".into()], SHARE).is_err());
    }

    #[test]
    fn both_directions_are_bounded() {
        let said = setting("259:0", SHARE);
        assert_eq!(said.value, "259:0 rbps=3145728 wbps=3145728 riops=70 wiops=70");
        assert!(said.file.starts_with(said.controller));
    }
}
