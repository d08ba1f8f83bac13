//! A `vmm` and its guest in one process, without KVM: this test binary, started again by a two-line script that stands
//! where the node's `vmm` would. Speaks vmm-api and guest-protocol, and misbehaves as it is told.

#![expect(unsafe_code, reason = "a descriptor that arrives by number")]

use std::{
    cell::Cell,
    env,
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use guest_protocol::{CONTROL_PORT, FrameReader};
use vmm_api::{
    Exit, Identity, LoadConfig, LoadReport, LoadTimings, MAX_PACKET_LEN, MachineConfig, Refusal, Request,
    Response, Source, VsockConnect, WorkingSet,
};

mod files;
mod guest;

use guest::Guest;

const FD: &str = "FAKE_VMM_FD";
const DIR: &str = "FAKE_VMM_DIR";
/// Name of the file that says how a fake behaves which starts now.
const MODE: &str = "mode";
/// Which pages the last clone had from the start.
pub(super) const FETCHED_FIRST: &str = "fetched-first";
/// Whether this clone has said what it had to wait for, if it was to.
static TOLD: AtomicBool = AtomicBool::new(true);
/// Pages that every clone says it had to wait for.
const FAULTED: [u32; 3] = [7, 0, 3];

/// Name of the file that says why a fake with extensions was told to end.
pub(super) const FAREWELL: &str = "farewell";

/// Where descriptors are.
const BROKER: usize = 1;
const SERIAL: usize = 2;

/// Name of the pipe that a held event waits for, and a fake that pauses.
pub(super) const GATE: &str = "gate";

/// Pieces of a response that is streamed: more bytes than one that is whole may have.
pub(super) const STREAMED: usize = 64;

/// Name of the pipe that a fake which stands still writes its process id to.
pub(super) const STOPPED: &str = "stopped";

/// How a sandbox came to be: what it answers when it is asked.
const BOOTED: &str = "booted";
const CLONED: &str = "cloned";
const RUNTIME: &str = "runtime";

/// Puts the fake where a node looks for its `vmm`.
pub(super) fn install(program: &Path, dir: &Path) {
    let exe = env::current_exe().unwrap();
    let run = format!(
        "{FD}=\"$2\" {DIR}='{}' exec '{}' --exact invoke::tests::fake::entry --nocapture",
        dir.display(),
        exe.display()
    );
    fs::write(program, format!("#!/bin/sh\n{run}\n")).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Changes how fakes behave that start from now on. No part of their program: another program makes other snapshots.
pub(super) fn behave(mode: &str, dir: &Path) {
    let new = dir.join("new-mode");
    fs::write(&new, mode).unwrap();
    // At once: one may be starting.
    fs::rename(new, dir.join(MODE)).unwrap();
}

/// Where the fake begins; in the test process itself it has nothing to do.
#[test]
fn entry() {
    if let Ok(fd) = env::var(FD) {
        check_descriptors(fd.parse().unwrap());
        // SAFETY: the number was just found among the process's open descriptors, and nothing else here knows it.
        let control = unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) };
        let mode = fs::read_to_string(Path::new(&env::var(DIR).unwrap()).join(MODE)).unwrap();
        Fake { control, mode, way: Cell::new(BOOTED) }.run();
    }
}

/// Nothing may be inherited but the standard streams and the control socket.
fn check_descriptors(control: RawFd) {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    // One is the listing's own.
    let foreign = open.iter().filter(|fd| **fd > 2 && **fd != control).count();
    if foreign != 1 || !open.contains(&control) || env::var_os("HOME").is_some() {
        eprintln!("inherited too much: {open:?}");
        process::exit(1);
    }
}

struct Fake {
    control: OwnedFd,
    mode: String,
    way: Cell<&'static str>,
}

impl Fake {
    fn run(self) {
        match self.request() {
            (Request::Configure(config), fds) => self.boot(&config, fds),
            (Request::Prepare(shape), _) => {
                assert_eq!(shape.vcpu_count, 1);
                if self.is("refuse prepare") {
                    self.refuse("shape.vcpu_count");
                }
                self.answer(&Response::Ok);
                match self.request() {
                    (Request::Load(config), fds) => self.load(&config, fds),
                    (other, _) => panic!("{other:?} after prepare"),
                }
            }
            (Request::Load(config), fds) => self.load(&config, fds),
            (other, _) => panic!("{other:?} came first"),
        }
    }

    fn refuse(&self, field: &str) -> ! {
        let refusal = Refusal { field: Some(field.into()), message: "no such luck".into() };
        self.answer(&Response::Refused(refusal));
        // The agent has had enough of this process.
        self.request();
        process::exit(0);
    }

