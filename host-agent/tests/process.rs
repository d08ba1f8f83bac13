//! Tests of the program as a process: the confined helpers in their real jail, start and end of the daemon.
//!
//! What needs a guest, or mkfs.erofs as the appliance has it, is tested on the booted image (`tests/it`).

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::{
    io::{BufRead as _, BufReader, Cursor, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zip::write::{SimpleFileOptions, ZipWriter};

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Which rule the program leaves out, where it has such a way.
    let left_out = "TINDERBOX_WITHOUT_RULE";
    command.envs(std::env::var(left_out).map(|rule| (left_out, rule)));
    command
}

/// Runs the zip helper on some bytes in `dir`.
fn unzip(bytes: &[u8], dir: &Path) -> Output {
    let zip = dir.join("upload.zip");
    std::fs::write(&zip, bytes).unwrap();
    let zip = std::fs::File::open(zip).unwrap();
    agent().arg("unzip-code").arg("--dir").arg(dir).stdin(zip).output().unwrap()
}

fn zip_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn the_zip_helper_makes_a_tar_inside_its_jail() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![7; 3_000_000];
    let done = unzip(&zip_of("lib/data.bin", &content), dir.path());
    assert!(done.status.success(), "{done:?}");
    let mut tar = tar::Archive::new(std::fs::File::open(dir.path().join("code.tar")).unwrap());
    let mut entries = tar.entries().unwrap();
    assert_eq!(entries.next().unwrap().unwrap().path().unwrap(), Path::new("lib"));
    let mut file = entries.next().unwrap().unwrap();
    assert_eq!(file.path().unwrap(), Path::new("lib/data.bin"));
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert_eq!(read, content);
}

#[test]
fn the_zip_helper_merges_layers_inside_its_jail() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("layer-0.zip", b"1"), ("layer-1.zip", b"2")] {
        std::fs::write(dir.path().join(name), zip_of("lib/l", content)).unwrap();
    }
    let with_layers = |count: &str| {
        let zip = dir.path().join("upload.zip");
        std::fs::write(&zip, zip_of("index.py", b"x")).unwrap();
        let zip = std::fs::File::open(zip).unwrap();
        agent().args(["unzip-code", "--layers", count, "--dir"]).arg(dir.path()).stdin(zip).output().unwrap()
    };
    let done = with_layers("2");
    assert!(done.status.success(), "{done:?}");
    let mut tar = tar::Archive::new(std::fs::File::open(dir.path().join("code.tar")).unwrap());
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let (path, mut content) = (entry.path().unwrap().display().to_string(), String::new());
        entry.read_to_string(&mut content).unwrap();
        (path, content)
    });
    let entries: Vec<_> = entries.collect();
    let expected = [("task", ""), ("task/index.py", "x"), ("opt", ""), ("opt/lib", ""), ("opt/lib/l", "2")];
    assert_eq!(entries, expected.map(|(path, content)| (path.to_owned(), content.to_owned())));
    std::fs::write(dir.path().join("layer-1.zip"), "no zip").unwrap();
    let refused = with_layers("2");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    // One that is not there is the node's fault.
    assert_eq!(with_layers("3").status.code(), Some(1));
}

#[test]
fn the_zip_helper_refuses_by_its_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let empty = ZipWriter::new(Cursor::new(Vec::new())).finish().unwrap().into_inner();
    for (bytes, said) in [(&b"no zip"[..], "Unusable"), (&empty, "\"Empty\"")] {
        let refused = unzip(bytes, dir.path());
        assert_eq!(refused.status.code(), Some(3), "{refused:?}");
        assert!(String::from_utf8(refused.stdout).unwrap().contains(said));
    }
}

#[test]
fn a_bomb_is_stopped_before_it_fills_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut bomb = zip_of("zeros", &vec![0; 3_000_000]);
    let central = bomb.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    // Declares a thousand bytes; holds three million.
    bomb[central + 24..central + 28].copy_from_slice(&1000u32.to_le_bytes());
    let refused = unzip(&bomb, dir.path());
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(std::fs::metadata(dir.path().join("code.tar")).unwrap().len() < 10_000);
}

