//! The queue by itself: what is on the disk when a process is killed, and what a million events cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::{
    record::tests::{event, parcel},
    schedule::{Next, is_lane, lane},
    *,
};

const LIMITS: Limits = Limits {
    max_count: 10_000_000,
    max_bytes: u64::MAX,
    max_share: 1000,
    max_lane_count: 1_000_000,
    max_lane_bytes: u64::MAX,
};

/// A destination.
const AWAY: &str = "arn:aws:s3:::away";

/// Where the victim has its queue.
const VICTIM: &str = "TINDERBOX_EVENTS_VICTIM";

struct Kept {
    store: Arc<EventStore>,
    ledger: Arc<Ledger>,
    keeper: Keeper,
}

fn open(path: &Path) -> Kept {
    let store = Arc::new(EventStore::open(path).unwrap());
    let mut schedule = Schedule::new(LIMITS);
    store.scan(|place, brief| schedule.found(&place, brief)).unwrap();
    let ledger = Ledger::new(schedule);
    let keeper = Keeper::start(Arc::clone(&store), Arc::clone(&ledger)).unwrap();
    Kept { store, ledger, keeper }
}

impl Kept {
    async fn add(&self, due_ms: u64, payload: &str) {
        let event = event("f", payload);
        let function = event.function.clone();
        let record = Item::Call(event).encode().unwrap();
        let brief = Brief { len: u32::try_from(record.len()).unwrap(), accepted_ms: due_ms };
        let make = |seq| Op::Add(Place { function, due_ms, seq }, brief, record);
        self.keeper.admit(brief.len, make).await.unwrap();
    }

    /// The next one that is due, and its payload.
    async fn next(&self) -> Option<(Place, Brief, String)> {
        loop {
            let next = self.ledger.schedule().next(u64::MAX);
            match next {
                Next::Deliver(place, brief) => {
                    let bytes = match self.store.read(&place).unwrap().unwrap().unwrap() {
                        Item::Call(event) => event.payload,
                        Item::Parcel(parcel) => parcel.record,
                        Item::Outcome(outcome) => panic!("{outcome:?}"),
                    };
                    return Some((place, brief, String::from_utf8(bytes.into()).unwrap()));
                }
                Next::Refill(function) => {
                    self.keeper.refill(function).await;
                    // The keeper answers in turn.
                    self.keeper.write(Vec::new()).await.unwrap();
                }
                Next::At(_) | Next::Idle => return None,
            }
        }
    }
}

