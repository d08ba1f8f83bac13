//! Who was called in a chain of events, each the cause of the next: functions that are each other's destination, or their own, are told
//! from those that stand in a row.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::functions::model::FunctionId;

/// Calls of one function in a chain, behind its first: AWS stops what comes after more than sixteen of one event.
pub(super) const MAX_RETURNS: u32 = 16;

/// Functions in a chain. It is carried in each event's record.
pub(super) const MAX_FUNCTIONS: usize = 64;

/// How often each function was called with the events that came before one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage(BTreeMap<String, u32>);

impl Lineage {
    /// That of an event that comes of one for that function.
    pub(super) fn and(&self, function: &FunctionId) -> Self {
        let mut calls = self.0.clone();
        let count = calls.entry(key(function)).or_default();
        *count = count.saturating_add(1);
        Self(calls)
    }

    /// Whether an event for that function goes round in a circle, or has come further than any chain that somebody meant.
    pub(super) fn is_loop(&self, function: &FunctionId) -> bool {
        let before = self.0.get(&key(function)).copied().unwrap_or_default();
        before > MAX_RETURNS || (before == 0 && self.0.len() >= MAX_FUNCTIONS)
    }

    /// Whether the function was called on the way.
    pub(super) fn has(&self, function: &FunctionId) -> bool {
        self.0.contains_key(&key(function))
    }
}

fn key(function: &FunctionId) -> String {
    format!("{}:{}", function.region, function.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> FunctionId {
        FunctionId { region: "us-east-1".into(), name: name.into() }
    }

    fn chain(names: impl IntoIterator<Item = String>) -> Lineage {
        names.into_iter().fold(Lineage::default(), |lineage, name| lineage.and(&id(&name)))
    }

    #[test]
    fn a_function_returns_so_often_and_no_more() {
        let returns = |count| chain((0..count).map(|_| "f".to_owned())).is_loop(&id("f"));
        assert!(!returns(0) && !returns(16));
        assert!(returns(17));
    }

    #[test]
    fn each_function_of_a_circle_is_counted_by_itself() {
        let names = |count| (0..count).map(|turn| if turn % 2 == 0 { "f" } else { "g" }.to_owned());
        assert!(!chain(names(32)).is_loop(&id("f")), "it was called sixteen times");
        assert!(chain(names(34)).is_loop(&id("f")));
        assert!(!chain(names(34)).is_loop(&id("h")));
    }

    #[test]
    fn a_row_of_functions_is_no_loop_until_it_is_longer_than_any() {
        let row = |count| chain((0..count).map(|number| number.to_string())).is_loop(&id("last"));
        assert!(!row(MAX_FUNCTIONS - 1));
        assert!(row(MAX_FUNCTIONS));
    }

    #[test]
    fn its_longest_record_fits_the_head_of_an_event() {
        let longest = chain((0..MAX_FUNCTIONS).map(|number| format!("{number:0>64}")));
        assert!(serde_json::to_vec(&longest).unwrap().len() < 8 * 1024);
    }
}
