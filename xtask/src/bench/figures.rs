//! A figure: its samples, their median and spread, and what it is held against. Pure.

use serde::{Deserialize, Serialize};

/// Raw samples of one figure, as the driver inside the appliance (or a look at a file) took them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// Never reused for another meaning: recorded figures are compared by it.
    pub(crate) name: String,
    /// `ms`, `us`, `bytes` or [`RATIO`].
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
    /// `ms`, `us`, `bytes`, or [`RATIO`].
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

/// What a promised value is called.
const LIMIT: &str = "limit";

/// Suffix of a peer's samples: `boot_to_guest_init.firecracker` is held against by `boot_to_guest_init`.
const PEER: &str = "firecracker";

/// What issue and documents promise, in the unit of the figure.
const LIMITS: &[(&str, f64)] = &[
    ("vmm_private_memory", 4.0 * 1024.0 * 1024.0),
    ("agent_cpu_per_warm_invoke", 1000.0),
    // Five thousand a second on two processors.
    ("agent_cpu_per_read", 400.0),
    // The same in an agent that has many functions, with its clients beside it: what there is from one answer to the next.
    ("api_read_interval", 200.0),
    ("api_read_latency.p99", 10_000.0),
    ("jail_cpu_per_start", 2000.0),
    ("slot_assign", 1000.0),
    // However many read a content, each chunk of it is fetched once.
    ("chunk_readers_64_fetches", 1.0),
    ("crowd_64_origin_reads", 1.0),
    ("dedup_versions_100_of_one", 3.0),
    // One copy of each byte that comes and goes.
    ("agent_memory_6mb_of_payloads", 1.0),
    // Whatever waits is on the disk: a window of each function's, and redb's cache.
    ("events_1m_memory", 64.0 * 1024.0 * 1024.0),
    ("events_1m_drain_memory", 64.0 * 1024.0 * 1024.0),
];

/// Beginnings of figures whose tail matters as much as their middle.
const WITH_TAIL: &[&str] =
    &["warm_invoke", "read_", "resume_", "restore_", "fair_", "api_read_latency", "api_list_page"];

/// Unit of a figure that is one median divided by another, as it is held against a limit.
pub(crate) const RATIO: &str = "ratio";

/// What is promised of two figures, or of a figure and a peer's, of one run.
struct Promise {
    /// Of the figure that comes of it.
    name: &'static str,
    /// Samples above the line.
    part: &'static str,
    /// Samples below it. Without them there is no figure: there is no peer in this run.
    whole: &'static str,
    /// The most that the ratio may be.
    limit: f64,
}

/// The whole of a cold start that resumes, as the client sees it.
const RESTORE: &str = "restore_to_first_byte_warm_c1";

/// What is aimed at of the rate of AES-256-GCM in memory (ADR 20); times are held against its times.
const READ_RATE: f64 = 0.7;
const PUBLISH_RATE: f64 = 0.5;

