//! Filter patterns of CloudWatch Logs: terms and phrases (`ERROR "no such file"`), alternatives (`?ERROR ?WARN`), exclusions
//! (`-DEBUG`), and conditions on JSON documents (`{ $.level = "ERROR" }`). Pure.
//!
//! Not there, and refused: regular expressions (`%…%`) and space-delimited columns (`[ip, user, …]`).

mod json;

use self::json::Condition;

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    /// It cannot be read.
    #[error("Invalid filter pattern: {0}")]
    Invalid(&'static str),
    /// AWS reads it, this node does not.
    #[error("{0} in filter patterns are not supported by this Tinderbox node.")]
    Unsupported(&'static str),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pattern {
    /// Words of a line.
    Terms(Terms),
    /// Members of a JSON document.
    Json(Condition),
}

/// Words of a line, upper and lower case apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    all: Vec<String>,
    /// One of these, unless something is in `all`: AWS reads it so.
    any: Vec<String>,
    none: Vec<String>,
}

impl Pattern {
    /// What matches everything.
    pub(crate) fn all() -> Self {
        Self::Terms(Terms::default())
    }

    /// Reads one; an empty one matches everything.
    ///
    /// # Errors
    /// [`PatternError`], in words for the client.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('{') {
            let inner = rest.strip_suffix('}').ok_or(PatternError::Invalid("a closing brace is missing"))?;
            return Condition::parse(inner).map(Self::Json);
        }
        if text.starts_with('[') {
            return Err(PatternError::Unsupported("Columns"));
        }
        Self::terms(text)
    }

    fn terms(text: &str) -> Result<Self, PatternError> {
        let mut terms = Terms::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (kind, behind) = match first {
                '?' => (&mut terms.any, &rest[1..]),
                '-' => (&mut terms.none, &rest[1..]),
                '%' => return Err(PatternError::Unsupported("Regular expressions")),
                _ => (&mut terms.all, rest),
            };
            let (term, behind) = match behind.strip_prefix('"') {
                Some(quoted) => phrase(quoted)?,
                None => {
                    let end = behind.find(char::is_whitespace).unwrap_or(behind.len());
                    (behind[..end].to_owned(), &behind[end..])
                }
            };
            if term.is_empty() {
                return Err(PatternError::Invalid("a term is empty"));
            }
            kind.push(term);
            rest = behind.trim_start();
        }
        Ok(Self::Terms(terms))
    }

    /// Whether a message matches.
    pub(crate) fn matches(&self, message: &str) -> bool {
        match self {
            Self::Terms(Terms { all, any, none }) => {
                let has = |term: &String| message.contains(term.as_str());
                let wanted = match all.is_empty() {
                    true => any.is_empty() || any.iter().any(has),
                    false => all.iter().all(has),
                };
                wanted && !none.iter().any(has)
            }
            Self::Json(condition) => condition.holds(message),
        }
    }
}

/// A phrase up to its closing quote, and what follows. A backslash takes the next character as it is.
fn phrase(text: &str) -> Result<(String, &str), PatternError> {
    let mut phrase = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((phrase, &text[at + 1..])),
            '\\' => phrase.extend(chars.next().map(|(_, char)| char)),
            char => phrase.push(char),
        }
    }
    Err(PatternError::Invalid("a closing quote is missing"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let parsed = Pattern::parse(pattern).unwrap();
        for message in matching {
            assert!(parsed.matches(message), "{pattern}: {message}");
        }
        for message in others {
            assert!(!parsed.matches(message), "{pattern}: {message}");
        }
    }

    #[test]
    fn terms_are_all_wanted_alternatives_one_of_and_exclusions_none() {
        check("", &["", "anything"], &[]);
        check("ERROR code", &["code: ERROR"], &["ERROR", "error code"]);
        check(r#""no such file" -retry"#, &["x: no such file\n"], &["no such", "no such file, retry"]);
        check("?ERROR ?WARN", &["ERROR", "a WARN"], &["INFO"]);
        check("?ERROR ?WARN -x", &["ERROR"], &["ERROR x"]);
        check("?ERROR INFO", &["INFO"], &["ERROR"]);
        check(r#"?"a b" ?"c\"d""#, &["a b", "c\"d"], &["a", "c"]);
    }

    #[test]
    fn conditions_look_at_members() {
        let error =
            r#"{"level":"ERROR","code":500,"user":{"id":"u-7","tags":["a","b"]},"ok":false,"none":null}"#;
        let info = r#"{"level":"INFO","code":200,"user":{"id":"v-1"},"ok":true}"#;
        for pattern in [
            r#"{ $.level = "ERROR" }"#,
            "{$.level=ERR*}",
            "{ $.code >= 500 && $.user.id = u-* }",
            "{ ($.code = 404) || ($.user.tags[1] = \"b\") }",
            "{ $.ok IS FALSE }",
            "{ $.none IS NULL }",
            "{ $.none EXISTS }",
            r#"{ $.["level"] != "INFO" }"#,
        ] {
            check(pattern, &[error], &[info, "level ERROR", "", "[]"]);
        }
        check("{ $.nothing NOT EXISTS }", &[error, info], &["no document"]);
        check("{ $.nothing != 1 }", &[], &[error, info]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in [
            "\"a",
            "- b",
            "?",
            "{ $.a = 1",
            "{ }",
            "{ $.a }",
            "{ $.a = }",
            "{ a = 1 }",
            "{ $.a = 1 && }",
            "{ ($.a = 1 }",
        ] {
            assert!(matches!(Pattern::parse(wrong), Err(PatternError::Invalid(_))), "{wrong}");
        }
        for unsupported in ["%ERR.R%", "[ip, user]"] {
            assert!(
                matches!(Pattern::parse(unsupported), Err(PatternError::Unsupported(_))),
                "{unsupported}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_is_read_or_refused(text in r#"[{}()$.\[\]"\\=!<>&| a1*?\-%é]{0,40}"#, message in ".{0,40}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                pattern.matches(&message);
            }
        }
    }
}