#[test]
fn the_packing_helper_says_what_has_failed_inside_its_jail() {
    let dir = tempfile::tempdir().unwrap();
    let [tar, image, mkfs] = ["code.tar", "code.erofs", "mkfs"].map(|name| dir.path().join(name));
    let fails = |words: &str| {
        let failed = agent().arg("pack-code").arg("--mkfs").arg(&mkfs).arg("--dir").arg(dir.path()).output();
        let failed = failed.unwrap();
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(said.starts_with("pack-code: ") && said.contains(words), "{said}");
    };
    std::fs::write(&mkfs, "no program").unwrap();
    fails("cannot read the tar");
    std::fs::write(&tar, tar_of(&[("index.py", b"x")])).unwrap();
    fails("cannot run");
    std::fs::write(&image, "").unwrap();
    fails("code.erofs is there already");
}

/// An OCI archive with an image of that layer, which is stored as that.
fn archive_of(layer: &[u8], kind: &str, stored: &[u8]) -> Vec<u8> {
    let digits =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named = |kind: &str, bytes: &[u8]| {
        let (digest, size) = (format!("sha256:{}", digits(bytes)), bytes.len());
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size })
    };
    let diff_id = format!("sha256:{}", digits(layer));
    let rootfs = json!({ "type": "layers", "diff_ids": [diff_id] });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    let layers = [named(&format!("layer.v1.{kind}"), stored)];
    let manifest =
        json!({ "config": named("config.v1+json", config.as_bytes()), "layers": layers }).to_string();
    let index = json!({ "manifests": [named("manifest.v1+json", manifest.as_bytes())] }).to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digits(bytes));
    tar_of(&[
        ("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config.as_bytes()), config.as_bytes()),
        (&blob(stored), stored),
    ])
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_image_helper_flattens_inside_its_jail() {
    let layer = tar_of(&[("app/data", &[7; 3_000_000])]);
    let zstd = ruzstd::encoding::compress_to_vec(&layer[..], ruzstd::encoding::CompressionLevel::Fastest);
    for (kind, stored) in [("tar", layer.clone()), ("tar+gzip", gzip(&layer)), ("tar+zstd", zstd)] {
        let dir = tempfile::tempdir().unwrap();
        let flatten = |bytes: &[u8], room: &str| {
            let archive = dir.path().join("archive.tar");
            std::fs::write(&archive, bytes).unwrap();
            let archive = std::fs::File::open(archive).unwrap();
            let mut flatten = agent();
            flatten.args(["flatten-image", "--room", room, "--dir"]).arg(dir.path()).stdin(archive);
            flatten.output().unwrap()
        };
        let done = flatten(&archive_of(&layer, kind, &stored), "10000000");
        assert!(done.status.success(), "{kind}: {done:?}");
        let mut tar = tar::Archive::new(std::fs::File::open(dir.path().join("code.tar")).unwrap());
        let entry =
            tar.entries().unwrap().map(Result::unwrap).find(|entry| &*entry.path_bytes() == b"app/data");
        assert_eq!(entry.unwrap().size(), 3_000_000);
        let described = std::fs::read(dir.path().join("image.json")).unwrap();
        let described: serde_json::Value = serde_json::from_slice(&described).unwrap();
        assert_eq!(described["unpacked"], json!(layer.len()));
        for (bytes, room, said) in [
            (archive_of(&layer, kind, &stored), "1000000", "NoRoom"),
            (archive_of(b"another", kind, &stored), "10000000", "Digest"),
            (b"no archive".to_vec(), "10000000", "Unusable"),
        ] {
            let refused = flatten(&bytes, room);
            assert_eq!(refused.status.code(), Some(3), "{kind}: {refused:?}");
            assert!(String::from_utf8(refused.stdout).unwrap().contains(said));
        }
    }
}

/// A daemon on a port of its own; its log lines, up to the one that says where it serves.
fn serve(dir: &Path) -> (Child, String) {
    serve_with(dir, "")
}

/// The same with more lines in its configuration.
fn serve_with(dir: &Path, more: &str) -> (Child, String) {
    let config = dir.join("agent.toml");
    let state = dir.join("state");
    let lines = format!(
        "listen = '127.0.0.1:0'\nstate_dir = '{}'\nlib_dir = '{}'\n{more}",
        state.display(),
        dir.display()
    );
    std::fs::write(&config, lines).unwrap();
    let mut child = agent().arg("serve").arg("--config").arg(config).arg("--no-auth").spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    for line in log.lines().map_while(Result::ok) {
        if let Some((_, address)) = line.split_once("tinderbox: serving on ") {
            return (child, address.to_owned());
        }
    }
    panic!("the daemon ended: {:?}", child.wait());
}

#[test]
fn the_daemon_serves_until_it_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address) = serve(dir.path());
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /tinderbox/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What the kernel says of every thread of a process.
fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

