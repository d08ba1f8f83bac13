//! A registry of one folder, for tests of a booted node, whose network leads nowhere (`tests/it/containers.rs`): plain HTTP on the loopback,
//! GET alone, each file under its path. How a bad one is withstood is tested beside the agent (`host-agent/tests/registry/`).
//!
//! `registry FOLDER HELD_MS`: says `{"port": …}`, then `{"asked": PATH}` for each request, and ends when its standard input does. What is
//! below `/blobs/` is held back for so long: a pull takes some time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: registry FOLDER HELD_MS";
    let folder = PathBuf::from(arguments.next().context(usage)?);
    let held = Duration::from_millis(arguments.next().and_then(|held| held.parse().ok()).context(usage)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    println!("{{\"port\": {}}}", listener.local_addr().context("a port")?.port());
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let folder = folder.clone();
            // A client that is killed is what the test is about.
            std::thread::spawn(move || drop(serve(stream, &folder, held)));
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("wait for the end")?;
    Ok(())
}

fn serve(stream: TcpStream, folder: &Path, held: Duration) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).take(64 * 1024).lines();
    let request = lines.next().context("no request")??;
    while !lines.next().context("no end")??.is_empty() {}
    let path = request.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()).context("no GET")?;
    println!("{{\"asked\": \"/{}\"}}", path.escape_default());
    if path.contains("/blobs/") {
        std::thread::sleep(held);
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let (status, body) = match std::fs::read(folder.join(path)) {
        Ok(body) if plain => ("200 OK", body),
        _ => ("404 Not Found", Vec::new()),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    Ok(stream.write_all(&body)?)
}
