//! The figures of the last accepted counted run, kept in the repository, and whether a run is worse. Pure but for
//! reading and writing that one file.

use super::figures::{Figure, RATIO};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where they are, below the checkout's top.
pub(crate) const FILE: &str = "configs/bench/counted.json";

/// A counted figure repeats within 1–2 %; more than this is a change of the product.
const TOLERANCE: f64 = 0.05;

/// What has this in its name is shown, not compared: it does not repeat.
const NOT_COMPARED: &[&str] = &[
    // Decided by one sample.
    ".p99",
    // The order within a crowd.
    "_c8",
    "_c32",
    "crowd_",
    // When calls come is chance, and who waits for whom with it.
    "_at_80",
    // What the allocator keeps.
    "agent_memory",
    // A disk's time is the host's; creating a function is mostly that.
    "_dropped",
    "create_to_first_answer",
    // Who of guest, pager and VMM has the only processor first. `load_into_blank` and the whole restore repeat.
    "resume_to_vcpu",
    "resume_to_unique",
    "part_of_",
    // Two kinds of samples, 2.2 and 4.9 ms for a blank machine, since machines have a network device: some wait for the host's
    // kernel, and in which boot most do is luck (docs/benchmark.md).
    "start_and_load",
    "load_into_blank",
    // The machine's clock.
    "chunk_",
    // How much of its program a process shares with its neighbours. It has its limit.
    "vmm_private_memory",
];

/// One recorded figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Of [`Figure`].
    pub(crate) name: String,
    /// Of [`Figure`].
    pub(crate) value: f64,
    /// Of [`Figure`].
    pub(crate) unit: String,
}

/// A figure that left its tolerance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Regression {
    /// Of [`Figure`].
    pub(crate) name: String,
    /// Recorded value and value of this run.
    pub(crate) from_to: (f64, f64),
}

/// Reads the recorded figures; none when there is no file yet.
pub(crate) fn read(root: &Path) -> Result<Vec<Recorded>> {
    let path = root.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// Replaces the recorded figures by those of this run. Ratios are not recorded: the figures that they come of are.
pub(crate) fn write(root: &Path, figures: &[Figure]) -> Result<()> {
    let recorded: Vec<Recorded> = figures
        .iter()
        .filter(|figure| figure.unit != RATIO)
        .map(|figure| Recorded {
            name: figure.name.clone(),
            value: figure.value.round(),
            unit: figure.unit.clone(),
        })
        .collect();
    let path = root.join(FILE);
    std::fs::create_dir_all(path.parent().unwrap_or(root))
        .context("create the folder of recorded figures")?;
    std::fs::write(&path, serde_json::to_string_pretty(&recorded)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}

/// The figures that are worse than recorded by more than the tolerance. All our figures are better when smaller.
pub(crate) fn regressions(recorded: &[Recorded], figures: &[Figure]) -> Vec<Regression> {
    recorded
        .iter()
        .filter(|old| !NOT_COMPARED.iter().any(|part| old.name.contains(part)))
        .filter_map(|old| {
            let new = figures.iter().find(|figure| figure.name == old.name)?;
            let worse = new.value > old.value * (1.0 + TOLERANCE);
            worse.then(|| Regression { name: old.name.clone(), from_to: (old.value, new.value) })
        })
        .collect()
}

/// Those that are worse in another boot too.
pub(crate) fn in_both(first: Vec<Regression>, second: &[Regression]) -> Vec<Regression> {
    first.into_iter().filter(|one| second.iter().any(|other| other.name == one.name)).collect()
}

/// A line for each.
pub(crate) fn lines(worse: &[Regression]) -> String {
    let line = |figure: &Regression| {
        let (from, to) = figure.from_to;
        format!("{}: {from:.0} to {to:.0}, {:+.1} %", figure.name, (to / from - 1.0) * 100.0)
    };
    worse.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Replaces each figure's value by the median of it and of what other boots gave.
pub(crate) fn settle_on_medians(figures: &mut [Figure], others: &[Vec<Figure>]) {
    for figure in figures {
        let others = others.iter().flatten().filter(|other| other.name == figure.name);
        let mut values: Vec<f64> = others.map(|other| other.value).chain([figure.value]).collect();
        values.sort_by(f64::total_cmp);
        figure.value = values[values.len() / 2];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: f64) -> Figure {
        Figure {
            name: name.to_owned(),
            value,
            unit: "ms".to_owned(),
            spread: (value, value),
            samples: 1,
            against: None,
        }
    }

    fn recorded(name: &str, value: f64) -> Recorded {
        Recorded { name: name.to_owned(), value, unit: "ms".to_owned() }
    }

    #[test]
    fn six_percent_worse_is_a_regression_and_four_is_not() {
        let old = [recorded("boot", 100.0), recorded("warm", 100.0)];
        let new = [figure("boot", 106.0), figure("warm", 104.0)];
        let found = regressions(&old, &new);
        assert_eq!(found, [Regression { name: "boot".to_owned(), from_to: (100.0, 106.0) }]);
    }

    #[test]
    fn better_and_new_figures_are_no_regressions() {
        let old =
            [recorded("boot", 100.0), recorded("warm.p99", 1.0), recorded("resume_dropped_c1.p50", 1.0)];
        let new = ["boot", "more", "warm.p99", "resume_dropped_c1.p50"].map(|name| figure(name, 9.0));
        assert_eq!(regressions(&old, &new), []);
    }

    #[test]
    fn what_is_worse_in_one_boot_only_is_none() {
        let old = [recorded("boot", 100.0), recorded("warm", 100.0)];
        let first = regressions(&old, &[figure("boot", 106.0), figure("warm", 106.0)]);
        let second = regressions(&old, &[figure("boot", 107.0), figure("warm", 101.0)]);
        assert_eq!(lines(&in_both(first, &second)), "boot: 100 to 106, +6.0 %");
    }

    #[test]
    fn the_middle_of_three_boots_is_what_is_recorded() {
        let mut figures = [figure("boot", 106.0), figure("size", 7.0)];
        settle_on_medians(&mut figures, &[vec![figure("boot", 99.0)], vec![figure("boot", 101.0)]]);
        assert_eq!(figures.map(|figure| figure.value), [101.0, 7.0]);
    }

    #[test]
    fn a_ratio_is_not_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let ratio = Figure { unit: RATIO.to_owned(), ..figure("restore_of_boot", 0.2) };
        write(dir.path(), &[figure("boot", 99.6), ratio]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [recorded("boot", 100.0)]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        write(dir.path(), &[figure("boot", 99.6)]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [recorded("boot", 100.0)]);
    }
}
