//! Booted appliances. `xtask node` boots one and keeps it as long as its standard input is open, so that no machine
//! outlives the test run, however that ends.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;

use crate::client::Client;
use crate::failures::{depends_on, machine};
use crate::functions::{Deployed, Function, Life};
use crate::setting;

/// For how many sandboxes a node has room.
pub(crate) const ROOM: usize = 8;

/// What it may give to them, MiB: functions of [`crate::functions::MEMORY_MIB`] with what the platform adds to each,
/// 64 MiB in the guest and the VMM's own few.
const SANDBOX_MEMORY_MIB: u32 = ROOM as u32 * (crate::functions::MEMORY_MIB + 64 + 32);

const SANDBOX_MEMORY: &str = "--sandbox-memory-mib";

/// Nodes that tests share: one for each test thread that a machine with two processors has, as an emulated node has one
/// processor.
const NODES: usize = 2;

/// How a node starts.
#[derive(Clone, Copy)]
pub(crate) enum Boot {
    /// QEMU loads kernel and initrd.
    Direct,
    /// The firmware starts the disk image's unified kernel image.
    Uefi,
}

/// How fast a node is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    Full,
    /// Its processor is emulated: what is timed takes several times as long.
    Emulated,
}

/// A running node.
pub(crate) struct Node {
    endpoint: String,
    serial_log: PathBuf,
    speed: Speed,
    process: Child,
    input: Option<ChildStdin>,
}

/// A node that most tests use, booted for the first one that does.
struct Shared {
    /// The name of its state disk.
    state: &'static str,
    node: OnceLock<Node>,
    use_of: RwLock<()>,
    /// Tests that use it or wait for it.
    tests: AtomicUsize,
    kept: Mutex<Kept>,
}

/// Functions that are the node's as long as it runs, by what they were made with: for tests that change nothing of them and leave
/// nothing behind in their sandboxes that another one minds.
type Kept = BTreeMap<String, Arc<Deployed>>;

static SHARED: [Shared; NODES] = [Shared::new("shared-1.img"), Shared::new("shared-2.img")];

/// A shared node, in use by one test among others or by one alone.
pub(crate) struct Use<Guard> {
    pub(crate) node: &'static Node,
    _guard: Guard,
    seat: Seat,
}

