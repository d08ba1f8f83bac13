//! Finds drives by the serial that the VMM gives them (virtio 1.3 §5.2.6, `VIRTIO_BLK_T_GET_ID`), not by their order.
//!
//! A drive whose file is another one after a resume is taken from its driver before the snapshot and given back after it:
//! the driver then reads its length anew, and no block of the old file can be left in any cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::BootError;

const BLOCK: &str = "/sys/block";

/// Where drives are taken from and given to their driver: files `bind` and `unbind`.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// The device node of a drive, made when there is none: the guest has no devtmpfs and no udev.
///
/// # Errors
/// [`BootError::NoDrive`] when no drive has this serial.
pub fn node(serial: &'static str) -> Result<PathBuf, BootError> {
    let (name, major, minor) =
        find(Path::new(BLOCK), serial).map_err(BootError::Drives)?.ok_or(BootError::NoDrive(serial))?;
    let path = Path::new("/dev").join(name);
    match mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(major, minor)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(path),
        Err(error) => Err(BootError::Device(path, error)),
    }
}

/// Drives without a driver.
#[derive(Debug)]
pub struct Detached {
    devices: Vec<String>,
}

impl Detached {
    /// Takes the drives with these serials, as far as there are such, from their driver.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(serials: &[&str]) -> io::Result<Self> {
        let mut devices = Vec::new();
        for serial in serials {
            let Some((name, ..)) = find(Path::new(BLOCK), serial)? else { continue };
            // The device's own folder, by whose name the driver knows it.
            let device = fs::canonicalize(Path::new(BLOCK).join(name).join("device"))?;
            let device = device.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            fs::write(Path::new(DRIVER).join("unbind"), &device)?;
            devices.push(device);
        }
        Ok(Self { devices })
    }

    /// Gives them back. The drives are there, with the length that they have now, when this returns.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(self) -> io::Result<()> {
        self.devices.iter().try_for_each(|device| fs::write(Path::new(DRIVER).join("bind"), device))
    }
}

/// Name and numbers of the drive with this serial.
fn find(block: &Path, serial: &str) -> std::io::Result<Option<(String, u64, u64)>> {
    for entry in fs::read_dir(block)? {
        let dir = entry?.path();
        // Drives without the attribute are none of ours.
        let Ok(found) = fs::read_to_string(dir.join("serial")) else { continue };
        if found.trim() != serial {
            continue;
        }
        let numbers = fs::read_to_string(dir.join("dev"))?;
        let numbers = numbers
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?)));
        if let (Some((major, minor)), Some(name)) = (numbers, dir.file_name().and_then(|n| n.to_str())) {
            return Ok(Some((name.to_owned(), major, minor)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_found_by_serial_whatever_their_order() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial, dev) in [("vda", "scratch\n", "254:0\n"), ("vdb", "runtime", "254:16\n")] {
            let dir = block.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("serial"), serial).unwrap();
            fs::write(dir.join("dev"), dev).unwrap();
        }
        fs::create_dir(block.path().join("ram0")).unwrap();
        let found = |serial| find(block.path(), serial).unwrap();
        assert_eq!(found("runtime"), Some(("vdb".into(), 254, 16)));
        assert_eq!(found("scratch"), Some(("vda".into(), 254, 0)));
        assert_eq!(found("code"), None);
    }
}
