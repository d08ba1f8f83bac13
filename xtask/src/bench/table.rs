//! Figures as a table for people. Pure.

use super::figures::{Figure, RATIO};
use std::fmt::Write as _;

/// Columns: name, value, spread, samples, peer or limit, ratio, which for a limit says when it is over 1.
pub(crate) fn render(figures: &[Figure]) -> String {
    let rows: Vec<[String; 6]> = figures.iter().map(row).collect();
    let head = ["figure", "median", "min – max", "n", "against", "ratio"].map(str::to_owned);
    let mut widths = [0; 6];
    for row in std::iter::once(&head).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            // Names to the left, numbers to the right. Writing to a String cannot fail.
            let _ =
                if column == 0 { write!(text, "{cell}{padding}") } else { write!(text, "  {padding}{cell}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn row(figure: &Figure) -> [String; 6] {
    let (least, most) = figure.spread;
    let against = figure.against.as_ref();
    [
        figure.name.clone(),
        with_unit(figure.value, &figure.unit),
        format!("{} – {}", with_unit(least, &figure.unit), with_unit(most, &figure.unit)),
        figure.samples.to_string(),
        against.map_or(String::new(), |against| {
            format!("{} {}", against.name, with_unit(against.value, &figure.unit))
        }),
        against.map_or(String::new(), |against| {
            format!("{:.2}{}", against.ratio, if against.is_missed() { " missed" } else { "" })
        }),
    ]
}

fn with_unit(value: f64, unit: &str) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    match unit {
        "bytes" => format!("{:.2} MiB", value / MIB),
        "us" if value >= 1000.0 => format!("{:.2} ms", value / 1000.0),
        "us" => format!("{value:.0} µs"),
        RATIO => format!("{value:.3}"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{Samples, figures};

    #[test]
    fn a_line_shows_value_spread_and_ratio() {
        let all = [
            Samples { name: "boot".into(), unit: "ms".into(), samples: vec![1.0, 2.0, 9.0] },
            Samples { name: "boot.firecracker".into(), unit: "ms".into(), samples: vec![4.0] },
        ];
        let table = render(&figures(&all));
        let line = table.lines().nth(1).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "boot 2.0 ms 1.0 ms – 9.0 ms 3 firecracker 4.0 ms 0.50"
        );
    }

    #[test]
    fn a_missed_limit_is_called_one() {
        let samples =
            |name: &str, value| Samples { name: name.into(), unit: "us".into(), samples: vec![value] };
        let all = [samples("boot_to_first_byte", 4e6), samples("restore_to_first_byte_warm_c1", 1e6)];
        let table = render(&figures(&all));
        let line = table.lines().find(|line| line.starts_with("restore_of_boot")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "restore_of_boot 0.250 0.250 – 0.250 1 limit 0.200 1.25 missed"
        );
    }
}
