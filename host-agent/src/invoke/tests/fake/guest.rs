//! What the fake's guest says, and how it misbehaves.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process,
    sync::atomic::Ordering,
};

use guest_protocol::{
    BodyChunk, Fate, FrameReader, FreezeReport, FunctionError, GateReport, GateStep, GuestMessage, Hello,
    HostMessage, InitFailure, InitReport, InitializationType, InvocationReport, Invoke, LogChunk, LogSource,
    MAX_CHUNK_LEN, Outcome, PROTOCOL_VERSION, ResponseHead, ResponseMode, RestoreFailure, RestoreReport,
    ResumeHello, SEED_LEN, ShutdownNeeds, Start, StepOutcome, encode, generation_counter,
};
use vmm_api::{DriveConfig, Layered, Request, Response, SnapshotReport, Source};

use super::{BOOTED, BROKER, FAREWELL, Fake, RUNTIME, STREAMED, TOLD, check_identity, files, wait_for_gate};

/// A connected guest.
pub(super) struct Guest {
    pub(super) stream: UnixStream,
    pub(super) frames: FrameReader,
    pub(super) fake: Fake,
    /// What the agent said of its machine.
    pub(super) allow_snapshots: bool,
    pub(super) drives: Vec<DriveConfig>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) start: Option<Start>,
}

impl Guest {
    /// One that was booted.
    pub(super) fn run(mut self) {
        let protocol_version = PROTOCOL_VERSION + u32::from(self.fake.is("wrong version"));
        let kernel_release = "6.12".into();
        self.send(&GuestMessage::Hello(Hello {
            protocol_version,
            kernel_release,
            kernel_boot_us: 1,
            guest_init_us: 1,
        }));
        match self.receive() {
            HostMessage::Start(start) => self.initialise(start),
            HostMessage::Freeze => {
                if self.fake.is("die as nobody") {
                    process::exit(12);
                }
                if self.fake.is("hang as nobody") {
                    self.receive();
                }
                self.freeze(true);
            }
            other => panic!("{other:?} to one that is nobody"),
        }
    }

    fn initialise(mut self, start: Start) {
        assert!(start.entropy != [0; 32] && start.wall_clock_unix_ns > 1_700_000_000_000_000_000);
        let snap_start = start.initialization_type == InitializationType::SnapStart;
        assert!(!snap_start || (start.init_timeout_ms, self.fake.way.get()) == (130_000, BOOTED));
        let ahead = start.initialization_type == InitializationType::Provisioned;
        assert!(!ahead || start.init_timeout_ms == 130_000);
        self.start = Some(start);
        if self.fake.is("die in init") {
            process::exit(4);
        }
        if self.fake.is("hang in init") {
            self.receive();
        }
        self.log(b"initialised\n");
        let failure = [
            ("fail init", "Runtime.ImportModuleError", "no module"),
            ("extended, fail init", "Runtime.ImportModuleError", "no module"),
            ("late init", "Sandbox.Timedout", "Task timed out after 130.00 seconds"),
        ];
        if let Some((_, kind, message)) = failure.iter().find(|(mode, ..)| self.fake.is(mode)) {
            let error = FunctionError::new(kind, message);
            let shutdown = self.shutdown();
            self.send(&GuestMessage::InitFailed(InitFailure { error, duration_us: 1, shutdown }));
        } else {
            let shutdown = self.shutdown();
            self.send(&GuestMessage::InitDone(InitReport { duration_us: 1, shutdown }));
        }
        if snap_start {
            assert_eq!(self.receive(), HostMessage::Freeze);
            return self.freeze(false);
        }
        assert!(!self.allow_snapshots, "who serves is not saved");
        self.serve();
    }

    fn shutdown(&self) -> ShutdownNeeds {
        if self.fake.mode.starts_with("extended") { ShutdownNeeds::External } else { ShutdownNeeds::None }
    }

    fn serve(&mut self) {
        loop {
            match self.receive() {
                HostMessage::Invoke(invoke) => self.invoke(invoke),
                HostMessage::Shutdown(reason) => {
                    self.fake.note(FAREWELL, &format!("{reason:?}"));
                    if !self.fake.is("extended, deaf") {
                        self.send(&GuestMessage::ShutDown);
                    }
                }
                other => panic!("{other:?} while idle"),
            }
        }
    }

    /// Becomes a snapshot, of a function or of nobody.
    fn freeze(mut self, of_nobody: bool) {
        if self.fake.is("die in freeze") {
            process::exit(7);
        }
        self.log(b"frozen\n");
        self.send(&GuestMessage::Frozen(FreezeReport { steps: vec![] }));
        assert_eq!(self.fake.request().0, Request::Pause);
        if self.fake.is("die in pause") {
            process::exit(8);
        }
        self.fake.answer(&Response::Ok);
        let (Request::Snapshot(config), fds) = self.fake.request() else { panic!("no snapshot") };
        assert_eq!((fds.len(), self.allow_snapshots), (2, true));
        check_identity(&config.identity, of_nobody);
        if self.fake.is("refuse snapshot") {
            self.fake.refuse("memory");
        }
        let [state, memory] = files::contents(of_nobody, &config.key);
        for (fd, content) in fds.into_iter().zip([state, memory]) {
            File::from(fd).write_all(&content).unwrap();
            if self.fake.is("die in snapshot") {
                process::exit(9);
            }
        }
        self.fake.answer(&Response::Snapshotted(SnapshotReport::default()));
        self.fake.request();
    }

