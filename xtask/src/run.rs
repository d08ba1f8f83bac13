//! `cargo xtask run`: from a fresh checkout to a function's answer, then a node to play with.

use crate::cmd::Cmd;
use crate::context::Context;
use crate::lambda::{self, Answer, Function, LATEST};
use crate::node::{self, Auth, Node, Spec, Way};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

/// Below this the node's own system would not fit beside one sandbox.
const MIN_MEMORY_MIB: i64 = 1024;
const EXAMPLE: &str = "examples/python";
const FUNCTION: &str = "hello";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port of the Lambda API on 127.0.0.1.
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Stop after the first answer.
    #[arg(long)]
    once: bool,
    /// Take unsigned requests: for load generators that cannot sign.
    #[arg(long)]
    no_auth: bool,
    /// Memory of the node, MiB: half of this machine's, from 4096 to 8192.
    #[arg(long, value_name = "MIB", default_value_t = node::users_memory_mib(), value_parser = clap::value_parser!(u32).range(MIN_MEMORY_MIB..))]
    memory: u32,
    /// Boot the disk image by UEFI firmware instead of loading kernel and initrd directly.
    #[arg(long)]
    uefi: bool,
}

pub(crate) fn run(args: &Args, ctx: &Context) -> Result<()> {
    node::check_free(args.port)?;
    // One state disk a port: functions survive from run to run, and two nodes do not share a disk.
    let dir = ctx.cache.dir(&format!("run/{}", args.port))?;
    let spec = Spec {
        way: if args.uefi { Way::Uefi } else { Way::Direct },
        port: Some(args.port),
        memory_mib: args.memory,
        auth: if args.no_auth { Auth::Optional } else { Auth::Required },
        ..Spec::new(&dir.join("state.img"), &dir)
    };
    let node = node::boot(ctx, &spec)?;
    example(ctx, &node).with_context(|| {
        format!("the appliance runs, but its example function does not answer\n{}", node.process.last_words())
    })?;
    if args.once {
        return node.process.kill();
    }
    print!("{}", hints(&node, args));
    node.process.wait()
}

/// Creates the example function, unless the state disk has it, and invokes it: as it is, which initialises it in a microVM
/// that is booted (or, from the second run on, a clone of the runtime's snapshot), and its published version, which
/// resumes a clone of that version's snapshot.
fn example(ctx: &Context, node: &Node) -> Result<()> {
    let step = ctx.progress.step("creating and invoking the example function");
    let zip = zip_of(ctx, &ctx.path(EXAMPLE))?;
    let function = Function {
        name: FUNCTION,
        runtime: "python3.13",
        handler: "app.handler",
        memory_mb: 256,
        timeout_s: 60,
        zip: &zip,
    };
    node.endpoint.ensure_function(&function)?;
    let event = serde_json::json!({ "name": "Tinderbox" });
    let booted = node.endpoint.invoke(FUNCTION, LATEST, &event)?;
    step.done();
    show(LATEST, &booted);
    let step = ctx.progress.step("publishing a version with SnapStart and invoking it");
    let version = node.endpoint.publish(FUNCTION)?;
    let restored = node.endpoint.invoke(FUNCTION, &version, &event)?;
    step.done();
    show(&version, &restored);
    println!("\n{}", comparison(&Phases::of(&booted), &version, &Phases::of(&restored)));
    Ok(())
}

/// What a cold start did before the function ran, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Phases {
    booted: f64,
    initialised: f64,
    restored: f64,
}

impl Phases {
    fn of(answer: &Answer) -> Self {
        let mut phases = Self::default();
        for (name, ms) in timings(answer.header("server-timing").unwrap_or_default()) {
            match name.as_str() {
                "boot" => phases.booted += ms,
                "init" => phases.initialised += ms,
                "load" | "unique" | "hooks" => phases.restored += ms,
                _ => {}
            }
        }
        phases
    }
}

/// Init time against restore time. A clone that was lost has a boot in its place, which is said.
fn comparison(latest: &Phases, version: &str, published: &Phases) -> String {
    if published.initialised > 0.0 {
        return format!("version {version} was initialised, not restored: the agent's log says why");
    }
    let Phases { booted, initialised, restored } = latest;
    let machine = if *booted > 0.0 { "boot" } else { "clone its runtime" };
    format!(
        "before the function ran: {:.0} ms to {machine} and initialise {LATEST}, {:.0} ms to restore version {version}",
        booted + restored + initialised,
        published.restored
    )
}

