//! A launcher that jails nothing: speaks the launcher's protocol and starts what stands where a node has its `vmm`. It says
//! processes' numbers where the real one says which user they have.

#![expect(unsafe_code, reason = "code between fork and exec, and a connection that arrives by number")]

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use jail::launch::{Allotment, Answer, REQUEST_LEN};
use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        signal::Signal,
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

/// Starts one for `program`; where it listens. It ends with this process, and all that it has started with it.
pub(super) fn start(dir: &Path, program: PathBuf) -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("launcher-{}-{number}", std::process::id()));
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    // One thread for all of them: they die with it.
    thread::spawn(move || {
        while let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 has just made the descriptor; nobody else owns it.
            serve(&unsafe { OwnedFd::from_raw_fd(fd) }, &program);
        }
    });
    path
}

/// What stands for a process's `cpu.max`.
pub(super) fn quota_of(program: &Path, slot: u32) -> PathBuf {
    program.with_file_name(format!("quota-{slot}"))
}

/// Until the connection ends, and every process that was started on it.
fn serve(connection: &OwnedFd, program: &Path) {
    let mut children = Vec::new();
    let mut packet = [0; REQUEST_LEN];
    while let Ok((len @ 1.., fds)) = vmm_api::receive(connection.as_fd(), &mut packet) {
        Allotment::from_request(&packet[..len]).unwrap();
        let [control, stderr] = <[OwnedFd; 2]>::try_from(fds).unwrap();
        let child = match run(program, control, stderr) {
            Ok(child) => child,
            Err(error) => {
                let answer = Answer::Failed { text: error.to_string() };
                vmm_api::send(connection.as_fd(), &answer.to_packet(), &[]).unwrap();
                continue;
            }
        };
        let slot = child.id();
        let child = Arc::new(Mutex::new(Some(child)));
        let (end, status) = (end_of(Arc::clone(&child)), status_of(slot, Arc::clone(&child)));
        children.push(child);
        let quota = File::create(quota_of(program, slot)).unwrap();
        let answer = Answer::Started { slot }.to_packet();
        // Whoever asked may be gone.
        let _ = vmm_api::send(connection.as_fd(), &answer, &[end.as_fd(), status.as_fd(), quota.as_fd()]);
    }
    children.iter().for_each(|child| kill(child));
}

fn run(program: &Path, control: OwnedFd, stderr: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(["--control-fd", "0"])
        .env_clear()
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::from(stderr));
    // SAFETY: what runs after the fork are two system calls, which allocate nothing and take no lock.
    unsafe { command.pre_exec(leave_only_streams) };
    command.spawn()
}

fn leave_only_streams() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing and touches no memory.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    Ok(Errno::result(result).map(drop)?)
}

/// Where a byte ends a process, until it is reaped.
fn end_of(child: Arc<Mutex<Option<Child>>>) -> OwnedFd {
    let (mut read, write) = io::pipe().unwrap();
    thread::spawn(move || {
        if let Ok(1) = read.read(&mut [0]) {
            kill(&child);
        }
    });
    write.into()
}

fn kill(child: &Mutex<Option<Child>>) {
    if let Some(child) = child.lock().unwrap().as_mut() {
        child.kill().unwrap();
    }
}

/// Where the wait status of a process is read. It is there before the process is reaped.
fn status_of(pid: u32, child: Arc<Mutex<Option<Child>>>) -> OwnedFd {
    let (read, write) = io::pipe().unwrap();
    thread::spawn(move || {
        let id = Id::Pid(Pid::from_raw(i32::try_from(pid).unwrap()));
        let ended = waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let status = match ended {
            nix::sys::wait::WaitStatus::Exited(_, code) => code << 8,
            nix::sys::wait::WaitStatus::Signaled(_, signal, _) => signal as i32,
            other => panic!("{other:?}"),
        };
        drop(File::from(OwnedFd::from(write)).write_all(&status.to_le_bytes()));
        child.lock().unwrap().take().unwrap().wait().unwrap();
    });
    read.into()
}
