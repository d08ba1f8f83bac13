//! The test host: an appliance of the `devtools` profile that `cargo xtask dev` keeps, to run the VMM by hand in.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
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

/// A program that runs on the host until it ends by itself, or sees the end of its input when this is dropped.
pub(crate) struct Running {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &[&str]) -> Self {
        ensure();
        let mut process = xtask()
            .args(["exec", "--"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start xtask dev exec");
        let output = process.stdout.take().expect("standard output is piped");
        Self { process, output: BufReader::new(output).lines() }
    }

    /// Writes a line to its input.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().expect("standard input is piped");
        writeln!(input, "{line}").expect("it reads its input");
    }

    /// Its next line; none when it has ended, which must have been well.
    pub(crate) fn line(&mut self) -> Option<String> {
        if let Some(line) = self.output.next() {
            return Some(line.expect("a line of text"));
        }
        let status = self.process.wait().expect("wait for xtask dev exec");
        assert!(status.success(), "{status}; its error is above");
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

/// Where the host's agent serves.
pub(crate) fn endpoint() -> String {
    let status = dev(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout);
    let endpoint = status.split_once("test host: ").and_then(|(_, rest)| rest.split_once(','));
    endpoint.unwrap_or_else(|| panic!("no endpoint in {status:?}")).0.to_owned()
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

/// The initrd whose guest-init leaves the function root in its guest, on the host.
pub(crate) fn rooted_initrd() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_ROOTED_INITRD", "rooted.cpio")).clone()
}

/// `tests/vm-driver`, on the host.
pub(crate) fn vm_driver() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_VM_DRIVER", "vm-driver")).clone()
}

/// `tests/step-killer`, on the host.
pub(crate) fn step_killer() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_STEP_KILLER", "step-killer")).clone()
}

/// `tests/jail-probe`, on the host.
pub(crate) fn jail_probe() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_JAIL_PROBE", "jail-probe")).clone()
}

/// The `vmm` that turns hostile when its guest says so, on the host.
pub(crate) fn hostile_vmm() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_HOSTILE_VMM", "hostile-vmm")).clone()
}

/// The integration tests of `vmm`, `launcher` or `gateway`, on the host, with the program that they start where they look for it.
pub(crate) fn tests_of(package: &str) -> String {
    let name = package.to_uppercase();
    let program = setting(&format!("TINDERBOX_TESTED_{name}"));
    let folder = program.parent().and_then(Path::to_str).expect("a folder in UTF-8");
    let made = run(&["mkdir", "-p", folder]);
    assert_eq!(made.code, 0, "{made:?}");
    push(&program, program.to_str().expect("a path in UTF-8"));
    pushed(&format!("TINDERBOX_{name}_TESTS"), &format!("{package}-tests"))
}

/// `tests/registry`, on the host.
pub(crate) fn registry() -> String {
    static PUSHED: OnceLock<String> = OnceLock::new();
    PUSHED.get_or_init(|| pushed("TINDERBOX_REGISTRY", "registry")).clone()
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
    xtask().args(arguments).output().expect("start xtask dev")
}

fn xtask() -> Command {
    let mut xtask = Command::new(setting("TINDERBOX_XTASK"));
    xtask.arg("dev");
    xtask
}