/// What a folder with a function in it has beside it: what is said of it, and what was made of it by hand.
const BESIDE: &[&str] = &["README.md", "python.zip"];

/// A zip of a folder's files, by Python: on every machine that setup has seen.
pub(crate) fn zip_of(ctx: &Context, folder: &Path) -> Result<Vec<u8>> {
    let zip = ctx.cache.dir("run")?.join(format!("example-{}.zip", std::process::id()));
    let names: std::io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names.with_context(|| format!("read {}", folder.display()))?;
    names.retain(|name| !BESIDE.iter().any(|beside| name == beside));
    Cmd::new("python3").args(["-m", "zipfile", "-c"]).arg(&zip).args(names).dir(folder).read()?;
    let bytes = fs::read(&zip).with_context(|| format!("read {}", zip.display()));
    fs::remove_file(&zip).context("remove the scratch zip")?;
    bytes
}

fn show(version: &str, answer: &Answer) {
    println!("\n{FUNCTION}:{version} answered:\n{}", pretty(&answer.body));
    println!("\nwhere the {:.0} ms went, as the agent measured them:", answer.total_ms);
    for (name, ms) in timings(answer.header("server-timing").unwrap_or_default()) {
        println!("  {name:<6} {ms:>9.1} ms  {}", meaning(&name));
    }
}

fn pretty(body: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    pretty.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}

/// The entries of a Server-Timing header: `name;dur=milliseconds, …`.
fn timings(header: &str) -> Vec<(String, f64)> {
    let entry = |text: &str| {
        let (name, parameters) = text.trim().split_once(';')?;
        let ms = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("dur="))?;
        Some((name.to_owned(), ms.parse().ok()?))
    };
    header.split(',').filter_map(entry).collect()
}

fn meaning(name: &str) -> &'static str {
    match name {
        "queue" => "waiting for a sandbox to be free",
        "place" => "choosing or making room for a sandbox",
        "boot" => "VMM start to guest-init's hello",
        "init" => "runtime start to ready for events",
        "load" => "a snapshot into a waiting VMM",
        "unique" => "a copy of the snapshot into a machine of its own",
        "gate" => "of that, the guest's own steps",
        "hooks" => "the runtime's after-restore hooks",
        "run" => "the function itself",
        _ => "",
    }
}

/// What to try next.
fn hints(node: &Node, args: &Args) -> String {
    let url = node.endpoint.url();
    let sign = if args.no_auth { "\nunsigned requests are taken as well" } else { "" };
    format!(
        "
serving at {url} until Ctrl-C{sign}; serial log {log}
  export AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION=us-east-1
  aws --endpoint-url {url} lambda list-functions
  echo '{{\"name\":\"you\"}}' | aws --endpoint-url {url} lambda invoke --function-name {FUNCTION} \\
      --payload fileb:///dev/stdin --log-type Tail /dev/stdout
  aws --endpoint-url {url} lambda get-function-configuration --function-name {FUNCTION}
",
        log = node.serial_log.display(),
        key = lambda::ACCESS_KEY,
        secret = lambda::SECRET_KEY,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_is_compared_with_an_init() {
        let latest = Phases { booted: 512.6, initialised: 300.0, restored: 0.0 };
        let version = Phases { restored: 40.2, ..Phases::default() };
        let said = comparison(&latest, "3", &version);
        assert!(said.contains("813 ms to boot and initialise $LATEST, 40 ms to restore version 3"), "{said}");
        let cloned = Phases { booted: 0.0, restored: 30.0, ..latest };
        assert!(comparison(&cloned, "3", &version).contains("330 ms to clone its runtime and initialise"));
        assert!(comparison(&latest, "3", &latest).contains("version 3 was initialised"));
        assert!(comparison(&latest, "3", &cloned).contains("version 3 was initialised"));
    }

    #[test]
    fn timings_are_read_and_what_is_not_one_is_left_out() {
        let read = timings("queue;dur=0.1, boot;desc=x;dur=812.5, broken, run;dur=oops");
        assert_eq!(read, [("queue".to_owned(), 0.1), ("boot".to_owned(), 812.5)]);
    }
}
