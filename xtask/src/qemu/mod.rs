//! A QEMU virtual machine: from what it should be to its command line, and the running process. It knows boot media,
//! disks, ports and firmware credentials; what an appliance is, is [`crate::node`]'s business.

pub(crate) mod accel;
mod process;

use accel::{Accelerator, Cores};
use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::{self, File};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

pub(crate) use process::{Lifetime, Process, is_running, put_down, quit};

pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// Debian's UEFI firmware: code, and the variables every machine needs a copy of.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The state disk is found by this serial number (image/: 60-tinderbox-state.rules).
const STATE_SERIAL: &str = "tinderbox-state";
/// Sparse: it costs what is written. Room for scratch disks, code and a journal of a test node.
const STATE_BYTES: u64 = 16 << 30;

/// What the machine starts from.
pub(crate) enum Boot {
    /// QEMU itself loads the kernel: the fastest way.
    Direct { kernel: PathBuf, initrd: PathBuf, command_line: String },
    /// The firmware starts the disk's unified kernel image; the disk is not written to.
    Uefi { disk: PathBuf },
}

/// A TCP port of the machine, reachable at a port of the host's loopback only.
#[derive(Clone, Copy)]
pub(crate) struct Forward {
    /// 0 for any free one.
    pub(crate) host: u16,
    pub(crate) guest: u16,
}

/// Bytes a service of the machine finds in its credentials directory; firmware hands them over, no image holds them.
pub(crate) struct Credential {
    pub(crate) name: &'static str,
    pub(crate) value: Vec<u8>,
}

/// A machine to start.
pub(crate) struct Machine {
    pub(crate) boot: Boot,
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: u32,
    pub(crate) cores: Cores,
    pub(crate) memory_mib: u32,
    /// Made when absent.
    pub(crate) state: PathBuf,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) credentials: Vec<Credential>,
    /// Where the serial line and QEMU's own words go, and the firmware's variables live.
    pub(crate) dir: PathBuf,
}

impl Machine {
    /// What the machine writes to its serial line.
    pub(crate) fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// QEMU's own messages.
    fn qemu_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    /// Where QEMU takes orders.
    pub(crate) fn control_socket(dir: &Path) -> PathBuf {
        dir.join("qmp.sock")
    }

    /// Makes the files the command line names.
    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        for stale in [self.serial_log(), self.qemu_log(), Self::control_socket(&self.dir)] {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", stale.display()));
                }
                _ => {}
            }
        }
        if !self.state.exists() {
            let file =
                File::create_new(&self.state).with_context(|| format!("create {}", self.state.display()))?;
            file.set_len(STATE_BYTES).with_context(|| format!("size {}", self.state.display()))?;
        }
        if matches!(self.boot, Boot::Uefi { .. }) {
            // A fresh copy: what one boot wrote must not change the next.
            fs::copy(OVMF_VARS, self.vars()).with_context(|| format!("copy {OVMF_VARS}"))?;
        }
        Ok(())
    }

    fn vars(&self) -> PathBuf {
        self.dir.join("uefi-vars.fd")
    }

    /// QEMU's arguments. The serial line is the socket that is QEMU's standard input; the network is at the descriptor
    /// `uplink`.
    fn args(&self, uplink: RawFd) -> Vec<String> {
        let mut args =
            vec!["-M".to_owned(), "q35,graphics=off".into(), "-m".into(), self.memory_mib.to_string()];
        args.extend(self.accelerator.args(self.cpus, self.cores));
        args.extend(["-nodefaults", "-display", "none", "-no-reboot"].map(str::to_owned));
        args.extend(self.boot_args());
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        option(
            "-chardev",
            format!("socket,id=serial,fd=0,logfile={},logappend=off", path(&self.serial_log())),
        );
        option("-serial", "chardev:serial".into());
        option("-qmp", format!("unix:{},server=on,wait=off", path(&Self::control_socket(&self.dir))));
        option("-netdev", format!("stream,id=uplink,server=off,addr.type=fd,addr.str={uplink}"));
        option("-device", "virtio-net-pci,netdev=uplink,romfile=".into());
        option("-drive", format!("if=none,id=state,format=raw,discard=unmap,file={}", path(&self.state)));
        option("-device", format!("virtio-blk-pci,drive=state,serial={STATE_SERIAL}"));
        option("-object", "rng-random,id=entropy,filename=/dev/urandom".into());
        option("-device", "virtio-rng-pci,rng=entropy".into());
        for credential in &self.credentials {
            let value = STANDARD.encode(&credential.value);
            option(
                "-smbios",
                format!("type=11,value=io.systemd.credential.binary:{}={value}", credential.name),
            );
        }
        args
    }

    fn boot_args(&self) -> Vec<String> {
        match &self.boot {
            Boot::Direct { kernel, initrd, command_line } => {
                let (kernel, initrd) = (kernel.display().to_string(), initrd.display().to_string());
                ["-kernel", &kernel, "-initrd", &initrd, "-append", command_line].map(str::to_owned).into()
            }
            Boot::Uefi { disk } => {
                let code = format!("if=pflash,format=raw,readonly=on,file={OVMF_CODE}");
                let vars = format!("if=pflash,format=raw,file={}", path(&self.vars()));
                let disk = format!("if=none,id=os,format=raw,readonly=on,file={}", path(disk));
                [
                    "-drive",
                    &code,
                    "-drive",
                    &vars,
                    "-drive",
                    &disk,
                    "-device",
                    "virtio-blk-pci,drive=os,bootindex=1",
                ]
                .map(str::to_owned)
                .into()
            }
        }
    }
}

/// A path inside a QEMU option, where a comma is written twice.
fn path(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            boot: Boot::Direct { kernel: "/k".into(), initrd: "/i".into(), command_line: "quiet".into() },
            accelerator: Accelerator::Emulated,
            cpus: 2,
            cores: Cores::Whole,
            memory_mib: 4096,
            state: "/s,t".into(),
            forwards: vec![Forward { host: 9000, guest: 9000 }],
            credentials: vec![Credential { name: "tinderbox.agent", value: b"a = 1\n".to_vec() }],
            dir: "/d".into(),
        }
    }

    #[test]
    fn the_network_is_the_relays_and_no_other() {
        let args = machine().args(7).join(" ");
        assert!(args.contains("-netdev stream,id=uplink,server=off,addr.type=fd,addr.str=7 "), "{args}");
        assert_eq!(args.matches("-netdev").count(), 1, "{args}");
    }

    #[test]
    fn credentials_are_encoded_and_commas_in_paths_are_doubled() {
        let args = machine().args(7).join(" ");
        assert!(
            args.contains("type=11,value=io.systemd.credential.binary:tinderbox.agent=YSA9IDEK"),
            "{args}"
        );
        assert!(args.contains("file=/s,,t"), "{args}");
    }
}
