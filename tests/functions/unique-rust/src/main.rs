//! What `tests/functions/unique` is in Python: draws one of everything that must differ between clones, first thing after
//! a resume, and tells it when it is asked. Run by the proof of uniqueness (`tests/vm-driver`).
//!
//! Samples are taken by AWS's SnapStart hook; by a thread that is older than the snapshot, has its own generator and
//! follows the published generation; by one that sleeps until the published generation wakes it; and by a thread that spins on
//! the kernel's generator across the snapshot.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lambda_runtime::{BoxFuture, Error, LambdaEvent, Runtime, SnapStartResource, service_fn};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rand::Rng as _;
use serde_json::{Map, Value, json};

/// See `docs/uniqueness.md`.
const GENERATION: &str = "/run/tinderbox/generation";
const COUNTER_AT: u64 = 16;

/// How long the event may take to wake a thread that is let go: nothing, but for a busy host.
const EVENT_LIMIT: Duration = Duration::from_secs(5);

/// How many values of the spinner are told: enough that two clones with one state would share most of them.
const SPINS: usize = 200;

/// A snapshot takes longer than this, and nothing else sets the clock.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// Files whose content no other clone has.
const FILES: &[(&str, &str)] = &[
    ("boot_id", "/proc/sys/kernel/random/boot_id"),
    ("etc_hostname", "/etc/hostname"),
    ("hostname", "/proc/sys/kernel/hostname"),
    ("instance_id", "/run/tinderbox/instance-id"),
    ("kernel_uuid", "/proc/sys/kernel/random/uuid"),
    ("machine_id", "/etc/machine-id"),
];

/// The published generation.
struct Generation(File);

impl Generation {
    fn open() -> io::Result<Self> {
        File::open(GENERATION).map(Self)
    }

    fn counter(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, COUNTER_AT)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_kernel() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(hex(&bytes))
}

fn from_device() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex(&bytes))
}

/// From the generator that this thread has of its own.
fn from_rand() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

fn sample() -> Result<Map<String, Value>, Error> {
    let mut drawn = Map::new();
    for (name, path) in FILES {
        drawn.insert((*name).into(), fs::read_to_string(path)?.trim().into());
    }
    drawn.insert("generation".into(), Generation::open()?.counter()?.into());
    drawn.insert("getrandom".into(), from_kernel()?.into());
    drawn.insert("urandom".into(), from_device()?.into());
    drawn.insert("rand".into(), from_rand().into());
    Ok(drawn)
}

/// A thread that is asked by a channel, and answers on the one that it is sent.
type Asked<T> = SyncSender<SyncSender<Result<T, Error>>>;

fn ask<T>(thread: &Asked<T>) -> Result<T, Error> {
    let (reply, answer) = mpsc::sync_channel(1);
    thread.send(reply).map_err(|_| "the thread is gone")?;
    answer.recv()?
}

/// A thread whose generator was seeded before the snapshot; reseeds it when the generation changes.
fn follow() -> Asked<String> {
    let (asked, questions) = mpsc::sync_channel::<SyncSender<Result<String, Error>>>(1);
    thread::spawn(move || {
        let mut known = None;
        from_rand();
        for reply in questions {
            let drawn = Generation::open().and_then(|generation| generation.counter()).map_err(Error::from);
            let drawn = drawn.and_then(|now| {
                if known.replace(now) != Some(now) {
                    rand::rng().reseed()?;
                }
                Ok(from_rand())
            });
            let _ = reply.send(drawn);
        }
    });
    asked
}

/// A thread that sleeps until the page is written, and tells the counter that it finds then.
fn sleep() -> Result<Receiver<io::Result<u64>>, Error> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(GENERATION, AddWatchFlags::IN_MODIFY)?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let woken = inotify.read_events().map_err(io::Error::from);
        let counter = woken.and_then(|_| Generation::open()?.counter());
        // Whoever does not listen has ended.
        let _ = tell.send(counter);
    });
    Ok(told)
}

/// A thread that draws without a pause across the snapshot, and tells what it drew first after the resume.
fn spin() -> Asked<Vec<String>> {
    let (asked, questions) = mpsc::sync_channel(1);
    thread::spawn(move || {
        if let Err(error) = draw_for_ever(&questions) {
            eprintln!("the spinner ended: {error}");
        }
    });
    asked
}