    /// Goes through the gate, or not.
    pub(super) fn resume(mut self, generation: &[u8; 16]) {
        let counter = generation_counter(generation) ^ u64::from(self.fake.is("wrong generation"));
        let protocol_version = PROTOCOL_VERSION + u32::from(self.fake.is("wrong version after load"));
        self.send(&GuestMessage::Resumed(ResumeHello {
            protocol_version,
            generation_counter: (!self.fake.is("no generation")).then_some(counter),
        }));
        let HostMessage::MakeUnique(unique) = self.receive() else { panic!("no gate") };
        assert_eq!((&unique.generation, unique.generation_counter), (generation, counter));
        assert!(
            unique.elapsed_us > 0 && unique.entropy.bytes() != &[0; SEED_LEN] && unique.hostname.len() < 64
        );
        if self.fake.is("hang in gate") {
            self.receive();
        }
        if self.fake.is("die in gate") {
            process::exit(10);
        }
        let failed = self.fake.is("fail gate");
        let outcome = if failed { StepOutcome::Failed("no entropy".into()) } else { StepOutcome::Done };
        let report = GateReport {
            steps: vec![GateStep { name: "rekey".into(), duration_us: 1, outcome }],
            duration_us: 1,
        };
        if failed {
            self.send(&GuestMessage::GateFailed(report.clone()));
            self.receive();
        }
        self.send(&GuestMessage::Unique(report));
        if self.fake.way.get() == RUNTIME {
            let HostMessage::Start(start) = self.receive() else { panic!("no start behind the gate") };
            assert_ne!(start.initialization_type, InitializationType::SnapStart);
            assert!(TOLD.load(Ordering::Relaxed), "it is somebody's now");
            return self.initialise(start);
        }
        if self.fake.is("die in hooks") {
            process::exit(11);
        }
        for (mode, timed_out) in [("fail hooks", false), ("late hooks", true)] {
            if self.fake.is(mode) {
                let error = FunctionError::new("ValueError", "hook");
                self.send(&GuestMessage::RestoreFailed(RestoreFailure { error, timed_out, duration_us: 1 }));
                self.receive();
            }
        }
        self.log(b"restored\n");
        self.send(&GuestMessage::RestoreDone(RestoreReport {
            duration_us: 1,
            shutdown: ShutdownNeeds::None,
        }));
        self.serve();
    }

    fn invoke(&mut self, invoke: Invoke) {
        if self.fake.is("end before the event") {
            self.send(&GuestMessage::Ended(FunctionError::new("Runtime.ExitError", "idle")));
            self.receive_all();
        }
        let mut event = Vec::new();
        loop {
            let HostMessage::Body(chunk) = self.receive() else { panic!("no body") };
            event.extend(chunk.bytes);
            if chunk.last {
                break;
            }
        }
        assert_eq!(event.len(), invoke.event_len as usize);
        let request_id = invoke.request_id.clone();
        match event.as_slice() {
            b"\"how\"" => self.respond(&request_id, format!("{:?}", self.fake.way.get()).as_bytes()),
            b"\"runtime\"" => {
                let version = format!("{:?}", self.start.as_ref().unwrap().runtime_version);
                self.respond(&request_id, version.as_bytes());
            }
            b"\"who\"" => {
                let start = self.start.as_ref().unwrap();
                let tmp = match self.drives[2].source {
                    Source::Fd(tmp) => tmp,
                    Source::Layered(Layered { layer, .. }) => layer,
                    _ => panic!("{:?}", self.drives),
                };
                let tmp_mib = File::from(self.fds[tmp].try_clone().unwrap()).metadata().unwrap().len() >> 20;
                let drives = (self.drive(0), self.drive(1), tmp_mib);
                let who = (&start.function_name, &start.environment, drives);
                self.respond(&request_id, &serde_json::to_vec(&who).unwrap());
            }
            b"\"why\"" => {
                let why = self.start.as_ref().unwrap().initialization_type;
                self.respond(&request_id, format!("\"{why:?}\"").as_bytes());
            }
            b"\"root\"" => {
                self.respond(&request_id, &serde_json::to_vec(&self.drive(0)).unwrap());
            }
            b"\"pid\"" => self.respond(&request_id, process::id().to_string().as_bytes()),
            b"\"hold\"" => {
                wait_for_gate();
                self.respond(&request_id, process::id().to_string().as_bytes());
            }
            b"\"die\"" => {
                let _ = self.fake.is("die in run");
                process::exit(5)
            }
            b"\"never\"" => self.receive_all(),
            b"\"garbage\"" => {
                self.write(&[0xff; 4096]);
                self.receive_all();
            }
            b"\"oversize\"" => {
                self.begin(&request_id);
                for _ in 0..64 {
                    self.body(&[b'x'; MAX_CHUNK_LEN], false);
                }
                self.receive_all();
            }
            b"\"stream\"" | b"\"stream and die\"" | b"\"stream and fail\"" => {
                assert_eq!(invoke.response_mode, ResponseMode::Streamed);
                self.stream(&request_id, &event);
            }
            b"\"stream unasked\"" => {
                self.begin_in(&request_id, ResponseMode::Streamed);
                self.receive_all();
            }
            b"\"unanswered\"" => self.done(&request_id, Outcome::Succeeded, Fate::Reusable),
            b"\"error\"" => {
                let error = FunctionError::new("ValueError", "wrong");
                self.send(&GuestMessage::Failed(error.clone()));
                let payload = Vec::new();
                self.done(&request_id, Outcome::Failed(FunctionError { payload, ..error }), Fate::Reusable);
            }
            b"\"answer, then work\"" => {
                self.begin(&request_id);
                self.body(b"\"early\"", true);
                wait_for_gate();
                self.done(&request_id, Outcome::Succeeded, Fate::Reusable);
            }
            b"\"answer, then be late\"" => {
                self.begin(&request_id);
                self.body(b"\"early\"", true);
                self.done(&request_id, Outcome::TimedOut, Fate::Ended);
            }
            b"\"exit\"" => {
                let error = FunctionError::of_request(&request_id, "Runtime.ExitError", "exit status 1");
                self.done(&request_id, Outcome::Exited(error), Fate::Ended);
            }
            b"\"time out\"" => self.done(&request_id, Outcome::TimedOut, Fate::Ended),
            b"\"log\"" => {
                (0..100).for_each(|n| self.log(format!("{n:099}\n").as_bytes()));
                self.respond(&request_id, b"null");
            }
            b"\"connect\"" => {
                let refused = vmm_api::send(self.fds[BROKER].as_fd(), b"{\"port\":1024}", &[]).is_err();
                self.respond(&request_id, refused.to_string().as_bytes());
            }
            event => self.respond(&request_id, event),
        }
    }

