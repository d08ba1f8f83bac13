//! Where records are in the store: a function's under its name, its versions' and aliases' below that.
//!
//! ```text
//! functions/REGION/NAME            $LATEST
//! functions/REGION/NAME/v/NUMBER   a published version
//! functions/REGION/NAME/a/ALIAS    an alias
//! functions/REGION/NAME/x/NAME     what is attached to `$LATEST`, a version or an alias
//! ```
//!
//! Regions, names and aliases hold no `/`, so that a key has one meaning.

use super::model::FunctionId;

/// What all keys begin with.
pub(crate) const PREFIX: &[u8] = b"functions/";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// `$LATEST` of a function.
    Latest(FunctionId),
    /// A published version.
    Version(FunctionId, u64),
    /// An alias.
    Alias(FunctionId, String),
    /// What is attached to `$LATEST`, a version or an alias.
    Attached(FunctionId, String),
}

impl Key {
    /// The key's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let path = |id: &FunctionId| format!("{}/{}", id.region, id.name);
        let below = match self {
            Self::Latest(id) => path(id),
            Self::Version(id, number) => format!("{}/v/{number}", path(id)),
            Self::Alias(id, name) => format!("{}/a/{name}", path(id)),
            Self::Attached(id, qualifier) => format!("{}/x/{qualifier}", path(id)),
        };
        [PREFIX, below.as_bytes()].concat()
    }

    /// What some bytes name; `None` if they are no key of ours.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(bytes.strip_prefix(PREFIX)?).ok()?;
        let mut parts = path.split('/');
        let id = FunctionId { region: parts.next()?.into(), name: parts.next()?.into() };
        let key = match (parts.next(), parts.next()) {
            (None, None) => Self::Latest(id),
            (Some("v"), Some(number)) => Self::Version(id, number.parse().ok()?),
            (Some("a"), Some(name)) => Self::Alias(id, name.into()),
            (Some("x"), Some(qualifier)) => Self::Attached(id, qualifier.into()),
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_it_was_made_of() {
        let id = FunctionId { region: "us-east-1".into(), name: "f".into() };
        for key in [
            Key::Latest(id.clone()),
            Key::Version(id.clone(), 12),
            Key::Alias(id.clone(), "v".into()),
            Key::Attached(id.clone(), "$LATEST".into()),
        ] {
            assert_eq!(Key::parse(&key.bytes()), Some(key));
        }
        for foreign in
            ["functions/us-east-1", "functions/r/f/v", "functions/r/f/v/x", "functions/r/f/a/b/c", "x/y"]
        {
            assert_eq!(Key::parse(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn a_function_comes_before_what_is_below_it() {
        let id = FunctionId { region: "r".into(), name: "f".into() };
        assert!(Key::Latest(id.clone()).bytes() < Key::Version(id.clone(), 1).bytes());
        assert!(Key::Latest(id.clone()).bytes() < Key::Alias(id, "a".into()).bytes());
    }
}
