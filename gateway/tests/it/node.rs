//! A node: a network with a gateway in it, and behind its uplink a world with a server. Agents talk to the gateway.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use gateway_api::{Answer, Egress, MAX_ANSWER_LEN, Rate, Request};
use nix::cmsg_space;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, send, socket,
};
use tempfile::TempDir;

use crate::guest::Guest;
use crate::unit::Unit;

/// Every test's agent is root, as the tests are.
pub(crate) const ROOT: u32 = 0;

/// In the world: a public address, a private one, one of a link, and one whose owner answers for names.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 53);

/// The node's own, in the world's networks.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const NODE_PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 9);

/// Slots' addresses, of which this is the first one's.
pub(crate) const POOL: &str = "100.64.0.0/16";
pub(crate) const FIRST_OUTER: Ipv4Addr = Ipv4Addr::new(100, 64, 1, 0);

/// More than any test sends.
pub(crate) const FAST: Rate = Rate { bytes_per_second: 1 << 30, burst_bytes: 1 << 30 };

/// Has the name server answer by as many packets as [`FLOOD_PACKETS`], of as many bytes as [`FLOOD_LEN`].
pub(crate) const FLOOD: &str = "flood";
pub(crate) const FLOOD_PACKETS: usize = 2000;
pub(crate) const FLOOD_LEN: usize = 1400;

/// Where servers answer, in the world and on the node.
pub(crate) const PORT: u16 = 9000;

/// What the appliance's own network begins with.
const RULES: &str = include_str!("../../../image/mkosi.extra/etc/nftables.conf");

/// The calling thread is in the node's network as long as there is one.
pub(crate) struct Node {
    pub(crate) gateway: Child,
    agent: u32,
    dir: TempDir,
    /// Closed, the world ends.
    _world: mpsc::Sender<()>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::of_agent(ROOT)
    }

    pub(crate) fn of_agent(agent: u32) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let world = world();
        for line in [
            "link set lo up",
            "addr add 203.0.113.9/24 dev eth0",
            "addr add 10.20.0.9/24 dev eth0",
            "link set eth0 up",
            "route add default via 203.0.113.1",
        ] {
            ip(line);
        }
        // As the appliance's networkd does.
        fs::write("/proc/sys/net/ipv4/conf/eth0/forwarding", "1").expect("a setting");
        let dir = tempfile::tempdir().expect("a directory");
        let rules = dir.path().join("rules");
        fs::write(&rules, RULES).expect("write the rules");
        run("nft", &["-f", rules.to_str().expect("UTF-8")]);
        serve(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen"));
        let gateway = gateway(agent, dir.path());
        Self { gateway, agent, dir, _world: world }
    }

    /// The gateway is killed, and another one started.
    pub(crate) fn restart(&mut self) {
        self.gateway.kill().expect("kill");
        self.gateway.wait().expect("wait");
        fs::remove_file(self.dir.path().join("socket")).expect("remove the socket");
        self.gateway = gateway(self.agent, self.dir.path());
    }

    pub(crate) fn connect(&self) -> Agent {
        let socket = seqpacket();
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.dir.path().join("socket")).expect("an address"))
            .expect("connect");
        Agent(socket)
    }

    /// Bytes that have left the guests' network for the node's.
    pub(crate) fn sent(&self) -> u64 {
        let said = self.inside("ip", &["-j", "-s", "link", "show", "uplink"]);
        let links: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        links[0]["stats64"]["tx"]["bytes"].as_u64().expect("a number")
    }

    /// What a program says in the guests' network.
    pub(crate) fn inside(&self, program: &str, args: &[&str]) -> String {
        let network = File::open(format!("/proc/{}/ns/net", self.gateway.id())).expect("a network");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let program = program.to_owned();
        let said = thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("enter");
            run(&program, &args.iter().map(String::as_str).collect::<Vec<_>>())
        });
        said.join().expect("a program")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.gateway.kill());
        drop(self.gateway.wait());
    }
}

fn gateway(agent: u32, dir: &Path) -> Child {
    let listener = seqpacket();
    bind(listener.as_raw_fd(), &UnixAddr::new(&dir.join("socket")).expect("an address")).expect("bind");
    listen(&listener, Backlog::new(1).expect("a number")).expect("listen");
    // As udev has it on every machine, and on the appliance.
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666)).expect("these tests need it");
    let (mut command, _kept) = unit().command(env!("CARGO_BIN_EXE_gateway"), None, vec![]);
    command
        .args(["--agent", &agent.to_string(), "--pool", POOL, "--nft", "/usr/sbin/nft"])
        .stdin(Stdio::from(listener))
        .spawn()
        .expect("start the gateway")
}

