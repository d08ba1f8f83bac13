//! What the agent says of an invocation's time: the `Server-Timing` header of its answer. Pure.

/// A sandbox that was resumed from its version's snapshot.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// A sandbox that was booted.
pub(crate) const BOOT: &str = "boot";

/// Part of `unique`.
const GATE: &str = "gate";

/// A header, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timing {
    /// How the sandbox came to be; none for one that was there already.
    pub(crate) way: Option<String>,
    /// Names and microseconds.
    phases: Vec<(String, f64)>,
}

impl Timing {
    /// Reads `way;desc=boot, queue;dur=0.1`; what is of another form is left out.
    pub(crate) fn parse(header: &str) -> Self {
        let mut timing = Self::default();
        for entry in header.split(',') {
            let Some((name, parameter)) = entry.trim().split_once(';') else { continue };
            match parameter.split_once('=') {
                Some(("desc", way)) if name == "way" => timing.way = Some(way.to_owned()),
                Some(("dur", ms)) => {
                    timing.phases.extend(ms.parse().ok().map(|ms: f64| (name.to_owned(), ms * 1e3)));
                }
                _ => {}
            }
        }
        timing
    }

    /// All phases together; one that is part of another is counted once.
    pub(crate) fn total_us(&self) -> f64 {
        self.phases.iter().filter(|(name, _)| name != GATE).map(|(_, us)| us).sum()
    }

    /// Microseconds of a phase, 0 for one that did not happen.
    pub(crate) fn us(&self, phase: &str) -> f64 {
        self.phases.iter().filter(|(name, _)| name == phase).map(|(_, us)| us).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_what_is_no_timing_is_left_out() {
        let text = "way;desc=snapshot, place;dur=1.500, load;dur=oops, x, gate;dur=9, run;dur=2.000";
        let timing = Timing::parse(text);
        assert_eq!(timing.way.as_deref(), Some(SNAPSHOT));
        assert_eq!((timing.us("place"), timing.us("load"), timing.us("run")), (1500.0, 0.0, 2000.0));
        assert_eq!(timing.total_us(), 3500.0);
        assert_eq!(Timing::parse(""), Timing::default());
    }
}
