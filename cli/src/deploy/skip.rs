//! What a user says is to be left out: `TYPE`, `LogicalId`, `TYPE.Property` or `LogicalId.Property`.

use std::{cell::RefCell, collections::BTreeSet};

/// Why something is left out that a user named.
pub(crate) const SKIPPED: &str = "as --skip says";

/// What was named, and what of it there was.
#[derive(Debug, Default)]
pub(crate) struct Skip {
    named: BTreeSet<String>,
    found: RefCell<BTreeSet<String>>,
}

impl Skip {
    pub(crate) fn new(named: impl IntoIterator<Item = String>) -> Self {
        Self { named: named.into_iter().collect(), found: RefCell::default() }
    }

    /// Whether a resource is.
    pub(crate) fn resource(&self, id: &str, kind: &str) -> bool {
        self.has(id.to_owned()) | self.has(kind.to_owned())
    }

    /// Whether a property of one is.
    pub(crate) fn property(&self, id: &str, kind: &str, property: &str) -> bool {
        self.has(format!("{id}.{property}")) | self.has(format!("{kind}.{property}"))
    }

    /// What was named and is not there: a slip of the pen, which would show when it is too late.
    pub(crate) fn unknown(&self) -> Vec<String> {
        self.named.difference(&self.found.borrow()).cloned().collect()
    }

    fn has(&self, name: String) -> bool {
        let is_named = self.named.contains(&name);
        if is_named {
            self.found.borrow_mut().insert(name);
        }
        is_named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_skipped_and_what_is_not_there_is_told() {
        let skip = Skip::new(["Api".to_owned(), "T.Events".to_owned(), "Typo".to_owned()]);
        assert!(skip.resource("Api", "T") && !skip.resource("F", "T"));
        assert!(skip.property("F", "T", "Events") && !skip.property("F", "T", "Role"));
        assert_eq!(skip.unknown(), ["Typo"]);
    }
}
