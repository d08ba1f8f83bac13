//! The helper that pulls images, as a process in its real jail, against registries of our own on the loopback: good ones, bad ones, and
//! where they lead it.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(unsafe_code, reason = "code between fork and exec")]

#[path = "../names/mod.rs"]
mod names;
mod server;

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use server::{Answer, DOCKER, Image, OCI, Server, nobody, path};

/// Exit status of a refusal.
const REFUSED: i32 = 3;

/// Longest time that a test waits for a helper that should end at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, which leaves a rule out where it has such a way.
fn agent() -> Command {
    const LEFT_OUT: &str = "TINDERBOX_WITHOUT_RULE";
    let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
    command.env_clear().envs(std::env::var(LEFT_OUT).map(|rule| (LEFT_OUT, rule)));
    command
}

/// What a helper is asked.
struct Ask {
    registry: Value,
    reference: Value,
    wanted: Value,
    pace: Value,
    /// Where `names` has its settings, for one that asks it.
    settings: Option<PathBuf>,
}

fn duration(of: Duration) -> Value {
    json!({ "secs": of.as_secs(), "nanos": of.subsec_nanos() })
}

impl Ask {
    /// A server for the archive of its tag `v1`.
    fn of(server: &Server) -> Self {
        let registry = json!({
            "endpoint": server.endpoint(), "authorities": server.certificate, "credential": "Nobody",
            "token_host": null, "blob_hosts": [],
        });
        // Emulated and shared processors: what should not be too slow has a lot of time.
        let pace = json!({
            "silence": duration(Duration::from_secs(30)), "window": duration(Duration::from_secs(60)), "window_len": 1,
            "pause": duration(Duration::from_millis(10)),
        });
        let wanted = json!({ "Archive": { "max_len": 16 << 20 } });
        Self { registry, reference: json!({ "Tag": "v1" }), wanted, pace, settings: None }
    }

    fn with(mut self, member: &str, value: Value) -> Self {
        self.registry[member] = value;
        self
    }

    fn digest(self, digest: &str) -> Self {
        Self { reference: json!({ "Digest": digest }), ..self }
    }

    /// For which image it is, and no archive.
    fn resolve(self) -> Self {
        Self { wanted: json!("Digest"), ..self }
    }

    /// With servers that are slower than they may be for tests.
    fn hurried(self) -> Self {
        let pace = json!({
            "silence": duration(Duration::from_secs(2)), "window": duration(Duration::from_secs(1)), "window_len": 1000,
            "pause": duration(Duration::from_millis(10)),
        });
        Self { pace, ..self }
    }

    fn start(&self, file: &File) -> Child {
        let Self { registry, reference, wanted, pace, settings } = self;
        let request = json!({
            "registry": registry, "repository": "team/app", "reference": reference, "wanted": wanted, "pace": pace,
        });
        let mut agent = agent();
        if let Some(dir) = settings {
            names::settle(&mut agent, dir);
        }
        let mut child = agent
            .arg("pull-image")
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{request}").unwrap();
        child
    }

    fn run(&self) -> (Output, File) {
        let mut file = tempfile::tempfile().unwrap();
        let mut child = self.start(&file);
        // `wait_with_output` would close it first, and the helper end.
        let _agent = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        file.rewind().unwrap();
        (output, file)
    }

    /// What it is answered, and the archive.
    #[track_caller]
    fn good(&self) -> (Value, File) {
        let (output, file) = self.run();
        assert!(output.status.success(), "{output:?}");
        (serde_json::from_slice(&output.stderr).unwrap(), file)
    }

    /// The kind of the refusal, and its words.
    #[track_caller]
    fn refused(&self) -> (String, String) {
        let (output, _) = self.run();
        assert_eq!(output.status.code(), Some(REFUSED), "{output:?}");
        let refusal: Value = serde_json::from_slice(&output.stderr).unwrap();
        match refusal.as_object() {
            None => (refusal.as_str().unwrap().to_owned(), String::new()),
            Some(members) => {
                let (kind, words) = members.iter().next().unwrap();
                (kind.clone(), words.as_str().unwrap().to_owned())
            }
        }
    }

    #[track_caller]
    fn is_refused(&self, kind: &str, words: &str) {
        let (is, said) = self.refused();
        assert!(is == kind && said.contains(words), "{is}: {said}");
    }
}

