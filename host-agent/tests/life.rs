//! The life of a daemon in its jail, as the program has it: what it is sent, what it keeps, whom it asks, how it ends and begins anew.
//! `cargo xtask seccomp` takes the rules of its filters out one at a time and has this missed.
//!
//! It needs root, for a `/run` of the daemon's own with a launcher in it, and a mkfs.erofs that reads tars (1.7); an older one makes no
//! image of code, and what becomes of those is left out.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(unsafe_code, reason = "code between fork and exec")]

mod names;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Cursor, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chunk_store::{ChunkSize, Kind, Salt, write_pack};
use jail::launch::{Answer, REQUEST_LEN};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use zip::write::{SimpleFileOptions, ZipWriter};

const MKFS: &str = "/usr/bin/mkfs.erofs";

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:failures";
const ROLE: &str = "arn:aws:iam::000000000000:role/r";

/// What a record about an event that nobody may serve may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the allocator has room for at first, so that it grows what it has.
const LARGE: usize = 20 << 20;

/// Files of an image that would be too long with each of them at a chunk's beginning.
const MANY: usize = 8200;

/// Length of an image's block.
const BLOCK: usize = 4096;

/// A daemon, what it is made from, and whom it asks.
struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
    address: String,
    told: mpsc::Receiver<String>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["guest/vmlinux", "guest/initrd.cpio", "run/tinderbox-launcher.sock"] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        }
        for name in ["guest/vmlinux", "guest/initrd.cpio"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        runtime(&dir.path().join("runtimes/python3.13.pack"));
        launcher(&dir.path().join("run/tinderbox-launcher.sock"));
        // Where an older agent had its images.
        fs::create_dir_all(dir.path().join("state/images")).unwrap();
        names::serve(dir.path());
        let (port, told) = world();
        for name in ["bucket", "code"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("code/none.zip"), "no zip").unwrap();
        fs::write(dir.path().join("agent.toml"), configuration(dir.path(), port)).unwrap();
        let (child, address) = begin(dir.path());
        Self { dir, child, address, told }
    }

    /// Another one on the same state.
    fn again(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success() || signal == Signal::SIGKILL, "{status}");
        (self.child, self.address) = begin(self.dir.path());
    }

    /// Status and body of an answer.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut client = TcpStream::connect(&self.address).unwrap();
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
        );
        client.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer to {method} {path}"));
        (status.parse().unwrap(), answer)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        self.ask(method, path, body.to_string().as_bytes())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn configuration(dir: &Path, port: u16) -> String {
    let path = |name: &str| dir.join(name).display().to_string();
    format!(
        "listen = '127.0.0.1:0'\nauth = 'optional'\nstate_dir = '{}'\nlib_dir = '{}'\nmkfs_erofs = '{}'\nmemory_mib = 1024\n\
         [function_urls]\nlisten = '127.0.0.1:0'\n\
         [chunks.origin]\nbucket = 'chunks'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 's'\n\
         endpoint = 'http://localhost:{port}'\nallow_http = true\n\
         [[events.buckets]]\nname = 'near'\ndirectory = '{}'\n\
         [[code.buckets]]\nname = 'near'\ndirectory = '{}'\n\
         [[code.buckets]]\nname = 'far'\n[code.buckets.service]\nbucket = 'code'\nregion = 'us-east-1'\n\
         access_key_id = 'a'\nsecret_access_key = 's'\nendpoint = 'http://localhost:{port}'\nallow_http = true\n\
         [[events.webhooks]]\ntopic = '{TOPIC}'\nurl = 'http://{name}:{port}/hook'\nallow_http = true\n",
        path("state"),
        dir.display(),
        mkfs().unwrap_or("/bin/true"),
        path("bucket"),
        path("code"),
        name = names::NAME,
    )
}

/// One that reads tars.
fn mkfs() -> Option<&'static str> {
    let said = Command::new(MKFS).arg("--help").output().ok()?;
    String::from_utf8_lossy(&said.stdout).contains("--tar").then_some(MKFS)
}

/// The real program, confined by itself; where it serves.
fn begin(dir: &Path) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
    command.args(["serve", "--config"]).arg(dir.join("agent.toml"));
    command.env_clear().envs(left_out());
    names::settle(&mut command, dir);
    let run = dir.join("run");
    let own_run = move || {
        let none = None::<&str>;
        Ok(mount(Some(&run), "/run", none, MsFlags::MS_BIND, none)?)
    };
    // SAFETY: between fork and exec it makes system calls on what is there already.
    unsafe { command.pre_exec(own_run) };
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = log.find_map(|line| Some(line.split_once("tinderbox: serving on ")?.1.to_owned()));
    // It goes on saying things.
    thread::spawn(move || log.for_each(|line| eprintln!("{line}")));
    let address = address.unwrap_or_else(|| panic!("the daemon ended: {:?}", child.wait()));
    (child, address)
}

