//! What stands in for the invoker.

use super::*;

/// Answers every invocation with its own event, or as the event's `do` says; remembers what it was given.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) seen: Mutex<Vec<Invocation>>,
    pub(super) retired: Mutex<Vec<(String, String)>>,
    /// As an event's `do`, for events that are made by the node.
    pub(super) told: Mutex<Option<&'static str>>,
    /// Deployments that a snapshot was asked for.
    pub(super) prepared: watch::Sender<Vec<String>>,
    /// How preparing a function's versions ends, by its name: well, or with an error of that type. It waits until then.
    pub(super) snapshots: watch::Sender<Snapshots>,
    /// What it was told to keep ready, by function and version.
    pub(super) provisions: Mutex<BTreeMap<String, BTreeMap<String, u32>>>,
    /// How that stands.
    pub(super) provided: Mutex<BTreeMap<(String, String), Provided>>,
    /// Whether invocations end whose event says `hold`.
    pub(super) released: watch::Sender<bool>,
    /// What answers in its place.
    pub(super) function: Mutex<Option<Stand>>,
    /// Goes into its runtimes' versions: which image the node has.
    pub(super) image: Mutex<&'static str>,
}

impl Echo {
    pub(super) fn version_of(&self, runtime: &str) -> String {
        let image = format!("{runtime} {}", self.image.lock().unwrap());
        crate::code::hex(&<sha2::Sha256 as sha2::Digest>::digest(image))
    }
}

/// A function that is there in name only: what it returns when it is called, or the document of what it fails with.
pub(super) type Stand = Box<dyn FnMut(&Invocation) -> Result<Vec<u8>, Vec<u8>> + Send>;

pub(super) type Snapshots = BTreeMap<String, Option<&'static str>>;

/// Among the names of [`Snapshots`]: the node is going down.
pub(super) const STOPPING: &str = "(stopping)";

impl Invoker for Echo {
    fn invoke(&self, mut invocation: Invocation) -> InvokeFuture<'_> {
        let FunctionConfig { runtime, runtime_management, .. } = &*invocation.function;
        if !runtime_management.allows(&self.version_of(runtime)) {
            let error = InvokeError::InvalidRuntime("another version".into());
            return Box::pin(std::future::ready(Err(error)));
        }
        let event: Value = serde_json::from_slice(&invocation.payload).unwrap();
        let mut answer = Answer {
            payload: invocation.payload.clone(),
            log_tail: invocation.log_tail.then(|| Bytes::from("x".repeat(5000) + "END")),
            executed_version: invocation.function.version.clone(),
            ..Answer::default()
        };
        if let Some(function) = &mut *self.function.lock().unwrap() {
            let (Ok(document) | Err(document)) = &function(&invocation).inspect_err(|_| {
                answer.function_error = Some("Unhandled");
            });
            answer.payload = Bytes::copy_from_slice(document);
            return Box::pin(std::future::ready(Ok(answer)));
        }
        // Others are in flight until the test forgets them.
        let slot = if event["do"] == "hold" { invocation.slot.take() } else { None };
        let sink = invocation.sink.clone();
        // A copy: the event itself has memory of the budget.
        let payload = Bytes::copy_from_slice(&invocation.payload);
        self.seen.lock().unwrap().push(Invocation { payload, ..invocation });
        let told = self.told.lock().unwrap().take();
        let told = told.or(event["do"].as_str());
        if let (Some((content_type, pieces, fails)), Some(sink)) = (told.and_then(streaming::script), sink) {
            answer.payload = Bytes::from_static(if fails { b"midway" } else { b"" });
            answer.function_error = fails.then_some("Unhandled");
            return Box::pin(async move {
                streaming::send(sink, content_type, pieces).await;
                Ok(answer)
            });
        }
        let result = match told {
            Some("hold") => {
                return Box::pin(async move {
                    let _ = self.released.subscribe().wait_for(|released| *released).await;
                    drop(slot);
                    Ok(answer)
                });
            }
            Some("throttle") => Err(InvokeError::Throttled(Throttle::Concurrency)),
            Some("lose") => Err(InvokeError::Node("lost".into())),
            Some("no runtime") => Err(InvokeError::InvalidRuntime("no image".into())),
            Some("malformed") => {
                answer.payload = Bytes::from_static(br#"{"statusCode": 1}"#);
                Ok(answer)
            }
            Some("fail") => {
                answer.function_error = Some("Unhandled");
                Ok(answer)
            }
            _ => Ok(answer),
        };
        Box::pin(std::future::ready(result))
    }

    fn prepare(&self, function: Arc<FunctionConfig>, _code: Arc<CodeImage>) -> PrepareFuture<'_> {
        let name = function.id.name.clone();
        self.prepared.send_modify(|prepared| prepared.push(function.deployment_id.clone()));
        Box::pin(async move {
            let mut snapshots = self.snapshots.subscribe();
            let stopping = |made: &Snapshots| made.contains_key(STOPPING);
            let made = snapshots.wait_for(|made| stopping(made) || made.contains_key(&name)).await.unwrap();
            if stopping(&made) {
                return Err(PrepareError::ShuttingDown);
            }
            let error = |kind| match kind {
                NODE_FAILED => PrepareError::Node("its machine was lost".into()),
                kind => PrepareError::Init(FunctionError::new(kind, "no module")),
            };
            made[&name].map(error).map_or(Ok(()), Err)
        })
    }

    fn provide(&self, function: &FunctionId, wanted: Vec<Provision>) {
        let wanted = wanted.iter().map(|one| (one.function.version.clone(), one.count)).collect();
        self.provisions.lock().unwrap().insert(function.name.clone(), wanted);
    }

    fn provided(&self, function: &FunctionConfig) -> Provided {
        let stands = self.provided.lock().unwrap();
        stands.get(&(function.id.name.clone(), function.version.clone())).cloned().unwrap_or_default()
    }

    fn runtime_version(&self, runtime: &str) -> VersionFuture<'_> {
        Box::pin(std::future::ready(Some(self.version_of(runtime))))
    }

    fn retire(&self, function: &FunctionId, what: Retired<'_>) {
        let what = match what {
            Retired::Deployment(replaced) => replaced.into(),
            Retired::Version(version) => format!("version {version}"),
            Retired::Function => "all".into(),
            Retired::Sandboxes => "sandboxes".into(),
        };
        self.retired.lock().unwrap().push((function.name.clone(), what));
    }

    fn keep(&self, _deployments: HashSet<String>) {}

    fn shutdown(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}
