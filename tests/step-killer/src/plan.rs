//! What is to be killed when: read from the command line, and compared with what happens.

use serde::Deserialize;

/// Where the node keeps everything that outlives a process.
pub(crate) const STATE_DIR: &str = "/var/lib/tinderbox";

/// A step of the agent's work at which somebody is killed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// For people.
    pub(crate) name: String,
    /// Who dies.
    pub(crate) kill: Victim,
    /// By what the step is known: these signs one after the other, with anything else in between. None: it is there.
    pub(crate) when: Vec<Sign>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Victim {
    /// The agent.
    Agent,
    /// The process that gave the sign; the function's `vmm` when the function gave it.
    Vmm,
}

/// Something that the agent, a child of it or a sandbox does to a regular file or a directory (of devices nothing is told). Paths may have a `*`, which stands for anything, behind [`STATE_DIR`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sign {
    /// Opens a file or directory.
    Opens(String),
    /// Becomes this program.
    Runs(String),
    /// Reads a file.
    Reads(String),
    /// Has written to a file in [`STATE_DIR`].
    Writes(String),
    /// Writes a line with these words to the journal.
    Says(String),
}

impl Sign {
    /// Whether `path` is the one that the sign is about.
    pub(crate) fn is_about(&self, path: &str) -> bool {
        match self {
            Self::Opens(pattern) | Self::Runs(pattern) | Self::Reads(pattern) | Self::Writes(pattern) => {
                matches(pattern, path)
            }
            Self::Says(_) => false,
        }
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => {
            path.len() >= head.len() + tail.len() && path.starts_with(head) && path.ends_with(tail)
        }
        None => path == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_from_json() {
        let text = r#"[{"name": "n", "kill": "vmm", "when": [{"runs": "/a"}, {"says": "words"}]}]"#;
        let plan: Vec<Step> = serde_json::from_str(text).unwrap();
        assert_eq!((plan[0].name.as_str(), plan[0].kill), ("n", Victim::Vmm));
        assert_eq!(plan[0].when, [Sign::Runs("/a".into()), Sign::Says("words".into())]);
        assert!(serde_json::from_str::<Sign>(r#"{"sneezes": "/a"}"#).is_err());
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, path, expected) in [
            ("/s/new-*/state", "/s/new-1/state", true),
            ("/s/new-*/state", "/s/1/state", false),
            ("/s/new-*/state", "/s/new-1/memory", false),
            ("/s/*/s", "/s/s", false),
            ("/s", "/s", true),
            ("/s", "/s/x", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