/// Which rule the program leaves out, where it has such a way.
fn left_out() -> Option<(&'static str, String)> {
    const NAME: &str = "TINDERBOX_WITHOUT_RULE";
    Some((NAME, std::env::var(NAME).ok()?))
}

fn runtime(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut content = tempfile::tempfile().unwrap();
    content.write_all(&[7; 200_000]).unwrap();
    let out = File::create(path).unwrap();
    write_pack(&content, Kind::Image, ChunkSize::IMAGE, &Salt::public(), &out).unwrap();
}

/// A launcher whose processes end at once.
fn launcher(path: &Path) {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    thread::spawn(move || {
        while let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 has just made the descriptor; nobody else owns it.
            let connection = unsafe { OwnedFd::from_raw_fd(fd) };
            let mut packet = [0; REQUEST_LEN];
            while let Ok((1.., _)) = vmm_api::receive(connection.as_fd(), &mut packet) {
                let (status, mut said) = std::io::pipe().unwrap();
                said.write_all(&9_i32.to_le_bytes()).unwrap();
                let null = File::options().write(true).open("/dev/null").unwrap();
                let fds = [null.as_fd(), status.as_fd(), null.as_fd()];
                // Whoever asked may be gone.
                let _ = vmm_api::send(connection.as_fd(), &Answer::Started { slot: 1 }.to_packet(), &fds);
            }
        }
    });
}

/// A bucket and a webhook: its port, and what the webhook is told.
fn world() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    let objects = Arc::new(Mutex::new(BTreeMap::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (objects, tell) = (Arc::clone(&objects), tell.clone());
            thread::spawn(move || drop(serve(stream, &objects, &tell)));
        }
    });
    (port, told)
}

fn serve(
    stream: TcpStream,
    objects: &Mutex<BTreeMap<String, Vec<u8>>>,
    tell: &mpsc::Sender<String>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut line, mut len) = (String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request: Vec<String> = line.split(' ').map(str::to_owned).collect();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                len = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        let (method, path) = (request[0].as_str(), request[1].clone());
        let mut objects = objects.lock().unwrap();
        let (status, answer) = match method {
            "POST" => {
                drop(tell.send(String::from_utf8_lossy(&body).into_owned()));
                (200, Vec::new())
            }
            "PUT" => (200, objects.insert(path, body).map_or_else(Vec::new, |_| Vec::new())),
            "DELETE" => (204, objects.remove(&path).map_or_else(Vec::new, |_| Vec::new())),
            _ => objects.get(&path).map_or((404, Vec::new()), |object| (200, object.clone())),
        };
        let len = answer.len();
        let head = format!(
            "HTTP/1.1 {status} x\r\netag: \"x\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: {len}\r\n\r\n"
        );
        writer.write_all(head.as_bytes())?;
        if method != "HEAD" {
            writer.write_all(&answer)?;
        }
    }
}

fn zip_of(content: &[u8]) -> String {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    BASE64_STANDARD.encode(zip.finish().unwrap().into_inner())
}

fn image_is_there(status: u16) -> bool {
    assert_eq!(status < 300, mkfs().is_some(), "status {status}");
    mkfs().is_some()
}

#[test]
fn a_daemon_serves_keeps_asks_and_ends_within_its_filter() {
    let mut daemon = Daemon::start();
    let functions = "/2015-03-31/functions";
    let layer = json!({ "Content": { "ZipFile": zip_of(b"layer") } });
    let (layered, _) = daemon.json("POST", "/2018-10-31/layers/l/versions", &layer);
    assert!(layered == 201 || mkfs().is_none(), "status {layered}");
    let function = json!({
        "FunctionName": "f", "Runtime": "python3.13", "Handler": "app.handler", "Role": ROLE, "MemorySize": 128,
        "Code": { "ZipFile": zip_of(b"def handler(event, context): pass") }
    });
    let (status, said) = daemon.json("POST", functions, &function);
    assert_eq!(image_is_there(status), said.contains("CodeSha256"), "{said}");
    code_comes_from_buckets(&daemon, functions, function);
    // Most of it is more than Lambda takes.
    assert!(matches!(
        daemon.ask("POST", &format!("{functions}/f/invocations"), &vec![b' '; LARGE]).0,
        404 | 413
    ));
    if mkfs().is_some() {
        sandboxes_that_end_at_once(&daemon, functions);
    }
    assert_eq!(daemon.ask("GET", "/tinderbox/chunks", b"").0 / 100, 2);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        daemon.again(signal);
        let (status, _) = daemon.ask("GET", &format!("{functions}/f"), b"");
        assert!(image_is_there(if status == 404 { 500 } else { status }) || status == 404);
    }
    let code = json!({ "ZipFile": zip_of(b"another") });
    daemon.json("PUT", &format!("{functions}/f/code"), &code);
    let (status, _) = daemon.ask("DELETE", &format!("{functions}/f"), b"");
    assert!(matches!(status, 204 | 404), "{status}");
    assert_eq!(daemon.ask("GET", "/tinderbox/health", b"").0, 200);
    daemon.again(Signal::SIGTERM);
}