fn draw_for_ever(questions: &Receiver<SyncSender<Result<Vec<String>, Error>>>) -> Result<(), Error> {
    let generation = Generation::open()?;
    let clocks = Clocks::new();
    let (mut known, mut apart, mut kept) = (generation.counter()?, clocks.apart(), Vec::new());
    loop {
        let before = generation.counter()?;
        let value = from_kernel()?;
        // As the documentation asks of who must not miss a resume between a draw and its use.
        if generation.counter()? != before {
            continue;
        }
        if before != known {
            (known, apart, kept) = (before, clocks.apart(), Vec::new());
        } else if clocks.apart().abs_diff(apart) > CLOCK_STEP {
            // This one may be from before.
            (apart, kept) = (clocks.apart(), Vec::new());
            continue;
        }
        if kept.len() < SPINS {
            kept.push(value);
        }
        match questions.try_recv() {
            Ok(reply) => drop(reply.send(Ok(kept.clone()))),
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// The wall clock and the monotonic one. How far they are apart, every resume sets anew, even where no generation is
/// published.
struct Clocks {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clocks {
    fn new() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    /// By how much the wall clock went on further than the monotonic one; none when it is the other way round.
    fn apart(&self) -> Duration {
        self.wall.elapsed().unwrap_or_default().saturating_sub(self.monotonic.elapsed())
    }
}

/// Returns when the guest is as old as `AGE_S` says, in seconds.
async fn grow_old() -> Result<(), Error> {
    let Ok(age) = env::var("AGE_S") else { return Ok(()) };
    let uptime = fs::read_to_string("/proc/uptime")?;
    let now: f64 = uptime.split(' ').next().ok_or("no uptime")?.parse()?;
    let left = Duration::from_secs_f64((age.parse::<f64>()? - now).max(0.0));
    // The age itself is what is waited for.
    tokio::time::sleep_until(tokio::time::Instant::now() + left).await;
    Ok(())
}

struct Sampler {
    follower: Asked<String>,
    spinner: Asked<Vec<String>>,
    sleeper: Mutex<Receiver<io::Result<u64>>>,
    before: Mutex<Map<String, Value>>,
    after: Mutex<Map<String, Value>>,
}

impl Sampler {
    /// Every generator is seeded, so that a clone that is not made unique repeats it.
    fn before(&self) -> Result<(), Error> {
        if self.sleeper().try_recv().is_ok() {
            return Err("the event came before any resume".into());
        }
        let mut drawn = sample()?;
        drawn.insert("rand_of_older_thread".into(), ask(&self.follower)?.into());
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = drawn;
        Ok(())
    }

    fn after(&self) -> Result<(), Error> {
        // This thread's; the kernel cannot.
        rand::rng().reseed()?;
        let mut drawn = sample()?;
        drawn.insert("rand_of_older_thread".into(), ask(&self.follower)?.into());
        let woken = match self.sleeper().recv_timeout(EVENT_LIMIT) {
            Ok(counter) => counter?.into(),
            // It has this in common with every other clone that sleeps.
            Err(_) => Value::from("slept"),
        };
        if woken.is_u64() && drawn["generation"] != woken {
            return Err(format!("the event came with generation {woken}").into());
        }
        drawn.insert("generation_at_event".into(), woken);
        drawn.insert("spinner".into(), ask(&self.spinner)?.into());
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = drawn;
        Ok(())
    }

    fn sleeper(&self) -> MutexGuard<'_, Receiver<io::Result<u64>>> {
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Value {
        let copy = |drawn: &Mutex<Map<_, _>>| drawn.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let after = copy(&self.after);
        json!({ "restored": !after.is_empty(), "before": copy(&self.before), "after": after })
    }
}

impl SnapStartResource for Sampler {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            grow_old().await?;
            self.before()
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { self.after() })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let sampler = Arc::new(Sampler {
        follower: follow(),
        spinner: spin(),
        sleeper: Mutex::new(sleep()?),
        before: Mutex::default(),
        after: Mutex::default(),
    });
    let answer = |_: LambdaEvent<Value>| async { Ok::<_, Error>(sampler.told()) };
    Runtime::new(service_fn(answer)).register_snapstart_resource(sampler.clone()).run().await
}
