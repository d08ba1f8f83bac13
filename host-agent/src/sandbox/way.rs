//! How a sandbox that is needed comes to be: values in, values out.
//!
//! The order is that of speed: a clone of the version's own snapshot, a clone of its runtime's, a boot. What was tried
//! and lost is not tried for ever: bad luck may strike twice, and what fails more often is no luck.

/// Clones of one request that may be lost before it is given a booted sandbox.
pub(crate) const MAX_LOST_CLONES: usize = 2;

/// Other sandboxes of one request that may be lost before it is given up: once is bad luck.
pub(crate) const MAX_LOST: usize = 2;

/// What one request has lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Clones of the version that did not become unique, or died before the event.
    pub(crate) clones: usize,
    /// Clones of its runtime, likewise.
    pub(crate) runtimes: usize,
    /// Booted and warm sandboxes that died before the event.
    pub(crate) others: usize,
}

impl Losses {
    /// Whether the request is given up.
    pub(crate) fn are_too_many(self) -> bool {
        self.others >= MAX_LOST
    }
}

/// How a sandbox comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way<S> {
    /// Cloned from the version's snapshot.
    Clone(S),
    /// Cloned from the runtime's snapshot, then initialised.
    Runtime(S),
    /// Booted and initialised.
    Boot,
}

impl<S> Way<S> {
    /// What answers call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Clone(_) => "snapshot",
            Self::Runtime(_) => "runtime-snapshot",
            Self::Boot => "boot",
        }
    }
}

/// The way for a request that has lost so much, with the snapshots that there are.
pub(crate) fn choose<S>(losses: Losses, version: Option<S>, runtime: Option<S>) -> Way<S> {
    if losses.clones >= MAX_LOST_CLONES {
        return Way::Boot;
    }
    match (version, runtime) {
        (Some(snapshot), _) => Way::Clone(snapshot),
        // A runtime's snapshot saves less: one loss is enough.
        (None, Some(snapshot)) if losses.clones + losses.runtimes == 0 => Way::Runtime(snapshot),
        _ => Way::Boot,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_request_ends_after_a_few_tries(
            lost in proptest::collection::vec(any::<bool>(), 0..16), version: bool, runtime: bool,
        ) {
            let mut losses = Losses::default();
            let (mut tries, mut booted) = (0, false);
            // Each try is lost, or serves the request.
            for serves in lost.iter().copied().chain(std::iter::repeat(false)) {
                tries += 1;
                match choose(losses, version.then_some("v"), runtime.then_some("r")) {
                    Way::Clone(name) => {
                        prop_assert!(version && name == "v" && !booted, "a boot is the last resort");
                        losses.clones += 1;
                    }
                    Way::Runtime(name) => {
                        prop_assert!(!version && runtime && name == "r" && losses == Losses::default());
                        losses.runtimes += 1;
                    }
                    Way::Boot => {
                        booted = true;
                        losses.others += 1;
                    }
                }
                if serves || losses.are_too_many() {
                    break;
                }
            }
            prop_assert!(tries <= MAX_LOST_CLONES + MAX_LOST);
        }
    }

    #[test]
    fn the_fastest_way_comes_first() {
        let none = Losses::default();
        assert_eq!(choose(none, Some(1), Some(2)), Way::Clone(1));
        assert_eq!(choose(none, None, Some(2)), Way::Runtime(2));
        assert_eq!(choose::<u8>(none, None, None), Way::Boot);
        let lost = |clones, runtimes| Losses { clones, runtimes, others: 0 };
        assert_eq!(choose(lost(1, 0), Some(1), None), Way::Clone(1));
        assert_eq!(choose(lost(1, 0), None, Some(2)), Way::Boot);
        assert_eq!(choose(lost(0, 1), None, Some(2)), Way::Boot);
        assert_eq!(choose(lost(0, 1), Some(1), Some(2)), Way::Clone(1), "it has been made meanwhile");
        assert_eq!(choose(lost(2, 0), Some(1), Some(2)), Way::Boot);
    }
}
