//! Limits as examples, and as a property under thousands of calls at once.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;

fn id(name: &str) -> FunctionId {
    FunctionId { region: "us-east-1".into(), name: name.into() }
}

fn concurrency(account: u32) -> Arc<Concurrency> {
    let bounds = config::Concurrency { account, ..config::Concurrency::default() };
    Arc::new(Concurrency::new(&bounds))
}

fn unreserved(most: u32) -> Share {
    Share::new("$LATEST", Claim::default(), most)
}

fn reserved(most: u32) -> Share {
    Share::new("$LATEST", Claim { reserved: Some(most), ..Claim::default() }, 0)
}

/// Of version 1, which has that much of what was provisioned.
fn provisioned(of_version: u32, reserved: Option<u32>, unclaimed: u32) -> Share {
    Share::new("1", Claim { reserved, provisioned: of_version, of_version }, unclaimed)
}

/// Of `$LATEST`, beside version 1.
fn beside(provisioned: u32, reserved: Option<u32>, unclaimed: u32) -> Share {
    Share::new("$LATEST", Claim { reserved, provisioned, of_version: 0 }, unclaimed)
}

#[test]
fn each_takes_its_share_and_gives_it_back() {
    let concurrency = concurrency(10);
    let enter = |name: &str, share| concurrency.enter(&id(name), share);
    let held = enter("f", reserved(1)).unwrap();
    assert_eq!(enter("f", reserved(1)).unwrap_err(), Throttle::Reserved);
    let other = enter("g", unreserved(1)).unwrap();
    assert_eq!(enter("h", unreserved(1)).unwrap_err(), Throttle::Concurrency);
    assert_eq!(enter("i", reserved(0)).unwrap_err(), Throttle::Reserved);
    drop(held);
    drop(other);
    enter("f", reserved(1)).unwrap();
    enter("h", unreserved(1)).unwrap();
    let counts = concurrency.counts();
    assert_eq!((counts.all, counts.unreserved), (0, 0));
    assert!(counts.functions.values().all(|counted| counted.all == 0));
}

#[test]
fn what_runs_when_it_is_reserved_counts() {
    let concurrency = concurrency(10);
    let before = concurrency.enter(&id("f"), unreserved(9)).unwrap();
    assert_eq!(concurrency.enter(&id("f"), reserved(1)).unwrap_err(), Throttle::Reserved);
    drop(before);
    concurrency.enter(&id("f"), reserved(1)).unwrap();
}

#[test]
fn what_was_provisioned_is_the_versions_and_it_spills_over() {
    let concurrency = concurrency(10);
    let enter = |share| concurrency.enter(&id("f"), share);
    let mine = [enter(provisioned(2, None, 1)).unwrap(), enter(provisioned(2, None, 1)).unwrap()];
    let spilled = enter(provisioned(2, None, 1)).unwrap();
    assert_eq!(enter(provisioned(2, None, 1)).unwrap_err(), Throttle::Concurrency);
    assert_eq!(enter(beside(2, None, 1)).unwrap_err(), Throttle::Concurrency);
    drop(mine);
    assert_eq!(enter(beside(2, None, 1)).unwrap_err(), Throttle::Concurrency, "that is version 1's");
    enter(provisioned(2, None, 1)).unwrap();
    drop(spilled);
    enter(beside(2, None, 1)).unwrap();
}

#[test]
fn of_what_is_reserved_the_provisioned_part_is_no_others() {
    let concurrency = concurrency(10);
    let enter = |share| concurrency.enter(&id("f"), share);
    assert_eq!(enter(beside(2, Some(2), 0)).unwrap_err(), Throttle::Reserved);
    let other = enter(beside(2, Some(3), 0)).unwrap();
    assert_eq!(enter(beside(2, Some(3), 0)).unwrap_err(), Throttle::Reserved);
    let mine = [enter(provisioned(2, Some(3), 0)).unwrap(), enter(provisioned(2, Some(3), 0)).unwrap()];
    assert_eq!(enter(provisioned(2, Some(3), 0)).unwrap_err(), Throttle::Reserved);
    drop(other);
    enter(provisioned(2, Some(3), 0)).unwrap();
    drop(mine);
}

#[test]
fn a_change_of_what_is_claimed_lets_in_no_more_than_the_account_has() {
    let concurrency = concurrency(3);
    let before: Vec<_> = (0..3).map(|_| concurrency.enter(&id("g"), unreserved(3)).unwrap()).collect();
    for share in [provisioned(2, None, 1), reserved(2)] {
        assert_eq!(concurrency.enter(&id("f"), share).unwrap_err(), Throttle::Concurrency);
    }
    drop(before);
    concurrency.enter(&id("f"), provisioned(2, None, 1)).unwrap();
}

