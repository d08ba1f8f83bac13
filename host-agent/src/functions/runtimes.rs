//! The runtimes that this node has, and what Lambda says about those it has not.

use std::{collections::BTreeSet, path::Path};

/// Runtimes that Lambda itself has retired: refused as such, unless the node was given an image of one.
const RETIRED: &[&str] = &[
    "dotnet5.0",
    "dotnet6",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "go1.x",
    "java8",
    "nodejs",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs4.3",
    "nodejs4.3-edge",
    "nodejs6.10",
    "nodejs8.10",
    "provided",
    "python2.7",
    "python3.6",
    "python3.7",
    "ruby2.5",
    "ruby2.7",
];

/// Runtimes of which one may serve a function of another: what is before and behind the version, and the versions. None older:
/// what was written for them often does not run on those.
const FAMILIES: &[(&str, &str, &[u32])] = &[
    ("java", "", &[11, 17, 21]),
    ("nodejs", ".x", &[18, 20, 22, 24]),
    ("provided.al", "", &[2, 2023]),
    ("python3.", "", &[10, 11, 12, 13, 14]),
];

/// Whether a runtime without an image is served by another one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StandIns {
    /// By the nearest of its family.
    #[default]
    Allowed,
    /// It is refused.
    Refused,
}

/// Identifiers of the runtimes whose images are in the node's library directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtimes {
    available: BTreeSet<String>,
    stand_ins: StandIns,
}

impl Runtimes {
    /// The runtimes of `lib_dir/runtimes/*.pack`. A node without any runs no function, but starts.
    pub(crate) fn find(lib_dir: &Path, stand_ins: StandIns) -> Self {
        let dir = lib_dir.join("runtimes");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("no runtimes in {}: {error}", dir.display());
                return Self { available: BTreeSet::new(), stand_ins };
            }
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let available = names.filter_map(|name| name.strip_suffix(".pack").map(String::from)).collect();
        Self { available, stand_ins }
    }

    /// The runtime whose image a function of this one is served by: itself, or the nearest of its family, the newer of two that are
    /// as near.
    pub(crate) fn image(&self, runtime: &str) -> Option<&str> {
        if let Some(itself) = self.available.get(runtime) {
            return Some(itself);
        }
        if self.stand_ins == StandIns::Refused {
            return None;
        }
        let (start, end, versions) = FAMILIES.iter().find(|family| version_in(family, runtime).is_some())?;
        let asked = version_in(&(start, end, versions), runtime)?;
        let served = versions.iter().rev().filter_map(|version| {
            Some((asked.abs_diff(*version), self.available.get(&format!("{start}{version}{end}"))?))
        });
        served.min_by_key(|(distance, _)| *distance).map(|(_, image)| image.as_str())
    }

    /// Each runtime that has an image, with those others that are served by it.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, Vec<String>)> {
        let of_family = |(start, end, versions): &(&str, &str, &'static [u32])| {
            let named = |version: &u32| format!("{start}{version}{end}");
            versions.iter().map(named).collect::<Vec<_>>()
        };
        let known: Vec<String> = FAMILIES.iter().flat_map(of_family).collect();
        self.available.iter().map(move |image| {
            let others = known.iter().filter(|other| *other != image && self.image(other) == Some(image));
            (image.as_str(), others.cloned().collect())
        })
    }

    /// Why the runtime cannot be used, as Lambda words it.
    pub(crate) fn refusal(&self, runtime: &str) -> Option<String> {
        if self.image(runtime).is_some() {
            return None;
        }
        if RETIRED.contains(&runtime) {
            return Some(format!(
                "The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda \
                 functions. We recommend you use a supported runtime while creating or updating functions."
            ));
        }
        let available: Vec<_> = self.available.iter().map(String::as_str).collect();
        Some(format!(
            "Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or \
             be a valid ARN",
            available.join(", ")
        ))
    }
}

/// The version of the runtime, if it is of that family.
fn version_in((start, end, versions): &(&str, &str, &[u32]), runtime: &str) -> Option<u32> {
    let version = runtime.strip_prefix(start)?.strip_suffix(end)?.parse().ok()?;
    versions.contains(&version).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_an_image_is_available() {
        let lib = tempfile::tempdir().unwrap();
        std::fs::create_dir(lib.path().join("runtimes")).unwrap();
        for name in ["python3.13.pack", "README"] {
            std::fs::write(lib.path().join("runtimes").join(name), "").unwrap();
        }
        let runtimes = Runtimes::find(lib.path(), StandIns::Refused);
        assert_eq!(runtimes.refusal("python3.13"), None);
        assert!(runtimes.refusal("README").unwrap().contains("enum value set: [python3.13]"));
        assert!(runtimes.refusal("java8").unwrap().contains("no longer supported"));
        assert!(runtimes.refusal("python3.12").unwrap().contains("enum value set: [python3.13]"));
        let nowhere = Path::new("/nonexistent");
        assert!(Runtimes::find(nowhere, StandIns::Allowed).refusal("python3.13").is_some());
    }

    #[test]
    fn what_has_no_image_is_served_by_the_nearest_of_its_family() {
        let available =
            ["java21", "nodejs20.x", "nodejs24.x", "provided.al2023", "python3.13"].map(String::from).into();
        let runtimes = Runtimes { available, stand_ins: StandIns::Allowed };
        for (asked, served) in [
            ("python3.13", Some("python3.13")),
            ("python3.10", Some("python3.13")),
            ("python3.14", Some("python3.13")),
            ("nodejs18.x", Some("nodejs20.x")),
            ("nodejs22.x", Some("nodejs24.x")),
            ("java11", Some("java21")),
            ("java25", None),
            ("python3.9", None),
            ("python3.013", Some("python3.13")),
            ("nodejs20", None),
            ("nodejs", None),
            ("provided.al2", Some("provided.al2023")),
            ("provided", None),
        ] {
            assert_eq!(runtimes.image(asked), served, "{asked}");
        }
        assert!(runtimes.refusal("cobol85").is_some());
        let listed: Vec<_> = runtimes.list().map(|(image, others)| (image, others.join(" "))).collect();
        let expected = [
            ("java21", "java11 java17"),
            ("nodejs20.x", "nodejs18.x"),
            ("nodejs24.x", "nodejs22.x"),
            ("provided.al2023", "provided.al2"),
            ("python3.13", "python3.10 python3.11 python3.12 python3.14"),
        ];
        assert_eq!(listed, expected.map(|(image, others)| (image, others.to_owned())));
    }
}
