//! Which tests miss a rule: no verdict is one of a machine that was busy. Knows nothing of programs: whoever asks says how a test is run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// In how many times as long as it took with all rules, and what it may take beside that, a test has to end without one of them.
const PATIENCE: u32 = 8;
const PATIENCE_MIN: Duration = Duration::from_secs(20);

/// How often a test that fails without a rule is run: what fails for another reason now and then has missed nothing.
const ATTEMPTS: usize = 2;

/// How often the limit is doubled, when a test with all rules does not keep it either.
const DOUBLINGS: u32 = 4;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    TimedOut,
}

/// How a test is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial<'a> {
    /// `FILTER:INDEX`, or `FILTER:*` for all rules of a filter; none: nothing is left out.
    pub(super) left_out: Option<&'a str>,
    /// None: as long as it takes.
    pub(super) limit: Option<Duration>,
}

/// With all rules, and without a limit.
const WHOLE: Trial<'static> = Trial { left_out: None, limit: None };

/// A test that passes with all rules, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Measured<T> {
    pub(super) test: T,
    took: Duration,
}

/// Runs tests, several at once.
pub(super) struct Search<R> {
    /// How.
    pub(super) run: R,
    /// How many at once.
    pub(super) workers: usize,
}

impl<R> Search<R> {
    /// Those tests, quickest first.
    ///
    /// # Errors
    /// One of them does not pass.
    pub(super) fn measure<T>(&self, tests: &[T]) -> Result<Vec<Measured<T>>>
    where
        T: Clone + std::fmt::Display + Send + Sync,
        R: Fn(&T, Trial<'_>) -> Result<Outcome> + Sync,
    {
        let mut measured = in_parallel(self.workers, tests, |test| {
            let began = Instant::now();
            ensure!((self.run)(test, WHOLE)? == Outcome::Passed, "{test} does not pass with all rules");
            Ok(Measured { test: test.clone(), took: began.elapsed() })
        })?;
        measured.sort_by_key(|test| test.took);
        Ok(measured)
    }

    /// Those of the tests in which something has that filter: they are told by missing all of its rules together.
    pub(super) fn of_filter<T>(&self, filter: &str, tests: &[Measured<T>]) -> Result<Vec<Measured<T>>>
    where
        T: Clone + Send + Sync,
        R: Fn(&T, Trial<'_>) -> Result<Outcome> + Sync,
    {
        let all = format!("{filter}:*");
        let touched =
            in_parallel(self.workers, tests, |test| Ok(self.misses(test, &all)?.then(|| test.clone())))?;
        Ok(touched.into_iter().flatten().collect())
    }

    /// The first of the tests that misses the rule at that place.
    pub(super) fn missed_by<'a, T>(
        &self,
        place: &str,
        tests: &'a [Measured<T>],
    ) -> Result<Option<&'a Measured<T>>>
    where
        R: Fn(&T, Trial<'_>) -> Result<Outcome> + Sync,
    {
        for test in tests {
            if self.misses(test, place)? {
                return Ok(Some(test));
            }
        }
        Ok(None)
    }

    /// Whether a test misses what is left out, each time.
    fn misses<T>(&self, test: &Measured<T>, left_out: &str) -> Result<bool>
    where
        R: Fn(&T, Trial<'_>) -> Result<Outcome> + Sync,
    {
        for _ in 0..ATTEMPTS {
            match self.decided(test, left_out)? {
                Outcome::Passed => return Ok(false),
                Outcome::Failed => {}
                // It has waited long enough, and what it would wait for with all rules came.
                Outcome::TimedOut => return Ok(true),
            }
        }
        Ok(true)
    }

    /// How a test ends without a rule, in a time in which it ends with all of them, the machine being as busy as it is.
    fn decided<T>(&self, test: &Measured<T>, left_out: &str) -> Result<Outcome>
    where
        R: Fn(&T, Trial<'_>) -> Result<Outcome> + Sync,
    {
        let mut limit = PATIENCE_MIN + PATIENCE * test.took;
        for _ in 0..DOUBLINGS {
            let trial = Trial { left_out: Some(left_out), limit: Some(limit) };
            let outcome = (self.run)(&test.test, trial)?;
            let control = Trial { limit: Some(limit), ..WHOLE };
            if outcome != Outcome::TimedOut || (self.run)(&test.test, control)? == Outcome::Passed {
                return Ok(outcome);
            }
            limit *= 2;
        }
        bail!("the machine is too busy: with all rules a test of {:?} takes longer than {limit:?}", test.took)
    }
}

/// What `work` makes of each of the items, in their order; after an error nothing more is begun.
pub(super) fn in_parallel<T: Sync, A: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<A> + Sync,
) -> Result<Vec<A>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(index)
                {
                    let result = work(item);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(test: &'static str) -> Measured<&'static str> {
        Measured { test, took: Duration::from_secs(1) }
    }

    fn search<R: Fn(&&'static str, Trial<'_>) -> Result<Outcome> + Sync>(run: R) -> Search<R> {
        Search { run, workers: 2 }
    }

    #[test]
    fn a_rule_is_missed_by_the_first_test_that_fails_without_it() {
        let search = search(|test, trial| match (*test, trial.left_out) {
            ("second" | "third", Some("io:1")) | ("third", Some("io:*")) => Ok(Outcome::Failed),
            _ => Ok(Outcome::Passed),
        });
        let tests = ["first", "second", "third"].map(measured);
        assert_eq!(search.missed_by("io:1", &tests).unwrap(), Some(&tests[1]));
        assert_eq!(search.missed_by("io:2", &tests).unwrap(), None);
        assert_eq!(search.of_filter("io", &tests).unwrap(), [measured("third")]);
    }

    #[test]
    fn a_test_that_fails_once_has_missed_nothing() {
        let runs = AtomicUsize::new(0);
        let search = search(|_, _| {
            Ok(if runs.fetch_add(1, Ordering::Relaxed) == 0 { Outcome::Failed } else { Outcome::Passed })
        });
        assert_eq!(search.missed_by("io:1", &[measured("test")]).unwrap(), None);
    }

    #[test]
    fn a_test_that_waits_has_missed_a_rule_only_if_it_does_not_wait_with_all_of_them() {
        // The machine makes everything take as long as this.
        let slow = |slowest: Duration| {
            move |_: &&'static str, trial: Trial<'_>| {
                let is_late = trial.left_out.is_some() || trial.limit.is_some_and(|limit| limit < slowest);
                Ok(if is_late { Outcome::TimedOut } else { Outcome::Passed })
            }
        };
        let test = measured("test");
        for seconds in [1, 100] {
            let search = search(slow(Duration::from_secs(seconds)));
            assert!(search.missed_by("io:1", std::slice::from_ref(&test)).unwrap().is_some(), "{seconds} s");
        }
        assert!(search(slow(Duration::MAX)).missed_by("io:1", &[test]).is_err());
    }

    #[test]
    fn a_test_that_fails_with_all_rules_is_an_error_that_names_it() {
        let search = search(|test, _| Ok(if *test == "b" { Outcome::Failed } else { Outcome::Passed }));
        assert_eq!(search.measure(&["a"]).unwrap().len(), 1);
        assert!(search.measure(&["a", "b"]).unwrap_err().to_string().contains('b'));
    }

    #[test]
    fn what_is_done_at_once_comes_in_its_order() {
        let items: Vec<_> = (0..100).collect();
        assert_eq!(in_parallel(3, &items, |item| Ok(item * 2)).unwrap()[99], 198);
        assert!(in_parallel(3, &items, |item| if *item == 7 { bail!("seven") } else { Ok(()) }).is_err());
    }
}