/// What the appliance starts the gateway by.
pub(crate) fn unit() -> Unit {
    Unit::new(include_str!("../../../image/mkosi.extra/usr/lib/systemd/system/tinderbox-gateway.service"))
}

/// A network of its own, with the other end of the node's `eth0`.
fn world() -> mpsc::Sender<()> {
    let (alive, end) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let (linked, is_linked) = mpsc::channel();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ready.send(nix::unistd::gettid()).expect("it waits");
        is_linked.recv().expect("its thread runs");
        ip("link set lo up");
        let addresses =
            ["203.0.113.1/24", "198.51.100.1/32", "10.20.0.1/24", "10.20.0.53/24", "169.254.169.254/32"];
        for address in addresses {
            ip(&format!("addr add {address} dev world"));
        }
        ip("link set world up");
        serve(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen"));
        let names = UdpSocket::bind((RESOLVER, 53)).expect("bind");
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((len, from)) = names.recv_from(&mut question) {
                let is_flood = question[..len] == *FLOOD.as_bytes();
                let (answer, times) =
                    if is_flood { (&[0; FLOOD_LEN][..], FLOOD_PACKETS) } else { (&question[..len], 1) };
                for _ in 0..times {
                    drop(names.send_to(answer, from));
                }
            }
        });
        ready.send(nix::unistd::gettid()).expect("it waits");
        // Nothing is ever said: it ends with the node.
        end.recv().unwrap_or_default();
    });
    let world = is_ready.recv().expect("its thread runs");
    ip(&format!("link add eth0 type veth peer name world netns {world}"));
    linked.send(()).expect("it waits");
    is_ready.recv().expect("its thread runs");
    alive
}

/// Says who connects, and gives back what is said.
fn serve(listener: TcpListener) {
    let answer = |mut stream: TcpStream| {
        let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
        drop(stream.write_all(format!("{peer}\n").as_bytes()));
        let mut said = [0; 64];
        while let Ok(len @ 1..) = stream.read(&mut said) {
            drop(stream.write_all(&said[..len]));
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
}

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("these tests need ip and nft");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whoever has a connection.
pub(crate) struct Agent(OwnedFd);

/// What was made.
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) tap: OwnedFd,
}

impl Agent {
    /// A slot whose guest may go there.
    pub(crate) fn guest(&self, egress: Egress) -> (u32, Guest) {
        let Slot { number, tap } = self.make();
        self.permit(number, egress).expect("permit");
        (number, Guest::new(tap))
    }

    pub(crate) fn make(&self) -> Slot {
        self.make_at(FAST)
    }

    pub(crate) fn make_at(&self, rate: Rate) -> Slot {
        match self.ask(&Request::Make { rate }.to_packet()) {
            Some((Answer::Made { slot }, Some(tap))) => Slot { number: slot, tap },
            other => panic!("no slot: {other:?}"),
        }
    }

    pub(crate) fn permit(&self, slot: u32, egress: Egress) -> Result<(), String> {
        self.done(&Request::Permit { slot, egress })
    }

    pub(crate) fn remove(&self, slot: u32) -> Result<(), String> {
        self.done(&Request::Remove { slot })
    }

    pub(crate) fn resolve(&self, server: Ipv4Addr) {
        self.done(&Request::Resolve { server }).expect("resolve");
    }

    fn done(&self, request: &Request) -> Result<(), String> {
        match self.ask(&request.to_packet()) {
            Some((Answer::Done, None)) => Ok(()),
            Some((Answer::Failed { text }, None)) => Err(text),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// Sends anything; none when the gateway has ended the conversation.
    pub(crate) fn ask(&self, packet: &[u8]) -> Option<(Answer, Option<OwnedFd>)> {
        send(self.0.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).ok()?;
        let mut buffer = [0; MAX_ANSWER_LEN];
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .ok()?;
        let mut tap = None;
        for entry in message.cmsgs().expect("control messages") {
            let ControlMessageOwned::ScmRights(fds) = entry else { continue };
            // SAFETY: recvmsg has just made the descriptor; nobody else owns it.
            tap = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
        }
        let len = message.bytes;
        (len > 0).then(|| (Answer::from_packet(&buffer[..len]).expect("an answer"), tap))
    }
}

fn seqpacket() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}