    fn boot(self, config: &MachineConfig, fds: Vec<OwnedFd>) {
        assert_eq!((fds.len(), config.drives.len(), config.vcpu_count), (11, 3, 1));
        if self.mode == "refuse" {
            self.refuse("drives[0].id");
        }
        self.answer(&Response::Ok);
        assert_eq!(self.request().0, Request::Start);
        self.answer(&Response::Ok);
        File::from(fds[SERIAL].try_clone().unwrap()).write_all(b"guest-init: up\n").unwrap();
        if self.is("die at start") {
            process::exit(3);
        }
        if self.is("crash at start") {
            self.answer(&Response::Exited(Exit::Crashed));
        }
        if self.is("hang at hello") {
            self.request();
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        if self.is("wrong port first") {
            connect(fds[BROKER].as_fd(), 99, &ours);
        }
        connect(fds[BROKER].as_fd(), CONTROL_PORT, &theirs);
        drop(theirs);
        Guest {
            stream: ours,
            frames: FrameReader::default(),
            fake: self,
            drives: config.drives.clone(),
            fds,
            start: None,
            allow_snapshots: config.allow_snapshots,
        }
        .run();
    }

    /// Plays a clone: what it was made from is in its files.
    fn load(self, config: &LoadConfig, fds: Vec<OwnedFd>) {
        let tmp = match &config.drives[2].source {
            Source::Layered(layered) => Some(layered.base),
            _ => None,
        };
        let count = 13 + 3 * [config.prefetch, tmp].iter().flatten().count();
        assert_eq!((fds.len(), config.drives.len(), config.resume), (count, 3, true));
        let Source::Fd(state) = config.state else { panic!("{config:?}") };
        let of_nobody = files::open(&fds[state], &files::read(&fds, &config.memory), &config.key);
        let way = if of_nobody { RUNTIME } else { CLONED };
        // Who is nobody yet has no /tmp of anybody's.
        assert_eq!(tmp.is_some(), way == CLONED);
        check_identity(config.identity.as_ref().unwrap(), way == RUNTIME);
        if self.is("refuse load") {
            self.refuse("state");
        }
        if self.is("die in load") {
            process::exit(6);
        }
        self.way.set(way);
        let loaded = LoadReport {
            identity: Identity::default(),
            timings: LoadTimings::default(),
            prefetched_past_cache: false,
        };
        self.answer(&Response::Loaded(loaded));
        if self.is("hang after load") {
            self.request();
        }
        if self.is("fail after load") {
            self.answer(&Response::Exited(Exit::Failed));
        }
        let pages = config.prefetch.as_ref().map(|grant| files::pages_first(&files::read(&fds, grant)));
        self.tell_working_set(pages.as_deref().unwrap_or_default(), config.learn);
        let (ours, theirs) = UnixStream::pair().unwrap();
        connect(fds[BROKER].as_fd(), CONTROL_PORT, &theirs);
        drop(theirs);
        Guest {
            stream: ours,
            frames: FrameReader::default(),
            fake: self,
            drives: config.drives.clone(),
            fds,
            start: None,
            allow_snapshots: config.allow_snapshots,
        }
        .resume(&config.generation);
    }

    /// Writes down what it has from the start, and says from now on, if it was asked to, what it had to wait for.
    fn tell_working_set(&self, first: &[u32], learn: bool) {
        TOLD.store(!learn, Ordering::Relaxed);
        let list = format!("{first:?}, {}", if learn { "learning" } else { "knowing" });
        fs::write(Path::new(&env::var(DIR).unwrap()).join(FETCHED_FIRST), list).unwrap();
        let (control, mode) = (self.control.try_clone().unwrap(), self.mode.clone());
        let fake = Fake { control, mode, way: Cell::new(self.way.get()) };
        std::thread::spawn(move || {
            while fake.request().0 == Request::WorkingSet {
                assert!(learn);
                TOLD.store(true, Ordering::Relaxed);
                fake.answer(&Response::WorkingSet(WorkingSet {
                    pages: FAULTED.into(),
                    ..WorkingSet::default()
                }));
            }
        });
    }

    /// Leaves a word for the test.
    fn note(&self, name: &str, text: &str) {
        fs::write(Path::new(&env::var(DIR).unwrap()).join(name), text).unwrap();
    }

    /// Whether to misbehave so: always, or the first time only. One that is to stop here says so, and stands still until
    /// it is killed; one that is to pause, until the gate is open, and behaves then.
    fn is(&self, what: &str) -> bool {
        if self.mode.strip_prefix("stop: ") == Some(what) {
            tell_stopped();
            loop {
                std::thread::park();
            }
        }
        if self.mode.strip_prefix("pause: ") == Some(what) {
            tell_stopped();
            wait_for_gate();
            return false;
        }
        if let Some(first) = self.mode.strip_prefix("once: ") {
            let marker = Path::new(&env::var(DIR).unwrap()).join("happened");
            return first == what && File::options().write(true).create_new(true).open(marker).is_ok();
        }
        self.mode == what
    }

    fn request(&self) -> (Request, Vec<OwnedFd>) {
        let mut buffer = vec![0; MAX_PACKET_LEN];
        let (len, fds) = vmm_api::receive(self.control.as_fd(), &mut buffer).unwrap();
        if len == 0 {
            process::exit(0);
        }
        (vmm_api::decode(&buffer[..len]).unwrap(), fds)
    }

    fn answer(&self, response: &Response) {
        vmm_api::send(self.control.as_fd(), &vmm_api::encode(response).unwrap(), &[]).unwrap();
    }
}

fn tell_stopped() {
    let told = Path::new(&env::var(DIR).unwrap()).join(STOPPED);
    let id = process::id().to_le_bytes();
    File::options().write(true).open(told).unwrap().write_all(&id).unwrap();
}

fn wait_for_gate() {
    // Opening a pipe for reading waits for its writer.
    drop(File::open(Path::new(&env::var(DIR).unwrap()).join(GATE)).unwrap());
}

/// A version's snapshot is of its code, a runtime's of a machine that any code may run in.
fn check_identity(identity: &Identity, of_nobody: bool) {
    let last = if of_nobody { "machine" } else { "code" };
    let mut expected = ["baked", "initrd", "kernel", "protocol", "runtime", "vmm", last];
    expected.sort_unstable();
    assert!(identity.0.keys().eq(expected.iter()), "{identity:?}");
}

fn connect(broker: std::os::fd::BorrowedFd<'_>, port: u32, stream: &UnixStream) {
    let head = vmm_api::encode(&VsockConnect { port }).unwrap();
    vmm_api::send(broker, &head, &[stream.as_fd()]).unwrap();
}