/// What the helper for archives makes of one.
fn flattened(archive: File) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let done = agent()
        .args(["flatten-image", "--room", "1000000", "--dir"])
        .arg(dir.path())
        .stdin(archive)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&std::fs::read(dir.path().join("image.json")).unwrap()).unwrap()
}

#[test]
fn an_image_comes_whole_by_its_tag_or_its_digest() {
    for types in [OCI, DOCKER] {
        let (server, image) = (Server::plain(), Image::of(types));
        image.serve(&server);
        assert_eq!(Ask::of(&server).resolve().good().0, image.found());
        assert_eq!(server.asked().len(), 2, "an index and a manifest");
        for ask in [Ask::of(&server), Ask::of(&server).digest(&image.digest)] {
            let (found, archive) = ask.good();
            assert_eq!(found, image.found());
            let described = flattened(archive);
            assert_eq!(described["digest"], json!(image.digest));
            assert_eq!(described["run"]["entry_point"], json!(["/app/run"]));
        }
    }
}

#[test]
fn a_registry_is_found_by_its_name() {
    let (server, image, dir) = (Server::plain(), Image::of(OCI), tempfile::tempdir().unwrap());
    image.serve(&server);
    names::serve(dir.path());
    let endpoint = format!("http://{}:{}", names::NAME, server.port);
    let ask = Ask::of(&server).with("endpoint", json!(endpoint));
    let ask = Ask { settings: Some(dir.path().to_owned()), ..ask };
    assert_eq!(ask.good().0, image.found());
}