/// What is promised of two figures. Where the words can be taken in two ways, both are here: a node's next clone comes out of a blank
/// machine, so `load_into_blank` is its load to running vCPUs, and `start_and_load` is that of a node without a blank; the
/// gate is the guest's own steps, and `waking_and_gate` adds the guest's first steps and its connection to the agent.
const PROMISES: &[Promise] = &[
    Promise {
        name: "start_and_load_of_firecrackers",
        part: "start_and_load",
        whole: "start_and_load.firecracker",
        limit: 0.5,
    },
    Promise {
        name: "load_into_blank_of_firecrackers_start_and_load",
        part: "load_into_blank",
        whole: "start_and_load.firecracker",
        limit: 0.5,
    },
    Promise {
        name: "snapshot_pause_of_firecrackers",
        part: "snapshot_pause",
        whole: "snapshot_pause.firecracker",
        limit: 1.0,
    },
    Promise { name: "gate_of_restore", part: "part_of_resume_gate", whole: RESTORE, limit: 0.05 },
    Promise {
        name: "waking_and_gate_of_restore",
        part: "part_of_resume_unique",
        whole: RESTORE,
        limit: 0.05,
    },
    Promise { name: "restore_of_boot", part: RESTORE, whole: "boot_to_first_byte", limit: 0.2 },
    Promise {
        name: "first_byte_of_1gib_of_17mb",
        part: "image_1gib_first_start",
        whole: "image_17mb_first_start",
        limit: 1.2,
    },
    Promise {
        name: "recorded_of_unrecorded",
        part: "restore_recorded_dropped",
        whole: "restore_unrecorded_dropped",
        limit: 0.5,
    },
    Promise {
        name: "touch_recorded_of_unrecorded",
        part: "touch_recorded_dropped",
        whole: "touch_unrecorded_dropped",
        limit: 0.5,
    },
    Promise {
        name: "touch_recorded_of_firecrackers",
        part: "touch_recorded_dropped",
        whole: "touch_recorded_dropped.firecracker",
        limit: 0.5,
    },
    Promise {
        name: "chunk_read_of_gcm",
        part: "chunk_read_64mib",
        whole: "chunk_gcm_open_64mib",
        limit: 1.0 / READ_RATE,
    },
    Promise {
        name: "chunk_publish_of_gcm",
        part: "chunk_publish_64mib",
        whole: "chunk_gcm_seal_64mib",
        limit: 1.0 / PUBLISH_RATE,
    },
    Promise {
        name: "chunk_publish_incompressible_of_gcm",
        part: "chunk_publish_incompressible_64mib",
        whole: "chunk_gcm_seal_64mib",
        limit: 1.0 / PUBLISH_RATE,
    },
];

/// Samples whose 99th percentile is held against their middle, and by how much it may be larger: of many that come at once, or while
/// the node is busy, nobody waits for ever.
const TAILS: &[(&str, f64)] = &[
    ("restore_crowd_64", 4.0),
    ("warm_invoke_at_80", 3.0),
    ("warm_invoke_busy_at_80", 3.0),
    ("warm_invoke_busy_even_at_80", 3.0),
];

/// The tail of a function's calls beside a neighbour that is noisy in one way, held against its tail when all is quiet.
const QUIET: &str = "fair_quiet";
const NOISE: &[&str] = &["fair_cpu", "fair_memory", "fair_disk", "fair_network", "fair_vsock"];
const FAIR: f64 = 1.5;

/// All figures of a run, in the order of their samples, and what is promised of them.
pub(crate) fn figures(all: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for samples in all {
        let sorted = sorted(&samples.samples);
        if sorted.is_empty() || samples.name.ends_with(PEER) {
            continue;
        }
        if WITH_TAIL.iter().any(|beginning| samples.name.starts_with(beginning)) {
            figures.push(figure(samples, ".p50", percentile(&sorted, 50), &sorted));
            figures.push(figure(samples, ".p99", percentile(&sorted, 99), &sorted));
        } else {
            figures.push(figure(samples, "", median(&sorted), &sorted));
        }
    }
    for figure in &mut figures {
        figure.against = against(figure, all);
    }
    figures.extend(PROMISES.iter().filter_map(|promise| promise.figure(all)));
    figures.extend(TAILS.iter().filter_map(|(name, limit)| tail(name, *limit, all)));
    figures.extend(NOISE.iter().filter_map(|noise| fairness(noise, all)));
    figures
}

fn fairness(noise: &str, all: &[Samples]) -> Option<Figure> {
    let (quiet, noisy) = (sorted_of(QUIET, all)?, sorted_of(noise, all)?);
    let value = percentile(&noisy, 99) / percentile(&quiet, 99);
    Some(ratio(format!("{noise}_p99_of_quiet"), value, noisy.len(), FAIR))
}

fn tail(name: &str, limit: f64, all: &[Samples]) -> Option<Figure> {
    let sorted = sorted_of(name, all)?;
    let value = percentile(&sorted, 99) / percentile(&sorted, 50);
    Some(ratio(format!("{name}_p99_of_p50"), value, sorted.len(), limit))
}

/// A figure that is held against what it may be at most.
fn ratio(name: String, value: f64, samples: usize, limit: f64) -> Figure {
    let against = Against { name: LIMIT.to_owned(), value: limit, ratio: value / limit };
    Figure { name, value, unit: RATIO.to_owned(), spread: (value, value), samples, against: Some(against) }
}