#[test]
fn calls_are_ten_a_second_for_each_that_may_be_in_flight() {
    let concurrency = concurrency(100);
    let begin = Instant::now();
    let enter = |share: &Share, now| concurrency.enter_at(&id("f"), share.clone(), now).map(drop);
    for (share, count, reason) in [
        (reserved(2), 20, Throttle::ReservedRate),
        (unreserved(3), 30, Throttle::Rate),
        // Ten of its own, then as many as others.
        (provisioned(1, Some(2), 0), 10 + 20, Throttle::ReservedRate),
    ] {
        let now = begin + Duration::from_secs(60);
        let now = if share.provisioned > 0 { now + Duration::from_secs(60) } else { now };
        assert_eq!((0..100).filter(|_| enter(&share, now).is_ok()).count(), count, "{share:?}");
        assert_eq!(enter(&share, now), Err(reason));
        assert_eq!(enter(&share, now + Duration::from_secs(1)), Ok(()));
    }
}

#[test]
fn what_is_over_is_not_remembered_for_ever() {
    let concurrency = concurrency(10);
    let begin = Instant::now();
    for number in 0..3 * MAX_REMEMBERED as u32 {
        let now = begin + Duration::from_millis(number.into());
        concurrency.enter_at(&id(&format!("f{number}")), reserved(1), now).unwrap();
    }
    assert!(concurrency.counts().functions.len() <= MAX_REMEMBERED + 1);
}

/// What is inside at a time, and the most that there ever was.
#[derive(Default)]
struct Gauge {
    inside: AtomicU32,
    most: AtomicU32,
    entered: AtomicU32,
}

impl Gauge {
    fn enter(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.entered.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    #[track_caller]
    fn check(&self, limit: u32) {
        assert_eq!(self.most.load(Ordering::SeqCst), limit, "all of it, and never one more");
        assert!(self.entered.load(Ordering::SeqCst) > limit);
        assert_eq!(self.inside.load(Ordering::SeqCst), 0);
    }
}

/// Thirty-two threads, a thousand calls each, of a function that has reserved 6, 4 of them provisioned for its version 1, of one whose
/// version 1 has 3 and that has reserved nothing, and of one that has nothing; an account of 14.
#[test]
fn of_thousands_of_calls_at_once_never_one_more_than_allowed_is_in_flight() {
    const ROUNDS: u32 = 1000;
    let bounds =
        config::Concurrency { account: 14, calls_per_s: 1_000_000, ..config::Concurrency::default() };
    let concurrency = Arc::new(Concurrency::new(&bounds));
    let unclaimed = 14 - 6 - 3;
    let calls = [
        ("f", provisioned(4, Some(6), unclaimed)),
        ("f", beside(4, Some(6), unclaimed)),
        ("g", provisioned(3, None, unclaimed)),
        ("h", unreserved(unclaimed)),
    ];
    let [all, f, f_latest, g, h] = [(); 5].map(|()| Gauge::default());
    std::thread::scope(|scope| {
        for number in 0..32 {
            let (name, share) = calls[number % calls.len()].clone();
            let mine = match (name, share.provisioned) {
                ("f", 0) => &f_latest,
                ("g", _) => &g,
                ("h", _) => &h,
                _ => &all,
            };
            let (concurrency, all, f) = (&concurrency, &all, &f);
            scope.spawn(move || {
                let gauges: Vec<_> = [Some(all), (name == "f").then_some(f), Some(mine)]
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .filter(|(index, gauge)| *index == 0 || !std::ptr::eq(*gauge, all))
                    .map(|(_, gauge)| gauge)
                    .collect();
                for _ in 0..ROUNDS {
                    let Ok(slot) = concurrency.enter(&id(name), share.clone()) else {
                        std::thread::yield_now();
                        continue;
                    };
                    gauges.iter().for_each(|gauge| gauge.enter());
                    std::thread::sleep(Duration::from_micros(50));
                    gauges.iter().for_each(|gauge| gauge.leave());
                    drop(slot);
                }
            });
        }
    });
    all.check(14);
    f.check(6);
    f_latest.check(2);
    let counts = concurrency.counts();
    assert_eq!((counts.all, counts.unreserved), (0, 0));
    // Beyond their own what they had was the account's rest.
    assert!(h.most.load(Ordering::SeqCst) <= unclaimed);
    assert!(g.most.load(Ordering::SeqCst) <= 3 + unclaimed);
}
