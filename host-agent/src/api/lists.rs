//! Lists in pages: what a client asks for, and an answer that says where the next page begins.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    ApiError,
    call::Call,
    constraints::{self, Constraints},
};

/// Most items in one answer: AWS returns no more whatever is asked for.
const MAX_PAGE: usize = 50;

/// What the model lets most lists be asked for.
pub(crate) const MOST: i64 = 10_000;

/// Which part of a list is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Most items.
    pub(crate) limit: usize,
    /// Mark of the last item of the page before.
    pub(crate) after: Option<String>,
}

impl Page {
    /// What the `MaxItems`, up to `most` of them, and `Marker` of a request ask for; violations of the model are added to the
    /// others.
    ///
    /// # Errors
    /// A `MaxItems` that is no number, a `Marker` that no answer had.
    pub(crate) fn asked(call: &Call, constraints: &mut Constraints, most: i64) -> Result<Self, ApiError> {
        let asked = call.query("MaxItems");
        let max_items = asked.map(str::parse::<i64>).transpose().map_err(|_| {
            let constraint = "Member must be an integer";
            ApiError::validation(&[constraints::violation("maxItems", asked.unwrap_or_default(), constraint)])
        })?;
        constraints.range("maxItems", max_items, 1..=most);
        let after = match call.query("Marker").filter(|marker| !marker.is_empty()) {
            None => None,
            Some(marker) => Some(
                read_marker(marker)
                    .ok_or_else(|| ApiError::invalid_parameter("The Marker is not one of this list's."))?,
            ),
        };
        let limit = max_items.and_then(|items| usize::try_from(items).ok()).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        Ok(Self { limit, after })
    }

    /// The answer: as many of the items as the page holds, each with its mark, and `NextMarker` if there are more.
    pub(crate) fn answer<T>(
        &self,
        member: &str,
        items: impl Iterator<Item = (String, T)>,
        show: impl Fn(T) -> Value,
    ) -> Value {
        let (mut shown, mut last) = (Vec::new(), None);
        for (mark, item) in items {
            if shown.len() == self.limit {
                return json!({ member: shown, "NextMarker": last.as_deref().map(marker) });
            }
            shown.push(show(item));
            last = Some(mark);
        }
        json!({ member: shown })
    }
}

/// A marker: says where a list goes on, and nothing a client should look into.
fn marker(mark: &str) -> String {
    BASE64_STANDARD.encode(mark)
}

/// The mark that a marker carries; `None` if it is not one of ours.
fn read_marker(marker: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(marker).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        assert_eq!(read_marker(&marker("my-function")).as_deref(), Some("my-function"));
        assert_eq!(read_marker("not base64!"), None);
    }

    #[test]
    fn only_a_page_that_is_not_the_last_has_a_marker() {
        let page = Page { limit: 2, after: None };
        let items =
            |count: usize| ["a", "b", "c"].into_iter().take(count).map(|item| (item.to_owned(), item));
        let answer = |count| page.answer("Items", items(count), Value::from);
        assert_eq!(answer(0), json!({ "Items": [] }));
        assert_eq!(answer(2), json!({ "Items": ["a", "b"] }));
        assert_eq!(answer(3), json!({ "Items": ["a", "b"], "NextMarker": marker("b") }));
    }
}
