//! The peer by its HTTP API on a Unix socket: the same guest's first life, its snapshot, and clones.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use serde_json::{Value, json};

use crate::{process::Probe, snapshot::remove};

/// How long the peer may take to listen: a hundred times what an emulated machine needs.
const START_TIMEOUT_MS: u16 = 30_000;
/// Longest body of a refusal that is read: they are a sentence.
const MAX_BODY_LEN: u64 = 4096;

/// A process that serves its API; killed and reaped when dropped.
pub(crate) struct Peer {
    /// Its console, and its life.
    pub(crate) probe: Probe,
    api: UnixStream,
    socket: PathBuf,
}

/// The two files of a snapshot.
pub(crate) struct Snapshot {
    state: PathBuf,
    memory: PathBuf,
}

impl Snapshot {
    /// Names for them.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { state: folder.join("peer.state"), memory: folder.join("peer.memory") }
    }

    /// Makes room for new ones.
    pub(crate) fn remove(&self) -> Result<()> {
        remove(&self.state)?;
        remove(&self.memory)
    }
}

impl Peer {
    /// Starts the program and connects to it, as soon as it listens.
    pub(crate) fn spawn(program: &Path, folder: &Path, arguments: &[PathBuf]) -> Result<Self> {
        let socket = folder.join("peer.socket");
        let news = Inotify::init(InitFlags::IN_CLOEXEC).context("watch for the peer's socket")?;
        news.add_watch(folder, AddWatchFlags::IN_CREATE).context("watch for the peer's socket")?;
        let arguments = [&["--api-sock".into(), socket.clone()], arguments].concat();
        let probe = Probe::spawn(program, &arguments)?;
        let api = connect(&socket, &news)?;
        Ok(Self { probe, api, socket })
    }

    /// Pauses the guest and writes all of it.
    pub(crate) fn snapshot(&mut self, files: &Snapshot) -> Result<()> {
        self.call("PATCH", "/vm", &json!({ "state": "Paused" }))?;
        let wanted = json!({
            "snapshot_type": "Full",
            "snapshot_path": files.state,
            "mem_file_path": files.memory,
        });
        self.call("PUT", "/snapshot/create", &wanted)
    }

    /// Becomes a clone; returns when its vCPUs run.
    pub(crate) fn load(&mut self, files: &Snapshot) -> Result<()> {
        let wanted = json!({
            "snapshot_path": files.state,
            "mem_backend": { "backend_type": "File", "backend_path": files.memory },
            "resume_vm": true,
        });
        self.call("PUT", "/snapshot/load", &wanted)
    }

    fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.api.write_all(request.as_bytes()).with_context(|| format!("send {method} {path}"))?;
        let answer = Head::read(&mut BufReader::new(&self.api));
        answer.with_context(|| format!("read the answer to {method} {path}"))?.done()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The next one makes it anew; if it cannot, it says so.
        let _ = fs::remove_file(&self.socket);
    }
}

/// Waits for the socket to be made; between that and its being listened to are two system calls of the peer.
fn connect(socket: &Path, news: &Inotify) -> Result<UnixStream> {
    while !socket.exists() {
        let came = poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], START_TIMEOUT_MS)?;
        ensure!(came == 1, "the peer does not listen");
        news.read_events().context("hear of the peer's socket")?;
    }
    loop {
        match UnixStream::connect(socket) {
            Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => thread::yield_now(),
            connected => return connected.context("connect to the peer"),
        }
    }
}

/// An answer: its status, and what it says.
#[derive(Debug)]
struct Head {
    status: String,
    body: String,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> Result<Self> {
        let mut status = String::new();
        stream.read_line(&mut status)?;
        let mut body_len = 0;
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line)? > 0, "the peer hung up");
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    body_len = value.parse::<u64>().context("a length")?.min(MAX_BODY_LEN);
                }
                _ if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = String::new();
        stream.take(body_len).read_to_string(&mut body)?;
        Ok(Self { status: status.trim_end().to_owned(), body })
    }

    fn done(&self) -> Result<()> {
        ensure!(self.status.starts_with("HTTP/1.1 2"), "{}: {}", self.status, self.body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        let mut done = &b"HTTP/1.1 204 \r\nServer: x\r\n\r\n"[..];
        Head::read(&mut done).unwrap().done().unwrap();
        let mut refused = &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nwhy?rest"[..];
        let message = format!("{:#}", Head::read(&mut refused).unwrap().done().unwrap_err());
        assert!(message.contains("400") && message.ends_with("why?"), "{message}");
        assert!(Head::read(&mut &b"HTTP/1.1 204 \r\n"[..]).is_err());
    }
}
