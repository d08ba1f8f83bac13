//! The constraints of AWS's service model, and the wording of their violations.
//!
//! Pure: values in, violations out. Collected, because AWS reports all violations of a request at once.

use std::{fmt::Display, ops::RangeInclusive, sync::LazyLock};

use regex::Regex;

use super::error::ApiError;

/// A pattern of the model: as AWS prints it, and compiled. Matches whole values.
pub(crate) struct Pattern {
    text: &'static str,
    regex: LazyLock<Regex>,
}

impl Pattern {
    /// As AWS prints it.
    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    /// Whether all of `value` matches.
    pub(crate) fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

macro_rules! patterns {
    (@matched $text:literal) => { $text };
    (@matched $text:literal $matched:literal) => { $matched };
    ($($(#[$doc:meta])* $name:ident = $text:literal $(matched by $matched:literal)?;)*) => {
        $($(#[$doc])* pub(crate) static $name: Pattern = Pattern {
            text: $text,
            // Each is exercised by a test: a pattern that does not compile cannot be shipped.
            regex: LazyLock::new(|| {
                let matched = concat!("^(?:", patterns!(@matched $text $($matched)?), ")$");
                Regex::new(matched).unwrap_or_else(|error| unreachable!("{error}"))
            }),
        };)*
        #[cfg(test)]
        const ALL: &[&Pattern] = &[$(&$name),*];
    };
}

patterns! {
    /// Name, ARN or partial ARN of a function that is made or changed.
    FUNCTION_NAME = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";
    /// Name, ARN or partial ARN of a function that is named.
    NAMESPACED_NAME = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";
    /// Version or alias.
    QUALIFIER = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+";
    /// `$LATEST` or a number.
    VERSION = r"(\$LATEST(\.PUBLISHED)?|[0-9]+)";
    /// The number of a version.
    VERSION_NUMBER = r"[0-9]+";
    /// What an alias is made of; it may not be a number either.
    ALIAS_CHARACTERS = r"[a-zA-Z0-9-_]+";
    /// Role.
    ROLE = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+";
    /// Handler.
    HANDLER = r"[^\s]+";
    /// Log group.
    LOG_GROUP = r"[\.\-_/#A-Za-z0-9]+";
    /// Log group, by its name or its ARN.
    LOG_GROUP_IDENTIFIER = r"[\w#+=/:,.@-]*";
    /// Log stream.
    LOG_STREAM = r"[^:*]*";
    /// Any ARN, or nothing.
    ARN_OR_NOTHING = r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()";
    /// A variable's name. The model asks for two characters, which clients in the field do not keep to.
    VARIABLE_NAME = r"[a-zA-Z]([a-zA-Z0-9_])*";
    /// ARN of something that can have tags.
    TAGGABLE = r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)";
    /// A tag's key or value.
    TAG = r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)";
    /// A layer version.
    LAYER = r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)";
    /// A layer: its name, or its ARN without a version.
    LAYER_NAME = r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";
    /// What a layer's policy allows.
    LAYER_ACTION = r"lambda:GetLayerVersion";
    /// Whom a layer's policy allows it.
    LAYER_PRINCIPAL = r"\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root";
    /// A region to list masters of.
    MASTER_REGION = r"ALL|(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}";
    /// A code signing configuration.
    CODE_SIGNING = r"arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:code-signing-config:csc-[a-z0-9]{17}";
    /// A bucket. The model also forbids a dot at the end.
    BUCKET = r"[0-9A-Za-z\.\-_]*[0-9A-Za-z\-_]";
    /// A tenant.
    TENANT = r"[a-zA-Z0-9\._:\/=+\-@ ]+";
    /// A statement of a policy, when it is made.
    STATEMENT = r"([a-zA-Z0-9-_]+)";
    /// A statement of a policy, when it is named.
    STATEMENT_NAMED = r"([a-zA-Z0-9-_.]+)";
    /// What a policy allows.
    ACTION = r"(lambda:[*]|lambda:[a-zA-Z]+|[*])";
    /// Whom a policy allows it.
    PRINCIPAL = r"[^\s]+";
    /// What the principal asks for.
    SOURCE_ARN = r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)";
    /// For which account the principal asks.
    SOURCE_ACCOUNT = r"\d{12}";
    /// What an event source shows.
    EVENT_SOURCE_TOKEN = r"[a-zA-Z0-9._\-]+";
    /// An organisation of accounts.
    ORGANISATION = r"o-[a-z0-9]{10,32}";
    /// Who is told of an asynchronous event's end.
    DESTINATION = r"$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)";
    /// Name, ARN or partial ARN of a function that has a URL, or an alias of it. `Regex` looks at nothing ahead.
    URL_NAME = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]{1,64})(:((?!\d+$)[0-9a-zA-Z-_]+))?"
        matched by r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]{1,64})(:([0-9]*[a-zA-Z-_][0-9a-zA-Z-_]*))?";
    /// An alias that has a URL.
    URL_QUALIFIER = r"((?!^\d+$)^[0-9a-zA-Z-_]+$)" matched by r"[0-9]*[a-zA-Z-_][0-9a-zA-Z-_]*";
    /// A version of a runtime.
    RUNTIME_VERSION = r"((arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}::runtime:.+)|(arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:runtime/[A-Za-z0-9_.-]{1,128}/version/[A-Za-z0-9_.-]{1,128}))";
    /// A durable execution's name.
    EXECUTION = r"[a-zA-Z0-9-_]+";
}

/// Collects violations.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    violations: Vec<String>,
}

