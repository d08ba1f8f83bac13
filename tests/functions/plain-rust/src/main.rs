//! A function for `provided.al2023`, or a container image, with no runtime client but the standard library's TCP: it knows nothing of snapshots, so
//! one is taken in its first `invocation/next`. Tells which sandbox it is in, what it drew, and what the program in
//! `restore.d` left behind (`bin/restore-hook.rs`). Built static by `cargo xtask test`, deployed by `tests/it`.

mod api;

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use api::{RuntimeApi, Stream};

/// See `docs/uniqueness.md`.
const GENERATION: &str = "/run/tinderbox/generation";
const COUNTER_AT: u64 = 16;
const ID_AT: u64 = 24;

/// Counted up for as long as this program runs and was not resumed.
const TICKS: &str = "/tmp/ticks";

/// What the program in `restore.d` appends to.
const REPORT: &str = "/tmp/restore-hook";

/// Longest attribute that is told of.
const ATTRIBUTE_LEN: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let api = RuntimeApi::of_environment()?;
    say("init");
    let drawn_in_init = draw()?;
    if env::var("AWS_LAMBDA_INITIALIZATION_TYPE")? == "snap-start" {
        let ticks = File::create(TICKS)?;
        thread::spawn(move || count(&ticks).inspect_err(|error| eprintln!("no more ticks: {error}")));
    }
    loop {
        let event = api.next()?;
        // Before anything else: in a clone this is the first that runs here.
        let mut answer = tell()?;
        say("event");
        answer["drawn_in_init"] = drawn_in_init.as_str().into();
        let asked: Value = serde_json::from_slice(&event.document)?;
        if let Some(paths) = asked["write_to"].as_array() {
            let written = |path: &Value| path.as_str().is_some_and(|path| fs::write(path, b"x").is_ok());
            answer["written"] = paths.iter().map(written).collect();
        }
        if let [Some(path), Some(name)] = [&asked["attribute"][0], &asked["attribute"][1]].map(Value::as_str)
        {
            answer["attribute"] =
                attribute(path, name).map_or_else(|error| error.to_string(), |value| hex(&value)).into();
        }
        // What a URL's client wants is in its body.
        let asked = asked["body"].as_str().map_or(Ok(asked.clone()), serde_json::from_str)?;
        if let Some(pieces) = asked["stream"].as_array() {
            let response = Stream {
                content_type: asked["content_type"].as_str().unwrap_or("text/plain"),
                pieces: pieces.iter().filter_map(Value::as_str).collect(),
                hold: Duration::from_secs(asked["hold_s"].as_u64().unwrap_or(0)),
                error: asked["error"].as_str(),
            };
            api.stream(&event.request_id, &response)?;
            continue;
        }
        // Nobody unparks it: the call is held for as long as it asks.
        thread::park_timeout(Duration::from_secs(asked["hold_s"].as_u64().unwrap_or(0)));
        api.respond(&event.request_id, answer.to_string().as_bytes())?;
    }
}

/// Says at which step of its life it is, if somebody wants to know, so that it can be killed then.
fn say(step: &str) {
    if env::var_os("STEPS").is_some() {
        println!("step: {step}");
        // A line takes a moment to whoever waits for it: as long, the function stays where it is.
        thread::park_timeout(Duration::from_secs(1));
    }
}

fn tell() -> Result<Value, Box<dyn Error>> {
    let drawn = draw()?;
    let report = fs::read_to_string(REPORT).unwrap_or_default();
    let reports: Result<Vec<Value>, _> = report.lines().map(serde_json::from_str).collect();
    Ok(json!({
        "drawn": drawn,
        "boot_id": fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim(),
        "instance_id": fs::read_to_string("/run/tinderbox/instance-id")?.trim(),
        "generation": hex(&generation::<16>(ID_AT)?),
        "type": env::var("AWS_LAMBDA_INITIALIZATION_TYPE")?,
        "version": env::var("AWS_LAMBDA_FUNCTION_VERSION")?,
        "pid": std::process::id(),
        "arguments": env::args().collect::<Vec<_>>(),
        "folder": env::current_dir()?,
        "said_by_image": env::var("SAID_BY_IMAGE").ok(),
        "reports": reports?,
    }))
}

/// An extended attribute of a file.
fn attribute(path: &str, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; ATTRIBUTE_LEN];
    let len = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn draw() -> Result<String, Box<dyn Error>> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(hex(&bytes))
}

fn count(ticks: &File) -> io::Result<()> {
    let mut count: u64 = 0;
    while generation(COUNTER_AT)? == [0; 8] {
        count += 1;
        ticks.write_all_at(&count.to_le_bytes(), 0)?;
    }
    Ok(())
}

fn generation<const LEN: usize>(at: u64) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    File::open(GENERATION)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
