//! A node in a directory of its own, whose `vmm` is the fake, and short words for what tests ask of it.

use std::{
    fs::File,
    future::Future,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chunk_store::{ChunkSize, Kind, Label};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    fake::{self, GATE, STOPPED},
    launcher,
};
use crate::{
    chunks::{
        Chunks,
        tests::{chunks_in, pack_of},
    },
    disk::Disk,
    functions::{
        model::{CodeRef, FunctionConfig, FunctionId, LoggingConfig, PUBLISHED_VERSIONS, State},
        runtimes::{Runtimes, StandIns},
    },
    invoke::{
        Answer, CodeImage, Invocation, InvokeError, Invoker, NodeInvoker, PrepareError, memory::Answers,
        node::Shared, rate::Rate, settings::Settings,
    },
    logs::tests::logs_in,
    network,
    sandbox::{machine, policy::Limits},
    snapshots::MAX_RUNTIME_SNAPSHOTS,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The image of the runtime that functions here have, and what is in it.
pub(super) const PYTHON: &str = "runtimes/python3.13.pack";

/// What is in the code's image.
pub(super) const CODE: &str = "code.erofs";

pub(super) const MEMORY_MIB: u32 = 128;
const ROOM: u64 = 8;

/// Memory for answers: more than anybody needs.
const ANSWERS_KIB: usize = 64 * 1024;

pub(super) struct Node {
    pub(super) dir: Home,
    pub(super) invoker: Arc<NodeInvoker>,
    /// What its answers have for memory.
    pub(super) answers: Answers,
    settings: Settings,
}

/// Where a node has its programs and its state.
pub(super) struct Home {
    path: PathBuf,
    /// Removed with the node that made it.
    _own: Option<TempDir>,
}

impl Home {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn node(mode: &str) -> Node {
    node_with(mode, |_| {})
}

/// A node with room for [`ROOM`] sandboxes whose guests behave as `mode` says.
pub(super) fn node_with(mode: &str, adjust: impl FnOnce(&mut Settings)) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let lib_dir = dir.path().join("lib");
    for file in ["guest/vmlinux", "guest/initrd.cpio"] {
        let path = lib_dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    for runtime in [PYTHON, "runtimes/provided.al2023.pack"] {
        pack_of(runtime, &lib_dir.join(runtime));
    }
    fake::install(&lib_dir.join("vmm"), dir.path());
    fake::behave(mode, dir.path());
    for pipe in [GATE, STOPPED] {
        nix::unistd::mkfifo(&dir.path().join(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let mut settings = settings(dir.path());
    adjust(&mut settings);
    let dir = Home { path: dir.path().to_owned(), _own: Some(dir) };
    let invoker = Arc::new(NodeInvoker { shared: Shared::new(settings.clone()).unwrap() });
    let node = Node { dir, invoker, answers: Answers::new(ANSWERS_KIB), settings };
    node.publish_code();
    node
}

/// A node that keeps snapshots of runtimes, and no blanks: how it starts a guest follows from how its `vmm` behaves now.
pub(super) fn node_with_runtimes(mode: &str) -> Node {
    node_with(mode, keep_runtimes)
}

pub(super) fn keep_runtimes(settings: &mut Settings) {
    (settings.runtime_snapshots, settings.blank_limit) = (MAX_RUNTIME_SNAPSHOTS, 0);
}

/// Another node in the directory of one that no longer runs.
pub(super) fn adopt(dir: &Path, adjust: impl FnOnce(&mut Settings)) -> Node {
    let mut settings = settings(dir);
    adjust(&mut settings);
    let invoker = Arc::new(NodeInvoker { shared: Shared::new(settings.clone()).unwrap() });
    let dir = Home { path: dir.to_owned(), _own: None };
    Node { dir, invoker, answers: Answers::new(ANSWERS_KIB), settings }
}

/// What a node in `dir` is set up with.
fn settings(dir: &Path) -> Settings {
    Settings {
        lib_dir: dir.join("lib"),
        images: Runtimes::find(&dir.join("lib"), StandIns::Allowed),
        launcher: launcher::start(dir, dir.join("lib/vmm")),
        scratch_dir: dir.join("scratch"),
        disk: Disk::of(dir),
        chunks: chunks_in(&dir.join("state")),
        logs: logs_in(&dir.join("state")),
        network: network::tests::nowhere(),
        state_dir: dir.join("state"),
        limits: Limits {
            memory_mib: ROOM * machine::charge_mib(MEMORY_MIB),
            max_starting: 2,
            starts_of_version: 2,
            account_concurrency: 1000,
            idle_timeout: PATIENCE,
            growth: Rate::per_second(1000),
        },
        boot_timeout: PATIENCE,
        init_timeout: PATIENCE,
        restore_timeout: PATIENCE,
        memory_mib_per_cpu: NonZeroU32::new(MEMORY_MIB * 4).unwrap(),
        blank_limit: 2,
        runtime_snapshots: 0,
        drain_timeout: PATIENCE,
    }
}

pub(super) fn function(name: &str) -> FunctionConfig {
    FunctionConfig {
        id: FunctionId { region: "us-east-1".into(), name: name.into() },
        account_id: "000000000000".into(),
        version: "$LATEST".into(),
        runtime: "python3.13".into(),
        handler: "app.handler".into(),
        role: String::new(),
        description: String::new(),
        memory_mib: MEMORY_MIB,
        timeout_s: 1,
        ephemeral_storage_mib: 512,
        environment: None,
        tracing_mode: "PassThrough".into(),
        logging: LoggingConfig {
            format: "Text".into(),
            application_level: None,
            system_level: None,
            group: format!("/aws/lambda/{name}"),
        },
        snap_start: "None".into(),
        dead_letter: None,
        tags: Default::default(),
        code: CodeRef { sha256: String::new(), size: 0 },
        image: None,
        layers: Vec::new(),
        runtime_management: Default::default(),
        revision_id: "r".into(),
        deployment_id: "d1".into(),
        last_modified_ms: 0,
        state: State::Active,
        last_update: None,
        incoming: None,
        incarnation: String::new(),
        published: None,
        reserved_concurrency: None,
        recursive_loop: Default::default(),
    }
}

/// Version 1 of a function, with SnapStart.
pub(super) fn version(name: &str) -> FunctionConfig {
    FunctionConfig {
        version: "1".into(),
        snap_start: PUBLISHED_VERSIONS.into(),
        deployment_id: format!("{name} 1"),
        ..function(name)
    }
}

/// What the code's image is published as.
pub(super) fn code() -> Label {
    "code-0".parse().unwrap()
}

impl Node {
    /// The contents that it has.
    pub(super) fn chunks(&self) -> &Arc<Chunks> {
        &self.settings.chunks
    }

    /// Makes the code's image.
    pub(super) fn publish_code(&self) {
        let image = CODE.as_bytes().to_vec();
        self.chunks().publish(&code(), Kind::Code, ChunkSize::IMAGE, &image).unwrap();
    }

    /// Changes how guests behave from now on.
    pub(super) fn behave(&self, mode: &str) {
        fake::behave(mode, self.dir.path());
    }

    /// Ends the node; its directory stays.
    pub(super) async fn stop(&self) {
        within(self.invoker.shutdown()).await;
    }

    /// The same node after a restart, with its programs as they are now.
    pub(super) async fn restarted(self) -> Self {
        self.restarted_with(|_| {}).await
    }

    /// The same with other settings.
    pub(super) async fn restarted_with(self, adjust: impl FnOnce(&mut Settings)) -> Self {
        let Self { dir, invoker, answers, mut settings } = self;
        within(invoker.shutdown()).await;
        settings.chunks = chunks_in(&settings.state_dir);
        adjust(&mut settings);
        let invoker = Arc::new(NodeInvoker { shared: Shared::new(settings.clone()).unwrap() });
        Self { dir, invoker, answers, settings }
    }

    /// Has a version snapshotted.
    pub(super) async fn prepare(&self, function: FunctionConfig) -> Result<(), PrepareError> {
        within(self.invoker.prepare(Arc::new(function), self.code())).await
    }

    pub(super) async fn invoke_version(
        &self,
        function: FunctionConfig,
        event: &str,
    ) -> Result<Answer, InvokeError> {
        within(self.invoker.invoke(self.invocation(function, event))).await
    }

    /// `cloned`, `runtime` or `booted`: what answers for a version.
    pub(super) async fn how(&self, function: FunctionConfig) -> String {
        let answer = self.invoke_version(function, "\"how\"").await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// Names in the directory of snapshots, once nothing is being made or deleted.
    pub(super) async fn snapshots(&self) -> usize {
        let dir = self.dir.path().join("state/snapshots");
        let settled = async {
            loop {
                let names: Vec<_> =
                    std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                if names.iter().all(|name| name.len() == 64) {
                    return names.len();
                }
                tokio::task::yield_now().await;
            }
        };
        within(settled).await
    }

    /// Waits until there are so many snapshots.
    pub(super) async fn snapshots_become(&self, expected: usize) {
        within(async {
            while self.snapshots().await != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until so many machines wait.
    pub(super) async fn blanks(&self, expected: usize) {
        let mut count = self.invoker.shared.host.blanks().count();
        within(count.wait_for(|count| *count == expected)).await.unwrap();
    }

    fn code(&self) -> Arc<CodeImage> {
        Arc::new(CodeImage { label: code() })
    }

    pub(super) fn invocation(&self, function: FunctionConfig, event: &str) -> Invocation {
        Invocation {
            code: self.code(),
            invoked_arn: function.arn(),
            function: Arc::new(function),
            request_id: uuid::Uuid::new_v4().to_string(),
            payload: event.to_owned().into(),
            client_context: None,
            trace_id: None,
            log_tail: true,
            slot: None,
            sink: None,
            answers: self.answers.clone(),
        }
    }

    pub(super) async fn invoke(&self, event: &str) -> Result<Answer, InvokeError> {
        within(self.invoker.invoke(self.invocation(function("f"), event))).await
    }

    pub(super) async fn answer(&self, event: &str) -> Answer {
        self.invoke(event).await.unwrap()
    }

    /// The process that answers next.
    pub(super) async fn pid(&self) -> i32 {
        number(&self.answer("\"pid\"").await)
    }

    pub(super) async fn error(&self, event: &str) -> (String, String) {
        let answer = self.answer(event).await;
        assert_eq!(answer.function_error, Some("Unhandled"));
        let document: Value = serde_json::from_slice(&answer.payload).unwrap();
        let text = |name: &str| document[name].as_str().unwrap().to_owned();
        (text("errorType"), text("errorMessage"))
    }

    /// Lets held events go on, for as long as the file is open.
    pub(super) fn open_gate(&self) -> File {
        File::options().read(true).write(true).open(self.dir.path().join(GATE)).unwrap()
    }

    /// Waits until so many sandboxes and requests are left.
    pub(super) async fn population(&self, expected: usize) {
        let mut population = self.invoker.shared.population();
        within(population.wait_for(|left| *left == expected)).await.unwrap();
    }
}

pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

pub(super) fn number(answer: &Answer) -> i32 {
    serde_json::from_slice(&answer.payload).unwrap()
}

pub(super) fn is_alive(pid: i32) -> bool {
    // Behind its name, which is in parentheses; one that has ended and is not reaped yet is a zombie.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Whether its launcher has seen its end and told of it.
pub(super) fn is_reaped(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}