/// A test's place at a shared node.
struct Seat(&'static Shared);

impl Node {
    /// A shared node, beside other tests.
    pub(crate) fn shared() -> Use<RwLockReadGuard<'static, ()>> {
        let seat = Seat::take();
        // A test that failed while it had the node leaves nothing behind that others depend on.
        let guard = seat.0.use_of.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Use { node: seat.0.node(), _guard: guard, seat }
    }

    /// A shared node, while no other test uses it.
    pub(crate) fn alone() -> Use<RwLockWriteGuard<'static, ()>> {
        let seat = Seat::take();
        let guard = seat.0.use_of.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Use { node: seat.0.node(), _guard: guard, seat }
    }

    /// A node of the test's own, on the state disk at `state` (made when absent). Its functions are booted when no
    /// snapshot of their own is there.
    pub(crate) fn boot(boot: Boot, state: &Path) -> Self {
        Self::start(boot, state, &["--no-runtime-snapshots", SANDBOX_MEMORY, &SANDBOX_MEMORY_MIB.to_string()])
    }

    /// The same with snapshots of runtimes, as nodes have them unless they are told otherwise.
    pub(crate) fn that_keeps_runtimes(state: &Path) -> Self {
        Self::start(Boot::Direct, state, &[SANDBOX_MEMORY, &SANDBOX_MEMORY_MIB.to_string()])
    }

    /// The same with as much memory as a user's, of which the agent takes for sandboxes what it finds free.
    pub(crate) fn as_users_run_it(state: &Path) -> Self {
        Self::start(Boot::Direct, state, &["--users-memory"])
    }

    fn start(boot: Boot, state: &Path, extra: &[&str]) -> Self {
        depends_on(state.file_name().and_then(|name| name.to_str()).expect("a state disk has a name"));
        let mut process = Command::new(setting("TINDERBOX_XTASK"))
            .arg("node")
            .args(extra)
            .args(["--boot", if matches!(boot, Boot::Uefi) { "uefi" } else { "direct" }])
            .arg("--state")
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start xtask node");
        let input = process.stdin.take();
        let mut lines = BufReader::new(process.stdout.take().expect("standard output is piped")).lines();
        let Some(Ok(line)) = lines.next() else {
            panic!("the node did not come up: {:?}; xtask says why above", process.wait());
        };
        let ready: Value = serde_json::from_str(&line).expect("xtask node answers in JSON");
        let text =
            |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        let serial_log = PathBuf::from(text("serial_log"));
        eprintln!("node at {}, serial log {}", text("endpoint"), serial_log.display());
        let speed = if ready["emulated"] == true { Speed::Emulated } else { Speed::Full };
        Self { endpoint: text("endpoint"), serial_log, speed, process, input }
    }

    /// Boots a disk image that is to be refused; the machine's last words.
    pub(crate) fn that_does_not_come_up(disk: &Path, state: &Path) -> String {
        let output = Command::new(setting("TINDERBOX_XTASK"))
            .args(["node", "--boot", "uefi", "--disk"])
            .arg(disk)
            .arg("--state")
            .arg(state)
            .stdin(Stdio::null())
            .output()
            .expect("start xtask node");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "it came up: {words}");
        words
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.endpoint)
    }

    pub(crate) fn speed(&self) -> Speed {
        self.speed
    }

    /// What the appliance wrote to its serial port so far.
    pub(crate) fn serial_output(&self) -> String {
        let bytes = std::fs::read(&self.serial_log).expect("the serial log exists as long as the node");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Cuts the power, as a crash does.
    pub(crate) fn cut_power(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        drop(self.input.take());
        let status = self.process.wait().expect("wait for xtask node");
        assert!(status.success() || std::thread::panicking(), "xtask node: {status}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.input.is_some() {
            self.stop();
        }
    }
}

impl<Guard> Use<Guard> {
    /// This function, made for the first test that wants it here. What its first call meets is a sandbox that others may have called.
    pub(crate) fn keeps(&self, function: Function, life: Life) -> Arc<Deployed> {
        let mut kept = self.seat.0.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = format!("{life:?} {}", function.recipe());
        let deployed =
            kept.entry(key).or_insert_with(|| Arc::new(function.deploy_in(life, &self.node.client())));
        Arc::clone(deployed)
    }
}

impl Shared {
    const fn new(state: &'static str) -> Self {
        Self {
            state,
            node: OnceLock::new(),
            use_of: RwLock::new(()),
            tests: AtomicUsize::new(0),
            kept: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether its machine ended by itself: `xtask node` leaves a note then.
    fn has_ended(&self) -> bool {
        setting("TINDERBOX_TEST_STATE").join(self.state).with_extension("img.ended").exists()
    }

    fn node(&'static self) -> &'static Node {
        self.node.get_or_init(|| {
            let node = Node::boot(Boot::Direct, &setting("TINDERBOX_TEST_STATE").join(self.state));
            name_serial_log_on_panic(self.state, node.serial_log.clone());
            node
        })
    }
}

impl Seat {
    /// At the node with the fewest tests among those that have not ended: on one that has, every test fails at once.
    fn take() -> Self {
        static CHOOSING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = CHOOSING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shared = SHARED
            .iter()
            .min_by_key(|shared| (shared.has_ended(), shared.tests.load(Ordering::SeqCst)))
            .expect("there are nodes");
        shared.tests.fetch_add(1, Ordering::SeqCst);
        depends_on(shared.state);
        Self(shared)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.tests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A failed test says where its machine's own words are.
fn name_serial_log_on_panic(state: &'static str, serial_log: PathBuf) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if machine() == state {
            eprintln!("serial log of {state}: {}", serial_log.display());
        }
    }));
}
