//! A `vmm` process with a control socket, its console and its exit code.

#![expect(unsafe_code, reason = "what a process does before it becomes a vmm is done in another one's child")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use jail::{CompiledFilter, sandbox_filter};
use nix::fcntl::AtFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::execveat;
use vmm_api::{
    Client, ClientError, Exit, MachineConfig, Metrics, Refusal, Request, Response, SerialConfig, Source,
};

use crate::guest::Guest;

pub(crate) struct Vmm {
    pub(crate) client: Client,
    child: Child,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm");
const ARGUMENTS: [&CStr; 2] = [c"--control-fd", c"0"];

/// What a launcher does last: the process is under a sandbox's filter before it becomes the program. A program that has libraries to
/// load cannot begin there, as that takes mappings that can be executed, so this is for static builds, as a node's is and as
/// `cargo xtask seccomp` makes, by which each rule of that filter is found to be missed by some test.
fn become_sandboxed(command: &mut Command) {
    let program = File::open(PROGRAM).expect("open vmm");
    let filter = sandbox_filter().compile().expect("compiles");
    let arguments = [c"vmm"].iter().chain(&ARGUMENTS).map(|word| CString::from(*word)).collect();
    // A launcher gives a sandbox none; here it says which rule is left out.
    let environment = std::env::vars_os().map(|(name, value)| {
        let pair = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(pair).expect("no zero in it")
    });
    let image = Image { program, filter, arguments, environment: environment.collect() };
    // SAFETY: in the child of a process with many threads, what is done may not wait for any of them. The filter and the program's
    // start are system calls. What is allocated in between, pointers to the words, is the libc's own matter: its fork leaves the
    // child an allocator that nobody holds.
    unsafe { command.pre_exec(move || image.start()) };
}

/// What a process becomes.
struct Image {
    program: File,
    filter: CompiledFilter,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// Returns only if it fails.
    fn start(&self) -> io::Result<()> {
        self.filter.apply().map_err(io::Error::other)?;
        let Self { program, filter: _, arguments, environment } = self;
        match execveat(program, c"", arguments, environment, AtFlags::AT_EMPTY_PATH) {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        }
    }
}

/// The machine that most tests want: the kernel is descriptor 0, the console descriptor 1.
pub(crate) fn machine() -> MachineConfig {
    MachineConfig {
        vcpu_count: 1,
        mem_size_mib: 128,
        kernel: Source::Fd(0),
        initrd: None,
        cmdline: String::new(),
        drives: Vec::new(),
        vsock: None,
        net: None,
        entropy: false,
        serial: SerialConfig::Fd(1),
    }
}

impl Vmm {
    pub(crate) fn spawn() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("socketpair");
        let mut command = Command::new(PROGRAM);
        command.args(ARGUMENTS.map(|argument| argument.to_str().expect("text")));
        if cfg!(target_feature = "crt-static") {
            become_sandboxed(&mut command);
        }
        command.stdin(Stdio::from(theirs)).stderr(Stdio::piped());
        Self { client: Client::new(ours), child: command.spawn().expect("spawn vmm") }
    }

    pub(crate) fn call(&self, request: &Request) -> Response {
        self.client.call(request, &[]).expect("an answer")
    }

    /// Fails with the VMM's own words.
    pub(crate) fn configure(&self, config: MachineConfig, fds: &[BorrowedFd<'_>]) {
        let answer = self.client.call(&Request::Configure(config), fds).expect("an answer");
        assert_eq!(answer, Response::Ok, "these tests need a /dev/kvm that they may open");
    }

    pub(crate) fn refusal(&self, config: MachineConfig, fds: &[BorrowedFd<'_>]) -> Refusal {
        match self.client.call(&Request::Configure(config), fds).expect("an answer") {
            Response::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        match self.call(&Request::Metrics) {
            Response::Metrics(metrics) => metrics,
            other => panic!("no metrics: {other:?}"),
        }
    }

    /// Configured with `config` and running `guest`; the console's other end beside it.
    pub(crate) fn run(config: MachineConfig, guest: &Guest, more: &[BorrowedFd<'_>]) -> (Self, PipeReader) {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let (kernel, console): (File, OwnedFd) = (guest.kernel(), writer.into());
        let vmm = Self::spawn();
        let fds = [&[kernel.as_fd(), console.as_fd()], more].concat();
        vmm.configure(config, &fds);
        assert_eq!(vmm.call(&Request::Start), Response::Ok);
        (vmm, reader)
    }

    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut log).expect("log");
        (self.child.wait().expect("exit status"), log)
    }

    /// Ends it, which must be well, and returns its log.
    pub(crate) fn stop(self) -> String {
        assert_eq!(self.call(&Request::Stop), Response::Ok);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}, {log}");
        log
    }

    /// Waits for the guest's end and returns how the VMM told it.
    pub(crate) fn finish(self) -> (Exit, ExitStatus, String) {
        let exit = match self.client.next() {
            Ok(Response::Exited(exit)) => exit,
            other => panic!("the guest did not end: {other:?}; {:?}", self.wait()),
        };
        assert!(matches!(self.client.next(), Err(ClientError::Closed)));
        let (status, log) = self.wait();
        (exit, status, log)
    }

    /// The two ends that tests may close apart.
    pub(crate) fn into_parts(self) -> (Client, Child) {
        (self.client, self.child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Runs `guest` in `config` to its end; its console as bytes.
pub(crate) fn console_of(config: MachineConfig, guest: &Guest, more: &[BorrowedFd<'_>]) -> Vec<u8> {
    let (vmm, mut reader) = Vmm::run(config, guest, more);
    let (exit, status, log) = vmm.finish();
    assert_eq!((exit, status.code()), (Exit::Reset, Some(0)), "{log}");
    let mut console = Vec::new();
    reader.read_to_end(&mut console).expect("console");
    console
}
