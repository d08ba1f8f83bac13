//! Warm calls at 80 % of what so many warm sandboxes can take, at times that nobody's answer decides (an open loop), each
//! timed from when it was to come. So a call that waits for the one before it has waited, and none is left out because others were late.
//!
//! What they can take is measured first, by as many callers as there are sandboxes, each of which calls again when it is answered (a
//! closed loop). Then the same connections take the calls in the order in which they come.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    Figure,
    node::{Caller, Function, SETTLE, at_once, rest},
    note,
    plan::Plan,
};

const FUNCTION: &str = "load";
const TIMEOUT_S: u32 = 60;
/// Memory that pays for half a processor: the function's quota is not what it waits for.
const MEMORY_MIB: u32 = 1024;
/// Sandboxes, and connections.
const SANDBOXES: usize = 8;
/// Of what they can take.
const LOAD: f64 = 0.8;
/// Calls of each caller of the closed loop.
const CLOSED_CALLS: u32 = 20;
/// What a function waits for another service, as most functions do most of their time.
const WAIT_S: f64 = 0.05;
/// Of the times at which calls come: the same in each run.
const SEED: u64 = 80;

/// How calls come.
#[derive(Clone, Copy)]
enum Arrivals {
    /// Each whenever it likes, and none knows of another (a Poisson process): a queue has a tail of its own then.
    Random,
    /// One after the other, as far apart as all others: what is late is the node's doing.
    Even,
}

/// All figures, or none: of a function that waits, and of one that does nothing but answer, whose processor's queue is a figure too.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    if plan.load_calls == 0 {
        return Ok(Vec::new());
    }
    let caller = Caller::new(plan);
    caller.create(&Function::echo(plan, FUNCTION, MEMORY_MIB, TIMEOUT_S))?;
    let (waits, busy) = (format!(r#"{{"wait_s":{WAIT_S}}}"#), "{}");
    // All at once, so that there are as many sandboxes; what is made behind first answers is over then.
    at_once(plan, SANDBOXES, |caller| call_us(caller, r#"{"wait_s":2}"#))?;
    rest(SETTLE);
    let mut figures = Vec::new();
    for (event, loads) in [
        (&*waits, &[("warm_invoke_at_80", Arrivals::Random)][..]),
        (
            busy,
            &[("warm_invoke_busy_at_80", Arrivals::Random), ("warm_invoke_busy_even_at_80", Arrivals::Even)],
        ),
    ] {
        let rate = LOAD * capacity(plan, event)?;
        for (name, arrivals) in loads {
            note(&format!("{name}: {rate:.0} calls a second"));
            let arrivals = arrivals.of(plan.load_calls, rate);
            figures.push(Figure::new(*name, "us", open_loop(plan, event, &arrivals)?));
        }
    }
    caller.delete(FUNCTION)?;
    rest(SETTLE);
    Ok(figures)
}

/// Calls a second that the sandboxes can take: as many are under way at any time, so it is their number by how long one takes.
fn capacity(plan: &Plan, event: &str) -> Result<f64> {
    let all = at_once(plan, SANDBOXES, |caller| {
        (0..CLOSED_CALLS).map(|_| call_us(caller, event)).collect::<Result<Vec<_>>>()
    })?;
    let samples = all.concat();
    let mean_s = samples.iter().sum::<f64>() / samples.len() as f64 / 1e6;
    Ok(SANDBOXES as f64 / mean_s)
}

/// How long each call takes from when it was to come, µs.
fn open_loop(plan: &Plan, event: &str, arrivals: &[Duration]) -> Result<Vec<f64>> {
    let next = AtomicUsize::new(0);
    // Connections are open, and their first answers there, before the clock runs.
    let callers = (0..SANDBOXES).map(|_| Caller::new(plan)).collect::<Vec<_>>();
    for caller in &callers {
        call_us(caller, event)?;
    }
    let started = Instant::now();
    let take = |caller: &Caller| -> Result<Vec<f64>> {
        let mut samples = Vec::new();
        while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::SeqCst)) {
            rest(arrival.saturating_sub(started.elapsed()));
            call_us(caller, event)?;
            samples.push((started.elapsed() - *arrival).as_secs_f64() * 1e6);
        }
        Ok(samples)
    };
    let taken: Result<Vec<_>> = thread::scope(|scope| {
        let running: Vec<_> = callers.iter().map(|caller| scope.spawn(|| take(caller))).collect();
        let join = |caller: thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?
        };
        running.into_iter().map(join).collect()
    });
    Ok(taken?.concat())
}

fn call_us(caller: &Caller, event: &str) -> Result<f64> {
    Ok(caller.answer(FUNCTION, event)?.whole_us)
}

impl Arrivals {
    /// When so many calls come, from the beginning: so many a second on average.
    fn of(self, count: u32, rate: f64) -> Vec<Duration> {
        let (mut state, mut at) = (SEED, 0.0);
        let arrival = |_| {
            at += match self {
                Self::Random => -uniform(&mut state).ln() / rate,
                Self::Even => 1.0 / rate,
            };
            Duration::from_secs_f64(at)
        };
        (0..count).map(arrival).collect()
    }
}

/// A number above 0.0 and up to 1.0: 53 bits of SplitMix64 (Steele, Lea, Flood 2014).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_at_the_rate_that_was_asked_for_and_at_random() {
        let arrivals = Arrivals::Random.of(10_000, 100.0);
        let all = arrivals.last().unwrap().as_secs_f64();
        assert!((97.0..103.0).contains(&all), "{all} s");
        let gaps = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
        // Of an exponential distribution 1/e are longer than the mean.
        let long = gaps.filter(|gap| *gap > 0.01).count();
        assert!((3500..3860).contains(&long), "{long}");
    }

    #[test]
    fn calls_come_evenly() {
        let arrivals = Arrivals::Even.of(3, 100.0);
        assert_eq!(arrivals, [10, 20, 30].map(Duration::from_millis));
    }
}