/// Accepts events, has a destination's record come for each, and tells of that until it is killed; and says each when it is so. No test, unless one of the others has started it.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let kept = Arc::new(open(Path::new(&path)));
    for task in 0..8 {
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            for number in 0.. {
                let name = format!("\"{}-{task}-{number}\"", std::process::id());
                println!("accepting {name}");
                kept.add(number, &name).await;
                println!("accepted {name}");
            }
        });
    }
    loop {
        let Some((place, brief, name)) = kept.next().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut ops = vec![Op::Remove(place.clone(), brief)];
        if is_lane(&place.function) {
            println!("told {name}");
        } else {
            let record = Item::Parcel(parcel(AWAY, &name)).encode().unwrap();
            let brief = Brief { len: u32::try_from(record.len()).unwrap(), ..brief };
            let seq = kept.ledger.schedule().number();
            ops.push(Op::Add(Place { function: lane(AWAY), seq, ..place }, brief, record));
        }
        kept.keeper.write(ops).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_that_was_accepted_is_lost_with_a_process_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.redb");
    let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for life in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "events::tests::victim", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for (count, line) in lines.enumerate() {
            if let Some((what, name)) = line.split_once(' ') {
                said.entry(what.into()).or_default().insert(name.into());
            }
            // Lines that are in the pipe when it dies are read to the end.
            if count == life * 150 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    let kept = open(&path);
    let mut found = BTreeSet::new();
    while let Some((place, brief, name)) = kept.next().await {
        assert!(found.insert(name), "it waits once");
        kept.keeper.write(vec![Op::Remove(place, brief)]).await.unwrap();
    }
    let (accepted, told) = (&said["accepted"], &said["told"]);
    assert!(accepted.len() > 100 && told.len() > 20, "{} and {}", accepted.len(), told.len());
    let lost: Vec<_> =
        accepted.iter().filter(|name| !found.contains(*name) && !told.contains(*name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    // What was not acknowledged may be there, and nothing else.
    assert!(found.is_subset(&said["accepting"]));
    assert_eq!(kept.ledger.schedule().totals().0, Totals::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_cost_a_window_of_memory_and_drain_in_the_order_of_their_age() {
    let all = std::env::var_os("TINDERBOX_EXHAUSTIVE").is_some();
    let (count, tasks) = if all { (1_000_000, 1000) } else { (6000, 100) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.redb");
    let kept = Arc::new(open(&path));
    let mut adding = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let kept = Arc::clone(&kept);
        adding.spawn(async move {
            for number in 0..count / tasks {
                let due_ms = number * tasks + task;
                kept.add(due_ms, &due_ms.to_string()).await;
            }
        });
    }
    while let Some(added) = adding.join_next().await {
        added.unwrap();
    }
    drop(adding);
    let before = resident_kib();
    drop(Arc::into_inner(kept).unwrap());
    // The keeper's thread ends by itself.
    while EventStore::open(&path).is_err() {
        tokio::task::yield_now().await;
    }
    let kept = open(&path);
    assert_eq!(kept.ledger.schedule().totals().0.count, count);
    let mut removals = Vec::new();
    for expected in 0..count {
        let (place, brief, payload) = kept.next().await.unwrap();
        assert_eq!((place.due_ms, payload), (expected, expected.to_string()));
        removals.push(Op::Remove(place, brief));
        // As many as may be under way.
        if removals.len() == LIMITS.max_share {
            kept.keeper.write(std::mem::take(&mut removals)).await.unwrap();
        }
    }
    kept.keeper.write(removals).await.unwrap();
    assert_eq!(kept.ledger.schedule().totals().0, Totals::default());
    let grown = resident_kib().saturating_sub(before);
    println!(
        "{count} events: {before} KiB with all of them waiting, {grown} KiB more after all were drained"
    );
    assert!(grown < 64 * 1024, "{grown} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn another_versions_file_and_a_strange_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.redb");
    std::fs::write(&path, "no database").unwrap();
    let error = describe(&EventStore::open(&path).unwrap_err());
    assert!(error.contains("events.redb"), "{error}");
}

#[test]
fn what_is_damaged_is_told_from_what_is_gone_and_the_dead_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = EventStore::open(&dir.path().join("events.redb")).unwrap();
    let function = event("f", "1").function;
    let place = |seq| Place { function: function.clone(), due_ms: 1, seq };
    let brief = Brief { len: 3, accepted_ms: 1 };
    store.apply(&[Op::Add(place(1), brief, b"bad".to_vec())]).unwrap();
    assert!(store.read(&place(1)).unwrap().unwrap().is_err());
    assert!(store.read(&place(2)).unwrap().is_none());
    let graves: Vec<_> = (0..100).map(|seq| Op::Bury(place(seq), seq.to_string().into_bytes())).collect();
    store.apply(&graves).unwrap();
    let dead = store.dead(&function).unwrap();
    assert_eq!((dead.len(), &dead[0][..]), (store::MAX_DEAD, &b"99"[..]));
    assert!(store.buried().unwrap().iter().eq([&function]));
    store.apply(&[Op::Forget(function.clone())]).unwrap();
    assert!(store.dead(&function).unwrap().is_empty());
    let others = (0..8200).map(|number| {
        let function = FunctionId { region: "r".into(), name: format!("f{number}") };
        Op::Bury(Place { function, due_ms: 1, seq: 1 }, b"1".to_vec())
    });
    store.apply(&others.collect::<Vec<_>>()).unwrap();
    assert_eq!(store.buried().unwrap().len(), 8192);
}
