//! The runtimes that this node has, and what Lambda says about those it has not.

use std::{collections::BTreeSet, path::Path};

/// Runtimes that Lambda itself has retired: refused by name, whatever images the node has.
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

/// Identifiers of the runtimes whose images are in the node's library directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtimes {
    available: BTreeSet<String>,
}

impl Runtimes {
    /// The runtimes of `lib_dir/runtimes/*.pack`. A node without any runs no function, but starts.
    pub(crate) fn find(lib_dir: &Path) -> Self {
        let dir = lib_dir.join("runtimes");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("no runtimes in {}: {error}", dir.display());
                return Self::default();
            }
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Self { available: names.filter_map(|name| name.strip_suffix(".pack").map(String::from)).collect() }
    }

    /// Why the runtime cannot be used, as Lambda words it.
    pub(crate) fn refusal(&self, runtime: &str) -> Option<String> {
        if self.available.contains(runtime) {
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
        let runtimes = Runtimes::find(lib.path());
        assert_eq!(runtimes.refusal("python3.13"), None);
        assert!(runtimes.refusal("README").unwrap().contains("enum value set: [python3.13]"));
        assert!(runtimes.refusal("java8").unwrap().contains("no longer supported"));
        assert!(Runtimes::find(Path::new("/nonexistent")).refusal("python3.13").is_some());
    }
}
