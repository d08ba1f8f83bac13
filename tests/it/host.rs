//! The test host: an appliance of the `devtools` profile that `cargo xtask dev` keeps, to run the VMM by hand in.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::failures::depends_on;
use crate::setting;

/// Where the tests put files on the host.
const FOLDER: &str = "/tmp";

/// A program that ran on the host.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The host runs, with the programs that are tested. It stays for the next run when it was there before this one.
fn ensure() {
    depends_on("host");
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        for action in ["up", "swap"] {
            let output = xtask_dev(&[action]);
            assert!(
                output.status.success(),
                "xtask dev {action}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}

/// Runs a program on the host to its end.
pub(crate) fn run(command: &[&str]) -> Finished {
    let output = dev(&[&["exec", "--"], command].concat());
    Finished {
        code: output.status.code().expect("xtask dev exec was killed"),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Writes a file on the host.
pub(crate) fn write(path: &str, bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, bytes).expect("write a temporary file");
    push(file.path(), path);
}

/// Reads a file on the host.
pub(crate) fn read(path: &str) -> Vec<u8> {
    let output = dev(&["exec", "--", "cat", path]);
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// The initrd with `tests/guest-probe`, on the host.
pub(crate) fn probe_initrd() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_PROBE_INITRD", "probe.cpio")).clone()
}

/// The guest kernel as bzImage, on the host.
pub(crate) fn bzimage() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_BZIMAGE", "bzImage")).clone()
}

/// An initrd whose guest-init lets clones go on as they are, on the host.
pub(crate) fn ungated_initrd() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_UNGATED_INITRD", "ungated.cpio")).clone()
}

/// `tests/vm-driver`, on the host.
pub(crate) fn vm_driver() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_VM_DRIVER", "vm-driver")).clone()
}

/// The function of the proof that is in Rust, on the host.
pub(crate) fn unique_rust() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_UNIQUE_RUST", "unique-rust")).clone()
}

fn pushed(variable: &str, name: &str) -> String {
    let path = format!("{FOLDER}/{name}");
    push(&setting(variable), &path);
    path
}

fn push(local: &Path, remote: &str) {
    let local = local.to_str().expect("a path in UTF-8");
    let output = dev(&["push", local, remote]);
    assert!(output.status.success(), "push {local}: {output:?}");
}

fn dev(arguments: &[&str]) -> Output {
    ensure();
    xtask_dev(arguments)
}

fn xtask_dev(arguments: &[&str]) -> Output {
    Command::new(setting("TINDERBOX_XTASK")).arg("dev").args(arguments).output().expect("start xtask dev")
}
