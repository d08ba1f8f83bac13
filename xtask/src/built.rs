//! Where cargo says that it has put what it has built (`--message-format=json`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a target was built as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    Program,
    Tests,
}

/// The file of a target of this name, in all that cargo has said.
pub(crate) fn executable(said: &str, name: &str, kind: As) -> Result<PathBuf> {
    let found = said.lines().find_map(|message| named(message, name, kind));
    found.with_context(|| format!("cargo has built no {kind:?} called {name}"))
}

fn named(message: &str, name: &str, kind: As) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_it = message["target"]["name"] == name && message["profile"]["test"] == (kind == As::Tests);
    is_it.then(|| message["executable"].as_str().map(|path| Path::new(path).to_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_their_program() {
        let message = |test: bool| {
            format!(
                r#"{{"target": {{"name": "agent"}}, "profile": {{"test": {test}}}, "executable": "/x/agent"}}"#
            )
        };
        assert_eq!(named(&message(true), "agent", As::Tests), Some("/x/agent".into()));
        assert_eq!(named(&message(false), "agent", As::Tests), None);
        assert_eq!(named(&message(false), "agent", As::Program), Some("/x/agent".into()));
        assert_eq!(named(&message(true), "life", As::Tests), None);
        assert_eq!(named("warning: unused", "agent", As::Tests), None);
    }
}
