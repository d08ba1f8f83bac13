//! Requests about snapshots: prepare a machine, load a snapshot into it, take one.
//!
//! A request is refused as long as nothing has been done. A load that has begun and fails leaves a machine that is neither
//! one nor the other: the process ends.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use chunk_store::Reader;
use snapshot::{FormatError, Key, MAX_STATE_LEN, PAGE_LEN, PageIndex, StateReader, StateWriter};
use vmm_api::{
    Exit, Identity, LoadConfig, LoadReport, LoadTimings, Refusal, Response, SnapshotConfig, SnapshotKind,
    SnapshotReport, WorkingSet,
};

use super::{RunError, Supervisor};
use crate::config::{LoadFiles, SnapshotFiles, check_shape, longest_file};
use crate::confine::{self, Role};
use crate::describe::describe;
use crate::lifecycle::Lifecycle;
use crate::machine::state::IdentityState;
use crate::machine::{Base, Machine, Prepared, Shape, States};
use crate::memory_file::{Pagemap, Written};
use crate::pager::{self, LastWords, PrefetchContent, SavedMemory, StoredPages};
use crate::{memory_file, random};

impl Supervisor {
    /// Makes what depends on the shape alone, then gives up every right that loading and running do not need.
    pub(super) fn prepare(&mut self, shape: vmm_api::Shape) -> Result<Result<(), Refusal>, RunError> {
        let (vcpus, memory) = match check_shape(shape) {
            Ok(checked) => checked,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.reserve(Shape { vcpus, memory })
    }

    fn reserve(&mut self, shape: Shape) -> Result<Result<(), Refusal>, RunError> {
        let unmanned = match Prepared::frame(&self.files, shape) {
            Ok(unmanned) => unmanned,
            Err(error) => return Ok(Err(error.refusal())),
        };
        let last_words = self.last_words()?;
        let filters = confine::filters(Role::Load)?;
        self.confine()?;
        let prepared =
            unmanned.spawn(&filters, last_words).map_err(|error| RunError::Prepare(Box::new(error)))?;
        filters.io.apply()?;
        self.prepared = Some(prepared);
        Ok(Ok(()))
    }

    /// How the pager ends the process: the I/O thread may be waiting for it.
    fn last_words(&self) -> Result<LastWords, RunError> {
        let control = self.control.as_ref().map(crate::control::Control::try_clone).transpose()?;
        Ok(Box::new(move |detail| {
            eprintln!("vmm: {detail}");
            if let Some(control) = control {
                let _ = control.send(&Response::Exited(Exit::Failed));
            }
            std::process::exit(1)
        }))
    }

    /// Turns a blank or prepared process into the machine of a snapshot.
    pub(super) fn load(
        &mut self,
        wanted: &LoadConfig,
        fds: Vec<OwnedFd>,
    ) -> Result<Result<LoadReport, Refusal>, RunError> {
        let began = Instant::now();
        let mut timings = LoadTimings::default();
        let prepared_for = self.prepared.as_ref().map(Prepared::shape);
        let snapshot = match Opened::new(wanted, fds, prepared_for) {
            Ok(snapshot) => snapshot,
            Err(refusal) => return Ok(Err(refusal)),
        };
        timings.read_us = micros(began);
        let preparing = Instant::now();
        if self.prepared.is_none() {
            if let Err(refusal) = self.reserve(snapshot.shape)? {
                return Ok(Err(refusal));
            }
            self.lifecycle = Lifecycle::Prepared;
        }
        timings.prepare_us = micros(preparing);
        let restoring = Instant::now();
        if let Some(Err(refusal)) = self.prepared.as_ref().map(|prepared| prepared.check(&snapshot.states)) {
            return Ok(Err(refusal));
        }
        let Some(prepared) = self.prepared.take() else {
            return Ok(Err(refuse("state", "no machine is prepared")));
        };
        let Opened { shape, states, files, memory, identity } = snapshot;
        confine::bound_files(longest_file(&files.drives, shape.memory, wanted.allow_snapshots))?;
        self.allow_snapshots = wanted.allow_snapshots;
        let prefetched_past_cache = memory.prefetch.as_ref().is_some_and(PrefetchContent::is_past_cache);
        let base = wanted.track_changes.then(|| Base { index: Arc::clone(&memory.index) });
        let machine = prepared.load(states, files, memory, base);
        self.adopt(machine.map_err(|error| RunError::Load(Box::new(error)))?)?;
        timings.restore_us = micros(restoring);
        if wanted.resume {
            self.resume()?;
        }
        timings.total_us = micros(began);
        Ok(Ok(LoadReport { identity, timings, prefetched_past_cache }))
    }

    /// What a machine had to wait for; no page of one that was booted.
    pub(super) fn working_set(&self) -> WorkingSet {
        self.machine.as_ref().map(Machine::working_set).unwrap_or_default()
    }

    /// Writes a paused machine to files.
    pub(super) fn snapshot(
        &mut self,
        wanted: &SnapshotConfig,
        fds: Vec<OwnedFd>,
    ) -> Result<SnapshotReport, Refusal> {
        let began = Instant::now();
        let files = SnapshotFiles::new(wanted, fds)?;
        if !self.allow_snapshots {
            return Err(refuse("snapshot", "the machine was made without allow_snapshots"));
        }
        let Some(machine) = &mut self.machine else { return Err(refuse("snapshot", "there is no machine")) };
        let written = take(machine, &self.pagemap, wanted, &files);
        let mut report = written.map_err(|error| match error {
            TakeError::Refused(refusal) => refusal,
            TakeError::Failed(error) => {
                // If KVM does not listen either, its log goes on for nobody; there is no base that it would count for.
                let _ = machine.track(None);
                let message = format!("take the snapshot: {}", describe(error.as_ref()));
                Refusal { field: None, message }
            }
        })?;
        report.pause_us = micros(began);
        Ok(report)
    }
}

/// A snapshot that was not taken.
enum TakeError {
    /// Nothing has been done.
    Refused(Refusal),
    /// The files are of no use. The machine is as before, but its changes are not tracked any more.
    Failed(Box<dyn std::error::Error>),
}

impl<E: Into<Box<dyn std::error::Error>>> From<E> for TakeError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn take(
    machine: &mut Machine,
    pagemap: &Pagemap,
    wanted: &SnapshotConfig,
    files: &SnapshotFiles,
) -> Result<SnapshotReport, TakeError> {
    let mut writer = StateWriter::new();
    machine.save(&mut writer)?;
    let written = match wanted.kind {
        SnapshotKind::Full => {
            let (memory, source) = machine.memory();
            memory_file::write_full(memory, pagemap, source, pager::CHUNK_PAGES, &files.memory)?
        }
        SnapshotKind::Diff => take_changes(machine, &files.memory)?,
    };
    writer.add_bytes(PageIndex::NAME, 0, PageIndex::VERSION, written.index.encode())?;
    writer.add(0, &IdentityState { entries: wanted.identity.0.clone().into_iter().collect() })?;
    let state = writer.finish(&Key::new(*wanted.key.bytes()), &random::bytes()?);
    files.state.set_len(0)?;
    files.state.write_all_at(&state, 0)?;
    let report = SnapshotReport {
        pause_us: 0,
        state_bytes: state.len() as u64,
        memory_bytes: written.bytes,
        zero_pages: written.zero_pages(),
    };
    let base = Base { index: Arc::new(written.index) };
    machine.track(wanted.track_changes.then_some(base))?;
    Ok(report)
}

fn take_changes(machine: &mut Machine, file: &File) -> Result<Written, TakeError> {
    let index = check_base(machine.base(), file)?;
    let changes = machine.take_changes()?;
    Ok(memory_file::write_diff(machine.memory().0, &index, &changes, file)?)
}

/// The index of `base`, if `file` can be what changes since are written over. Another file of its length is not found out.
fn check_base(base: Option<&Base>, file: &File) -> Result<Arc<PageIndex>, TakeError> {
    let refused = |field, message: String| Err(TakeError::Refused(refuse(field, message)));
    let Some(base) = base else {
        let message = "changes are not tracked: ask the snapshot before, or the load, to track_changes";
        return refused("kind", message.into());
    };
    let (len, expected) = (file.metadata()?.len(), u64::from(base.index.pages()) * PAGE_LEN as u64);
    if len != expected {
        return refused(
            "memory",
            format!("{len} bytes, expected {expected}: a copy of the memory file before"),
        );
    }
    Ok(Arc::clone(&base.index))
}

/// A snapshot that can be loaded here, as far as that can be known.
struct Opened {
    shape: Shape,
    states: States,
    files: crate::machine::Connections,
    memory: SavedMemory,
    identity: Identity,
}

impl Opened {
    fn new(wanted: &LoadConfig, fds: Vec<OwnedFd>, prepared_for: Option<Shape>) -> Result<Self, Refusal> {
        let LoadFiles { state, memory, prefetch, connections } = LoadFiles::new(wanted, fds)?;
        let bytes = read_state(&state)?;
        let of_state = |error: FormatError| refuse("state", describe(&error));
        let key = Key::new(*wanted.key.bytes());
        let reader = StateReader::open(&bytes, &key).map_err(of_state)?;
        let identity = reader.get::<IdentityState>(0).map_err(of_state)?;
        let identity = Identity(identity.entries.into_iter().collect());
        check_identity(wanted.identity.as_ref(), &identity)?;
        let states = States::read(&reader).map_err(of_state)?;
        let (vcpu_count, mem_size_mib) = (states.machine.vcpu_count, states.machine.mem_size_mib);
        let (vcpus, mem_size) = check_shape(vmm_api::Shape { vcpu_count, mem_size_mib })?;
        let shape = Shape { vcpus, memory: mem_size };
        if prepared_for.is_some_and(|prepared| prepared != shape) {
            let message =
                format!("of {vcpu_count} vCPUs and {mem_size_mib} MiB, the machine is prepared for another");
            return Err(refuse("state", message));
        }
        let index = reader.bytes(PageIndex::NAME, 0, PageIndex::VERSION).and_then(PageIndex::decode);
        let index = Arc::new(index.map_err(of_state)?);
        if u64::from(index.pages()) * PAGE_LEN as u64 != mem_size.bytes() {
            return Err(refuse("state", "its index is of a memory of another length than its machine's"));
        }
        let source = stored_pages(memory, &index)?;
        states.check(&connections)?;
        let prefetch =
            prefetch.and_then(|content| pager::usable(PrefetchContent::open(content, index.pages())));
        let memory = SavedMemory { index, source: Box::new(source), prefetch, learn: wanted.learn };
        Ok(Self { shape, states, files: connections, memory, identity })
    }
}

fn stored_pages(reader: Reader, index: &Arc<PageIndex>) -> Result<StoredPages, Refusal> {
    let (len, chunk_len) = (reader.len(), reader.chunk_size().bytes());
    StoredPages::new(reader, Arc::clone(index)).ok_or_else(|| {
        let expected = u64::from(index.pages()) * PAGE_LEN as u64;
        let expected_chunk = index.chunk_pages() as usize * PAGE_LEN;
        let found = format!("{len} bytes in chunks of {chunk_len}");
        refuse("memory", format!("{found}, expected {expected} in chunks of {expected_chunk}"))
    })
}

fn read_state(file: &File) -> Result<Vec<u8>, Refusal> {
    let failed = |error: io::Error| refuse("state", format!("read: {error}"));
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_STATE_LEN {
        return Err(refuse("state", FormatError::Oversized(len).to_string()));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

fn check_identity(wanted: Option<&Identity>, saved: &Identity) -> Result<(), Refusal> {
    let Some(wanted) = wanted.filter(|wanted| *wanted != saved) else { return Ok(()) };
    let names = wanted.0.keys().chain(saved.0.keys());
    let differs = names.into_iter().find(|name| wanted.0.get(*name) != saved.0.get(*name));
    let (name, none) = (differs.map_or("", String::as_str), String::new());
    let (saved, wanted) = (saved.0.get(name).unwrap_or(&none), wanted.0.get(name).unwrap_or(&none));
    Err(refuse("identity", format!("the snapshot was taken with {name} {saved:?}, expected {wanted:?}")))
}

fn refuse(field: &str, message: impl Into<String>) -> Refusal {
    Refusal { field: Some(field.to_owned()), message: message.into() }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