    /// All of a drive that is read by chunks.
    fn drive(&self, number: usize) -> String {
        let Source::Chunks(grant) = &self.drives[number].source else { panic!("{:?}", self.drives) };
        String::from_utf8(files::read(&self.fds, grant)).unwrap()
    }

    fn respond(&mut self, request_id: &str, bytes: &[u8]) {
        self.begin(request_id);
        let mut pieces = bytes.chunks(MAX_CHUNK_LEN).peekable();
        while let Some(piece) = pieces.next() {
            self.body(piece, pieces.peek().is_none());
        }
        self.done(request_id, Outcome::Succeeded, Fate::Reusable);
    }

    /// More than a response that is whole may have; the last pieces are told when the gate opens.
    fn stream(&mut self, request_id: &str, event: &[u8]) {
        self.begin_in(request_id, ResponseMode::Streamed);
        self.body(b"first", false);
        wait_for_gate();
        for _ in 0..STREAMED {
            self.body(&[b'x'; MAX_CHUNK_LEN], false);
        }
        match event {
            b"\"stream and die\"" => process::exit(13),
            b"\"stream and fail\"" => {
                let error = FunctionError::new("ValueError", "midway");
                self.done(request_id, Outcome::Failed(error), Fate::Reusable);
            }
            _ => {
                self.body(b"", true);
                self.done(request_id, Outcome::Succeeded, Fate::Reusable);
            }
        }
    }

    fn begin(&mut self, request_id: &str) {
        self.begin_in(request_id, ResponseMode::Buffered);
    }

    fn begin_in(&mut self, request_id: &str, mode: ResponseMode) {
        let content_type = "application/json".into();
        self.send(&GuestMessage::Response(ResponseHead {
            request_id: request_id.into(),
            content_type,
            mode,
        }));
    }

    fn body(&mut self, bytes: &[u8], last: bool) {
        self.send(&GuestMessage::Body(BodyChunk { bytes: bytes.into(), last }));
    }

    fn done(&mut self, request_id: &str, outcome: Outcome, fate: Fate) {
        self.send(&GuestMessage::Done(InvocationReport {
            request_id: request_id.into(),
            outcome,
            fate,
            duration_us: 1,
            max_memory_used_mib: 1,
            shutdown: self.shutdown(),
        }));
    }

    fn log(&mut self, bytes: &[u8]) {
        self.send(&GuestMessage::Log(LogChunk { source: LogSource::Function, bytes: bytes.into() }));
    }

    fn send(&mut self, message: &GuestMessage) {
        self.write(&encode(message).unwrap());
    }

    /// The agent may have had enough and be gone.
    fn write(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).is_err() {
            process::exit(0);
        }
    }

    fn receive(&mut self) -> HostMessage {
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return message;
            }
            let mut buffer = [0; 65536];
            let len = self.stream.read(&mut buffer).unwrap_or(0);
            if len == 0 {
                process::exit(0);
            }
            self.frames.push(&buffer[..len]);
        }
    }

    /// Does nothing until the agent ends the connection.
    fn receive_all(&mut self) -> ! {
        loop {
            self.receive();
        }
    }
}