#[test]
fn every_thread_of_the_daemon_is_confined() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address) = serve(dir.path());
    healthy(&address);
    let threads = threads(child.id());
    assert!(threads.len() > 1, "{threads:?}");
    for status in threads {
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The helpers have the daemon's jail around their own. What takes mkfs.erofs's place here makes no image, which is the node's
/// fault and not the zip's.
#[test]
fn an_upload_is_unpacked_inside_the_daemons_jail() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("runtimes")).unwrap();
    std::fs::write(dir.path().join("runtimes/python3.13.pack"), "").unwrap();
    let (mut child, address) = serve_with(dir.path(), "mkfs_erofs = '/bin/true'");
    let zip = BASE64_STANDARD.encode(zip_of("app.py", b"def handler(event, context): pass"));
    let body = format!(
        r#"{{"FunctionName": "f", "Runtime": "python3.13", "Handler": "app.handler", "Role": "arn:aws:iam::000000000000:role/r", "Code": {{"ZipFile": "{zip}"}}}}"#
    );
    let mut client = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /2015-03-31/functions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// As with zips: what an image's push ends with here is that none was made.
#[test]
fn an_image_is_flattened_inside_the_daemons_jail() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address) = serve_with(dir.path(), "mkfs_erofs = '/bin/true'");
    let ask = |method: &str, path: &str, body: &[u8]| {
        let mut client = TcpStream::connect(&address).unwrap();
        let head = format!(
            "{method} /tinderbox/images/uploads{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(body).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    let layer = tar_of(&[("app/data", b"x")]);
    for (archive, status) in [(archive_of(&layer, "tar", &layer), " 500 "), (b"none".to_vec(), " 400 ")] {
        let begun = ask("POST", "", br#"{"Image": "app:v1"}"#);
        let (_, id) = begun.split_once("UploadId\":\"").unwrap_or_else(|| panic!("{begun}"));
        let upload = format!("/{}", id.split('"').next().unwrap());
        let taken = ask("PUT", &format!("{upload}?Offset=0"), &archive);
        assert!(taken.starts_with("HTTP/1.1 200 "), "{taken}");
        let answer = ask("POST", &upload, b"");
        assert!(answer.starts_with(&format!("HTTP/1.1{status}")), "{answer}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// More connections than the daemon keeps.
const CROWD: usize = 10_000;

/// What it keeps, and what their buffers may take together.
const KEPT: usize = 4096;
const CROWD_MAX_KIB: u64 = 128 * 1024;

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn healthy(address: &str) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /tinderbox/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn ten_thousand_connections_that_say_little_keep_nobody_out_and_cost_little() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address) = serve(dir.path());
    healthy(&address);
    let before = resident_kib(child.id());
    let mut crowd = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        let mut client = TcpStream::connect(&address).unwrap();
        // Every other one has begun to say something. Some are gone by then, as they had to give way.
        if number % 2 == 0 {
            let _ = client.write_all(b"POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nx: ");
        }
        crowd.push(client);
        if number % 1000 == 999 {
            healthy(&address);
        }
    }
    let (after, open) = (resident_kib(child.id()), descriptors(child.id()));
    assert!(after.saturating_sub(before) < CROWD_MAX_KIB, "{before} KiB before, {after} KiB with the crowd");
    assert!(open < KEPT + 100, "{open} descriptors");
    drop(crowd);
    healthy(&address);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn two_daemons_cannot_share_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, _) = serve(dir.path());
    let config = dir.path().join("agent.toml");
    let second = agent().arg("serve").arg("--config").arg(config).arg("--no-auth").output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8(second.stderr).unwrap().contains("store.redb"));
    first.kill().unwrap();
    first.wait().unwrap();
    // Killed, not ended: the state is as good as ever.
    let (mut third, _) = serve(dir.path());
    third.kill().unwrap();
    third.wait().unwrap();
}

#[test]
fn a_damaged_store_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/store.redb"), "this is no store").unwrap();
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, format!("state_dir = '{}'", dir.path().join("state").display())).unwrap();
    let failed = agent().arg("serve").arg("--config").arg(config).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("store.redb") && said.contains("is damaged"), "{said}");
}

#[test]
fn without_keys_it_listens_on_loopback_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, "listen = '0.0.0.0:0'").unwrap();
    let refused = agent().arg("serve").arg("--config").arg(config).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("beyond loopback"));
}
