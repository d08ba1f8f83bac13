//! A registry of one folder, for tests of a booted node, whose network leads nowhere (`tests/it/registries.rs`): plain HTTP on the loopback,
//! GET alone, each file under its path. How a bad one is withstood is tested beside the agent (`host-agent/tests/registry/`).
//!
//! `registry FOLDER`: says `{"port": …}`, then `{"asked": PATH}` for each request, and ends when its standard input does. What is below
//! `/blobs/` is held back until `open` was said there, and again from `closed` on: a pull takes as long as a test wants.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

/// Whether blobs are given.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    turned: Condvar,
}

impl Gate {
    fn turn(&self, open: bool) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        self.turned.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.turned.wait_while(open, |open| !*open));
    }
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).context("usage: registry FOLDER")?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    println!("{{\"port\": {}}}", listener.local_addr().context("a port")?.port());
    let gate = Arc::new(Gate::default());
    let of_clients = Arc::clone(&gate);
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let (folder, gate) = (folder.clone(), Arc::clone(&of_clients));
            // A client that is killed is what the test is about.
            std::thread::spawn(move || drop(serve(stream, &folder, &gate)));
        }
    });
    for line in std::io::stdin().lines() {
        gate.turn(line.context("read what is said")? == "open");
    }
    Ok(())
}

fn serve(mut stream: TcpStream, folder: &Path, gate: &Gate) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).take(64 * 1024).lines();
    let request = lines.next().context("no request")??;
    while !lines.next().context("no end")??.is_empty() {}
    let path = request.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()).context("no GET")?;
    println!("{{\"asked\": \"/{}\"}}", path.escape_default());
    if path.contains("/blobs/") {
        gate.pass();
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let (status, body) = match std::fs::read(folder.join(path)) {
        Ok(body) if plain => ("200 OK", body),
        _ => ("404 Not Found", Vec::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    Ok(stream.write_all(&body)?)
}