impl Against {
    /// Whether it is a limit that the figure is over.
    pub(crate) fn is_missed(&self) -> bool {
        self.name == LIMIT && self.ratio > 1.0
    }
}

impl Promise {
    fn figure(&self, all: &[Samples]) -> Option<Figure> {
        let part = sorted_of(self.part, all)?;
        let whole = sorted_of(self.whole, all)?;
        let value = median(&part) / median(&whole);
        Some(ratio(self.name.to_owned(), value, part.len().min(whole.len()), self.limit))
    }
}

/// The samples of that name, sorted; none when there are none.
fn sorted_of(name: &str, all: &[Samples]) -> Option<Vec<f64>> {
    let found = all.iter().find(|samples| samples.name == name && !samples.samples.is_empty())?;
    Some(sorted(&found.samples))
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
    let limit = LIMITS.iter().find(|(name, _)| *name == figure.name).map(|(_, value)| (LIMIT, *value));
    let peer = || sorted_of(&format!("{}.{PEER}", figure.name), all).map(|peer| (PEER, median(&peer)));
    let (name, value) = limit.or_else(peer)?;
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
    fn a_tail_has_a_limit_of_its_own() {
        let figures = figures(&[samples("api_read_latency", &[250.0, 20_000.0])]);
        let ratios = figures.iter().map(|figure| figure.against.as_ref().map(|against| against.ratio));
        assert_eq!(ratios.collect::<Vec<_>>(), [None, Some(2.0)]);
    }

    #[test]
    fn a_promise_is_held_to_its_limit_and_nothing_is_promised_of_an_absent_peer() {
        let all = [
            samples("boot_to_first_byte", &[100.0]),
            samples("restore_to_first_byte_warm_c1", &[30.0, 20.0, 40.0]),
            samples("start_and_load", &[5.0]),
        ];
        let figures = figures(&all);
        let promised: Vec<_> = figures.iter().filter(|figure| figure.unit == RATIO).collect();
        let [restore] = promised.as_slice() else { panic!("{promised:?}") };
        assert_eq!((restore.name.as_str(), restore.value, restore.samples), ("restore_of_boot", 0.3, 1));
        let against = restore.against.as_ref().unwrap();
        assert_eq!((against.name.as_str(), against.value), (LIMIT, 0.2));
        assert!(against.is_missed() && against.ratio > 1.49);
    }

    #[test]
    fn the_largest_of_a_crowd_is_held_against_its_middle() {
        let crowd: Vec<f64> = (1..=64).map(f64::from).collect();
        let figures = figures(&[samples("restore_crowd_64", &crowd)]);
        let last = figures.last().unwrap();
        assert_eq!((last.name.as_str(), last.value), ("restore_crowd_64_p99_of_p50", 2.0));
        assert!(!last.against.as_ref().unwrap().is_missed());
    }

    #[test]
    fn a_busy_nodes_tail_is_held_to_three_times_its_middle() {
        let figures = figures(&[samples("warm_invoke_at_80", &[50.0, 50.0, 151.0])]);
        let named: Vec<_> = figures.iter().map(|figure| figure.name.as_str()).collect();
        let tail = "warm_invoke_at_80_p99_of_p50";
        assert_eq!(named, ["warm_invoke_at_80.p50", "warm_invoke_at_80.p99", tail]);
        assert!(figures[2].against.as_ref().unwrap().is_missed());
    }

    #[test]
    fn a_peer_that_is_faster_is_no_missed_limit() {
        let figures = figures(&[samples("boot", &[3.0]), samples("boot.firecracker", &[1.0])]);
        assert!(!figures[0].against.as_ref().unwrap().is_missed());
    }

    #[test]
    fn warm_invokes_give_their_middle_and_their_tail() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let figures = figures(&[samples("warm_invoke_c1", &hundred)]);
        let values: Vec<_> = figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("warm_invoke_c1.p50", 50.0), ("warm_invoke_c1.p99", 99.0)]);
    }
}