/// Read in the jail, whatever is there.
fn code_comes_from_buckets(daemon: &Daemon, functions: &str, mut function: Value) {
    function["FunctionName"] = json!("of-a-bucket");
    for (bucket, key, expected) in [
        ("near", "none.zip", "Could not unzip uploaded file"),
        ("near", "absent.zip", "NoSuchKey"),
        ("far", "absent.zip", "NoSuchKey"),
    ] {
        function["Code"] = json!({ "S3Bucket": bucket, "S3Key": key });
        let (status, said) = daemon.json("POST", functions, &function);
        assert!(status == 400 && said.contains(expected), "{bucket}/{key}: {said}");
    }
}

/// A call that fails, and an event that does: who wanted to know is told.
fn sandboxes_that_end_at_once(daemon: &Daemon, functions: &str) {
    let (status, said) = daemon.ask("POST", &format!("{functions}/f/invocations"), b"{}");
    assert!(status >= 500, "{said}");
    let config =
        json!({ "MaximumRetryAttempts": 0, "DestinationConfig": { "OnFailure": { "Destination": TOPIC } } });
    let (status, said) = daemon.json("PUT", "/2019-09-25/functions/f/event-invoke-config", &config);
    assert_eq!(status, 200, "{said}");
    // Which an event does not wait for.
    let none = json!({ "ReservedConcurrentExecutions": 0 });
    let (status, said) = daemon.json("PUT", "/2017-10-31/functions/f/concurrency", &none);
    assert_eq!(status, 200, "{said}");
    let (status, said) = daemon.ask("POST", "/2014-11-13/functions/f/invoke-async", b"{}");
    assert_eq!(status, 202, "{said}");
    let (status, said) = daemon.json("POST", &format!("{functions}/f/versions"), &json!({}));
    assert_eq!(status, 201, "{said}");
    let record = daemon.told.recv_timeout(PATIENCE).unwrap();
    assert!(record.contains("requestContext"), "{record}");
    let mut templates = fs::read_dir(daemon.dir.path().join("state/scratch")).unwrap().map(Result::unwrap);
    assert!(templates.any(|file| file.path().extension().is_some_and(|is| is == "img")), "no /tmp was made");
}

#[test]
fn a_tar_becomes_an_image_in_the_helpers_jail() {
    let Some(mkfs) = mkfs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let zip = dir.path().join("upload.zip");
    fs::write(&zip, BASE64_STANDARD.decode(zip_of(&vec![7; 3_000_000])).unwrap()).unwrap();
    let helper = |name: &str, more: &[&str], input: Stdio| {
        let mut helper = Command::new(env!("CARGO_BIN_EXE_host-agent"));
        helper.arg(name).args(more).arg("--dir").arg(dir.path()).current_dir(dir.path());
        helper.env_clear().envs(left_out()).stdin(input).status().unwrap()
    };
    let pack = |min_len: usize| {
        assert!(helper("pack-code", &["--mkfs", mkfs], Stdio::null()).success());
        let image = dir.path().join("code.erofs");
        assert!(fs::metadata(&image).unwrap().len() > min_len as u64);
        fs::remove_file(image).unwrap();
    };
    assert!(helper("unzip-code", &[], File::open(zip).unwrap().into()).success());
    pack(3_000_000);
    // As short as it can be, which mkfs.erofs makes by other means.
    let mut tar = tar::Builder::new(File::create(dir.path().join("code.tar")).unwrap());
    for number in 0..MANY {
        // Some have ends that are too long to be kept beside their inodes.
        let content = vec![7; 2 * BLOCK - 100 + number % 1000];
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        // mkfs.erofs leaves out what has no type, and refuses what lacks another field.
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, number.to_string(), &content[..]).unwrap();
    }
    tar.finish().unwrap();
    pack(MANY * BLOCK);
}