impl Constraints {
    /// The violations, as one error.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if self.violations.is_empty() { Ok(()) } else { Err(ApiError::validation(&self.violations)) }
    }

    /// A required member.
    pub(crate) fn required<T>(&mut self, member: &str, value: Option<&T>) {
        if value.is_none() {
            let violation =
                format!("Value null at '{member}' failed to satisfy constraint: Member must not be null");
            self.violations.push(violation);
        }
    }

    /// A string's length in characters.
    pub(crate) fn length(&mut self, member: &str, value: Option<&str>, bounds: RangeInclusive<usize>) {
        let Some(value) = value else { return };
        let len = value.chars().count();
        if len > *bounds.end() {
            self.add(
                member,
                value,
                format!("Member must have length less than or equal to {}", bounds.end()),
            );
        }
        if len < *bounds.start() {
            self.add(
                member,
                value,
                format!("Member must have length greater than or equal to {}", bounds.start()),
            );
        }
    }

    /// A string's pattern.
    pub(crate) fn pattern(&mut self, member: &str, value: Option<&str>, pattern: &Pattern) {
        let Some(value) = value else { return };
        if !pattern.matches(value) {
            let constraint = format!("Member must satisfy regular expression pattern: {}", pattern.text);
            self.add(member, value, constraint);
        }
    }

    /// A number's range.
    pub(crate) fn range(&mut self, member: &str, value: Option<i64>, bounds: RangeInclusive<i64>) {
        let Some(value) = value else { return };
        if value > *bounds.end() {
            self.add(member, value, format!("Member must have value less than or equal to {}", bounds.end()));
        }
        if value < *bounds.start() {
            self.add(
                member,
                value,
                format!("Member must have value greater than or equal to {}", bounds.start()),
            );
        }
    }

    /// One of some words.
    pub(crate) fn one_of(&mut self, member: &str, value: Option<&str>, words: &[&str]) {
        let Some(value) = value else { return };
        if !words.contains(&value) {
            let constraint = format!("Member must satisfy enum value set: [{}]", words.join(", "));
            self.add(member, value, constraint);
        }
    }

    /// A list's length.
    pub(crate) fn count<T>(&mut self, member: &str, value: Option<&[T]>, bounds: RangeInclusive<usize>)
    where
        T: AsRef<str>,
    {
        let Some(value) = value else { return };
        let listed = || listed(value);
        if value.len() > *bounds.end() {
            let constraint = format!("Member must have length less than or equal to {}", bounds.end());
            self.add(member, listed(), constraint);
        }
        if value.len() < *bounds.start() {
            let constraint = format!("Member must have length greater than or equal to {}", bounds.start());
            self.add(member, listed(), constraint);
        }
    }

    /// The lengths of a list's items.
    pub(crate) fn lengths(&mut self, member: &str, items: Option<&[String]>, bounds: RangeInclusive<usize>) {
        let items = items.unwrap_or_default();
        if items.iter().any(|item| !bounds.contains(&item.chars().count())) {
            let constraint = format!(
                "Member must satisfy constraint: [Member must have length less than or equal to {}, Member must have \
                 length greater than or equal to {}]",
                bounds.end(),
                bounds.start()
            );
            self.add(member, format!("[{}]", items.join(", ")), constraint);
        }
    }

    /// What every item of a list has to keep; a violation shows the whole list.
    pub(crate) fn each<T: AsRef<str>>(
        &mut self,
        member: &str,
        value: Option<&[T]>,
        holds: impl Fn(&str) -> bool,
        constraint: impl Display,
    ) {
        let Some(value) = value else { return };
        if !value.iter().all(|item| holds(item.as_ref())) {
            self.add(member, listed(value), constraint);
        }
    }

    /// A violation with its own wording.
    pub(crate) fn add(&mut self, member: &str, value: impl Display, constraint: impl Display) {
        self.violations.push(violation(member, value, constraint));
    }
}

/// A list as AWS shows it.
fn listed<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(", "))
}

/// The wording of one violation.
pub(crate) fn violation(member: &str, value: impl Display, constraint: impl Display) -> String {
    format!("Value '{value}' at '{member}' failed to satisfy constraint: {constraint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_matches_whole_values() {
        for pattern in ALL {
            assert!(!pattern.matches("\n!! no value of ours :* !!\n"), "{}", pattern.text);
        }
    }

    #[test]
    fn names_match_as_the_recordings_say() {
        for good in [
            "f",
            "my-fn_1",
            "000000000000:f",
            "function:f",
            "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
        ] {
            assert!(NAMESPACED_NAME.matches(good), "{good}");
        }
        for bad in [
            "*",
            "my-function!",
            "arn:aws:lambda::111111111111:function:f",
            "function:f:$LATEST:extra",
            "f:$LATES",
        ] {
            assert!(!NAMESPACED_NAME.matches(bad), "{bad}");
        }
    }

    #[test]
    fn violations_are_reported_together() {
        let mut constraints = Constraints::default();
        constraints.range("timeout", Some(0), 1..=900);
        constraints.length("description", Some("abc"), 0..=2);
        constraints.required("role", None::<&String>);
        assert_eq!(
            constraints.finish().unwrap_err().message(),
            "3 validation errors detected: Value '0' at 'timeout' failed to satisfy constraint: Member must have \
             value greater than or equal to 1; Value 'abc' at 'description' failed to satisfy constraint: Member must \
             have length less than or equal to 2; Value null at 'role' failed to satisfy constraint: Member must not \
             be null"
        );
    }

    #[test]
    fn bounds_are_inclusive() {
        let mut constraints = Constraints::default();
        constraints.range("a", Some(1), 1..=2);
        constraints.range("a", Some(2), 1..=2);
        constraints.length("b", Some("é"), 1..=1);
        constraints.one_of("c", Some("x"), &["x"]);
        constraints.count("d", Some(&["x"]), 1..=1);
        assert_eq!(constraints.finish(), Ok(()));
    }
}
