//! A `vmm` process with a control socket, its console and its exit code.

#![expect(unsafe_code, reason = "what a process does before it becomes a vmm is done in another one's child")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use jail::{CompiledFilter, enter_empty_root, sandbox_filter};
use nix::fcntl::{AtFlags, FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{dup2, execveat};
use vmm_api::{
    Client, ClientError, Exit, MachineConfig, Metrics, Refusal, Request, Response, SerialConfig, Source,
};

use crate::guest::Guest;

pub(crate) struct Vmm {
    pub(crate) client: Client,
    child: Child,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm");

/// What a launcher does last: the process has an empty root, its files in descriptors, and is under a sandbox's filter before it
/// becomes the program. A program that has libraries to load cannot begin there, as that takes mappings that can be executed, so this
/// is for static builds, as a node's is and as `cargo xtask seccomp` makes, by which each rule of that filter is found to be missed by
/// some test. It takes root.
fn become_sandboxed(command: &mut Command) {
    let open = |path: &str| File::options().read(true).write(true).open(path).expect(path);
    let [kvm, userfaultfd, process] = ["/dev/kvm", "/dev/userfaultfd", "/dev/null"].map(open);
    let number = |file: &File| file.as_raw_fd().to_string();
    let arguments = [
        ("vmm", String::new()),
        ("--control-fd", "0".to_owned()),
        ("--kvm-fd", number(&kvm)),
        ("--userfaultfd-fd", number(&userfaultfd)),
        ("--process-fd", number(&process)),
    ];
    let words = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    let words = words.filter(|word| !word.is_empty()).map(|word| CString::new(word).expect("no zero in it"));
    // A launcher gives a sandbox none; here it says which rule is left out.
    let environment = std::env::vars_os().map(|(name, value)| {
        let pair = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(pair).expect("no zero in it")
    });
    let mut image = Image {
        program: File::open(PROGRAM).expect("open vmm"),
        handed: [kvm, userfaultfd],
        process: process.into(),
        filter: sandbox_filter().compile().expect("compiles"),
        arguments: words.collect(),
        environment: environment.collect(),
    };
    // SAFETY: in the child of a process with many threads, what is done may not wait for any of them. It is system calls. What is
    // allocated in between, words and pointers to them, is the libc's own matter: its fork leaves the child an allocator that nobody
    // holds.
    unsafe { command.pre_exec(move || image.start()) };
}

/// What a process becomes.
struct Image {
    program: File,
    handed: [File; 2],
    /// Another file, in whose place comes what there is not before the process.
    process: OwnedFd,
    filter: CompiledFilter,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// Returns only if it fails.
    fn start(&mut self) -> io::Result<()> {
        let Self { program, handed, process, filter, arguments, environment } = self;
        for file in handed {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        dup2(File::open("/proc/self")?, process)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        enter_empty_root()?;
        filter.apply().map_err(io::Error::other)?;
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
        allow_snapshots: true,
    }
}

impl Vmm {
    pub(crate) fn spawn() -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["--control-fd", "0"]);
        if cfg!(target_feature = "crt-static") {
            become_sandboxed(&mut command);
        }
        Self::of(command)
    }

    /// As another user, in no room. It can build no machine.
    pub(crate) fn spawn_as(user: u32) -> Self {
        // The user has no way to where cargo puts it.
        let program = File::open(PROGRAM).expect("open vmm");
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.args(["--control-fd", "0"]).uid(user).gid(user);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("socketpair");
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