#[test]
fn a_token_is_had_once_and_told_to_nobody_else() {
    let (server, store, image) = (Server::tls(), Server::tls(), Image::of(OCI));
    image.serve_manifest(&server);
    for (digest, blob) in &image.blobs {
        let blob_path = path("blobs", &format!("sha256:{digest}"));
        server.redirects(&blob_path, &format!("{}/{digest}?signature=x", store.endpoint()));
        store.has(&format!("/{digest}"), "application/octet-stream", blob);
    }
    let challenge = format!("Bearer realm=\"{}/token\",service=\"ours\",scope=\"*\"", server.endpoint());
    server.wants("Bearer secret", &challenge);
    server.has("/token", "application/json", br#"{"token": "secret"}"#);
    let ask = Ask::of(&server)
        .with("authorities", json!(format!("{}{}", server.certificate, store.certificate)))
        .with("credential", json!({ "Password": { "user": "me", "password": "word" } }))
        .with("blob_hosts", json!([format!("127.0.0.1:{}", store.port)]));
    let (found, archive) = ask.good();
    assert_eq!((found, flattened(archive)["digest"].clone()), (image.found(), json!(image.digest)));
    let asked = server.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "{asked:?}");
    assert_eq!(tokens[0].path, "/token?service=ours&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!(tokens[0].authorization, Some(format!("Basic {}", BASE64_STANDARD.encode("me:word"))));
    let stores = store.asked();
    assert_eq!(stores.len(), 3);
    assert!(stores.iter().all(|asked| asked.authorization.is_none()), "{stores:?}");
}

#[test]
fn a_name_and_a_password_or_a_token_are_told_as_they_are_wanted() {
    let (server, image) = (Server::plain(), Image::of(OCI));
    image.serve(&server);
    let password = json!({ "Password": { "user": "AWS", "password": "word" } });
    let basic = format!("Basic {}", BASE64_STANDARD.encode("AWS:word"));
    server.wants(&basic, "Basic realm=\"ecr\"");
    Ask::of(&server).is_refused("Denied", "a name and a password");
    Ask::of(&server)
        .with("credential", json!({ "Token": "t" }))
        .is_refused("Denied", "does not take the token");
    assert_eq!(Ask::of(&server).with("credential", password).good().0, image.found());
    server.asked();
    server.wants("Bearer t", "Bearer realm=\"https://elsewhere.example/token\"");
    assert_eq!(Ask::of(&server).with("credential", json!({ "Token": "t" })).good().0, image.found());
    assert!(
        server.asked().iter().all(|asked| asked.authorization.is_some()),
        "it is told from the beginning"
    );
}

#[test]
fn a_password_is_told_to_no_service_that_was_not_named() {
    let (server, other) = (Server::plain(), Server::plain());
    other.has("/token", "application/json", br#"{"token": "secret"}"#);
    server.wants("Bearer secret", &format!("Bearer realm=\"{}/token\"", other.endpoint()));
    let password = json!({ "Password": { "user": "me", "password": "word" } });
    Ask::of(&server).with("credential", password).is_refused("Denied", "token_host");
    assert_eq!(other.asked(), []);
}

#[test]
fn what_is_not_there_or_not_to_be_had_is_told_apart() {
    let server = Server::plain();
    Ask::of(&server).is_refused("Absent", "");
    let tagged = path("manifests", "v1");
    for (status, kind) in
        [(401, "Denied"), (403, "Denied"), (410, "Absent"), (429, "Unavailable"), (500, "Unavailable")]
    {
        server.answers(&tagged, Answer::Is(status, String::new(), Vec::new()));
        Ask::of(&server).is_refused(kind, "");
    }
    let image = Image::of(OCI);
    image.serve_manifest(&server);
    // Its blobs are gone.
    Ask::of(&server).is_refused("Absent", "");
    server.wants("Bearer secret", &format!("Bearer realm=\"{}/token\"", server.endpoint()));
    server.answers("/token", Answer::Is(401, String::new(), Vec::new()));
    Ask::of(&server).is_refused("Denied", "token service answered 401");
    server.has("/token", "application/json", b"{}");
    Ask::of(&server).is_refused("Unavailable", "no token");
    server.has("/token", "application/json", br#"{"token": "another"}"#);
    Ask::of(&server).is_refused("Denied", "401");
    let mut gone = Ask::of(&server);
    gone.registry["endpoint"] = json!(format!("http://127.0.0.1:{}", nobody()));
    gone.is_refused("Unavailable", "refused");
}

#[test]
fn what_is_not_what_its_digest_says_is_not_taken() {
    let (server, image) = (Server::plain(), Image::of(OCI));
    image.serve(&server);
    let other = "0".repeat(64);
    server.has(&path("manifests", &format!("sha256:{other}")), OCI.manifest, &image.manifest);
    Ask::of(&server).digest(&other).is_refused("Unsuitable", "not what its digest says");
    let blob = image.blobs[1].1.clone();
    let mut changed = blob.clone();
    changed[1000] ^= 1;
    for (answer, words) in [
        (Answer::Is(200, String::new(), changed), "not what its digest says"),
        (Answer::Is(200, String::new(), blob[1..].to_vec()), "cut off"),
        (Answer::Is(200, String::new(), [&blob[..], b"x"].concat()), "longer"),
        (Answer::HalfOf(blob), ""),
        (Answer::Endless, "longer"),
    ] {
        server.answers(&image.long_blob(), answer);
        Ask::of(&server).is_refused("Unavailable", words);
    }
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_was() {
    let (server, image) = (Server::plain(), Image::of(OCI));
    image.serve(&server);
    let blob = &image.blobs[1].1;
    server.answers(&image.long_blob(), Answer::ThirdsOf(blob.clone(), 0));
    let (found, archive) = Ask::of(&server).good();
    assert_eq!(found, image.found());
    assert_eq!(flattened(archive)["digest"], json!(image.digest));
    let third = blob.len().div_ceil(3);
    let from: Vec<_> = server.asked().into_iter().filter(|asked| asked.path == image.long_blob()).collect();
    let from: Vec<_> = from.into_iter().map(|asked| asked.from).collect();
    assert_eq!(from, [None, Some(third), Some(2 * third)]);
    // Not for ever, and not with another part of it.
    server.answers(&image.long_blob(), Answer::HalfOf(blob.clone()));
    Ask::of(&server).is_refused("Unavailable", "");
    assert_eq!(server.asked().into_iter().filter(|asked| asked.path == image.long_blob()).count(), 4);
    server.answers(&image.long_blob(), Answer::ThirdsOf(blob.clone(), 1));
    Ask::of(&server).is_refused("Unavailable", "another part");
}

#[test]
fn what_is_no_image_for_this_machine_is_refused() {
    let (server, tagged) = (Server::plain(), path("manifests", "v1"));
    let platform = json!({ "os": "linux", "architecture": "arm64" });
    let digest = format!("sha256:{}", "0".repeat(64));
    let other = json!({ "mediaType": OCI.manifest, "digest": digest, "size": 1, "platform": platform });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI.index, "manifests": [other] }).to_string();
    for (media_type, document, words) in [
        (OCI.index, index.as_bytes(), "linux/amd64"),
        (OCI.manifest, b"no json", "cannot be read"),
        ("text/html", br#"{"schemaVersion": 2}"#, "`text/html` is not known"),
        ("application/json", br#"{"schemaVersion": 1}"#, "version 1"),
    ] {
        server.has(&tagged, media_type, document);
        Ask::of(&server).resolve().is_refused("Unsuitable", words);
    }
    server.answers(&tagged, Answer::Endless);
    Ask::of(&server).resolve().is_refused("Unsuitable", "more than");
    let image = Image::of(OCI);
    image.serve(&server);
    let small = Ask { wanted: json!({ "Archive": { "max_len": 100_000 } }), ..Ask::of(&server) };
    small.is_refused("Unsuitable", "more than was said");
}

#[test]
fn a_registry_that_is_slow_or_silent_is_given_up() {
    let (server, image) = (Server::plain(), Image::of(OCI));
    image.serve(&server);
    let begun = Instant::now();
    server.answers(&image.long_blob(), Answer::Drips(image.blobs[1].1.clone()));
    Ask::of(&server).hurried().is_refused("Unavailable", "too slow");
    server.answers(&image.long_blob(), Answer::Silence);
    Ask::of(&server).hurried().is_refused("Unavailable", "");
    server.answers(&path("manifests", "v1"), Answer::Silence);
    Ask::of(&server).hurried().is_refused("Unavailable", "");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_blob_is_followed_to_no_place_of_this_node_and_not_for_ever() {
    let (server, victim, image) = (Server::plain(), Server::tls(), Image::of(OCI));
    image.serve(&server);
    victim.has("/x", "text/plain", b"secret");
    let port = victim.port;
    for (to, words) in [
        (format!("http://127.0.0.1:{port}/x"), "not by https"),
        (format!("https://127.0.0.1:{port}/x"), "not 443"),
        (format!("https://localhost:{port}/x"), "not 443"),
        ("https://127.0.0.1/x".into(), "not public"),
        ("https://[::1]/x".into(), "not public"),
        ("https://169.254.169.254/latest".into(), "not public"),
        ("https://localhost/x".into(), "no address that is public"),
        ("file:///etc/passwd".into(), "not by https"),
        ("http://[".into(), "leads nowhere"),
    ] {
        server.redirects(&image.long_blob(), &to);
        Ask::of(&server).is_refused("Unavailable", words);
    }
    assert_eq!(victim.asked(), []);
    server.asked();
    server.redirects(&image.long_blob(), &image.long_blob());
    Ask::of(&server).is_refused("Unavailable", "answered 307");
    let again = server.asked().iter().filter(|asked| asked.path == image.long_blob()).count();
    assert_eq!(again, 4);
    // A manifest is where its registry is.
    server.redirects(&path("manifests", "v1"), &path("manifests", "v2"));
    Ask::of(&server).is_refused("Unavailable", "answered 307");
}

#[test]
fn a_server_has_the_certificate_of_an_authority_that_was_named() {
    let (server, other, image) = (Server::tls(), Server::tls(), Image::of(OCI));
    image.serve(&server);
    assert_eq!(Ask::of(&server).good().0, image.found());
    Ask::of(&server).with("authorities", json!(other.certificate)).is_refused("Unavailable", "certificate");
    Ask::of(&server).with("authorities", json!("")).is_refused("Unavailable", "certificate");
}

#[test]
fn a_helper_ends_with_its_agent() {
    let (server, image) = (Server::plain(), Image::of(OCI));
    image.serve(&server);
    server.answers(&image.long_blob(), Answer::Silence);
    let mut child = Ask::of(&server).start(&tempfile::tempfile().unwrap());
    while !server.asked().iter().any(|asked| asked.path == image.long_blob()) {
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.try_wait().unwrap(), None);
    let begun = Instant::now();
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(begun.elapsed() < PATIENCE);
}
