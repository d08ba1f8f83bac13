//! A figure: its samples, their median and spread, and what it is held against. Pure.

use serde::{Deserialize, Serialize};

/// Raw samples of one figure, as the driver inside the appliance (or a look at a file) took them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// Never reused for another meaning: recorded figures are compared by it.
    pub(crate) name: String,
    /// `ms`, `us` or `bytes`.
    pub(crate) unit: String,
    /// At least one, in the order taken.
    pub(crate) samples: Vec<f64>,
}

/// One line of the table and one entry of `--json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Of [`Samples`], with `.p50` or `.p99` where one set of samples gives several figures.
    pub(crate) name: String,
    /// The median, or the percentile that the name says.
    pub(crate) value: f64,
    /// `ms`, `us` or `bytes`.
    pub(crate) unit: String,
    /// Smallest and largest sample.
    pub(crate) spread: (f64, f64),
    /// How many samples.
    pub(crate) samples: usize,
    /// What it is held against.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) against: Option<Against>,
}

/// A peer's value from the same run, or a limit that was promised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct Against {
    /// The peer's name, or `limit`.
    pub(crate) name: String,
    /// In the figure's unit.
    pub(crate) value: f64,
    /// Figure divided by value: below 1 is better than the peer or within the limit.
    pub(crate) ratio: f64,
}

/// Suffix of a peer's samples: `boot_to_guest_init.firecracker` is held against by `boot_to_guest_init`.
const PEER: &str = "firecracker";

/// What issue and documents promise, in the unit of the figure.
const LIMITS: &[(&str, f64)] =
    &[("vmm_private_memory", 4.0 * 1024.0 * 1024.0), ("agent_cpu_per_warm_invoke", 1000.0)];

/// Figures whose tail matters as much as their middle.
const WITH_TAIL: &str = "warm_invoke";

/// All figures of a run, in the order of their samples.
pub(crate) fn figures(all: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for samples in all {
        let sorted = sorted(&samples.samples);
        if sorted.is_empty() || samples.name.ends_with(PEER) {
            continue;
        }
        if samples.name.starts_with(WITH_TAIL) {
            figures.push(figure(samples, ".p50", percentile(&sorted, 50), &sorted));
            figures.push(figure(samples, ".p99", percentile(&sorted, 99), &sorted));
        } else {
            let mut figure = figure(samples, "", median(&sorted), &sorted);
            figure.against = against(&figure, all);
            figures.push(figure);
        }
    }
    figures
}

fn figure(samples: &Samples, suffix: &str, value: f64, sorted: &[f64]) -> Figure {
    Figure {
        name: format!("{}{suffix}", samples.name),
        value,
        unit: samples.unit.clone(),
        spread: (sorted[0], sorted[sorted.len() - 1]),
        samples: sorted.len(),
        against: None,
    }
}

/// A limit wins over a peer: it is the harder promise.
fn against(figure: &Figure, all: &[Samples]) -> Option<Against> {
    let limit = LIMITS.iter().find(|(name, _)| *name == figure.name).map(|(_, value)| ("limit", *value));
    let peer_name = format!("{}.{PEER}", figure.name);
    let peer = || all.iter().find(|samples| samples.name == peer_name && !samples.samples.is_empty());
    let (name, value) = limit.or_else(|| peer().map(|peer| (PEER, median(&sorted(&peer.samples)))))?;
    Some(Against { name: name.to_owned(), value, ratio: figure.value / value })
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Nearest-rank percentile.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str, samples: &[f64]) -> Samples {
        Samples { name: name.to_owned(), unit: "ms".to_owned(), samples: samples.to_vec() }
    }

    #[test]
    fn a_peer_becomes_a_ratio_and_no_line_of_its_own() {
        let all = [samples("boot", &[3.0, 1.0, 2.0]), samples("boot.firecracker", &[4.0, 4.0])];
        let figures = figures(&all);
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].value, figures[0].spread), (2.0, (1.0, 3.0)));
        assert_eq!(figures[0].against.as_ref().map(|against| against.ratio), Some(0.5));
    }

    #[test]
    fn a_limit_is_held_against() {
        let figures = figures(&[samples("agent_cpu_per_warm_invoke", &[250.0])]);
        let against = figures[0].against.as_ref().unwrap();
        assert_eq!((against.name.as_str(), against.ratio), ("limit", 0.25));
    }

    #[test]
    fn warm_invokes_give_their_middle_and_their_tail() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let figures = figures(&[samples("warm_invoke_c1", &hundred)]);
        let values: Vec<_> = figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("warm_invoke_c1.p50", 50.0), ("warm_invoke_c1.p99", 99.0)]);
    }
}
