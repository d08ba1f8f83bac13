//! Conditions on JSON documents: `$.a.b[0] = "x*" && ($.code >= 500 || $.ok IS FALSE)`.

use std::cmp::Ordering;

use serde_json::Value;

use super::{PatternError, phrase};

/// Parentheses within each other: nobody writes more.
const MAX_DEPTH: usize = 16;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    /// Both sides hold.
    And(Box<Self>, Box<Self>),
    /// One side holds.
    Or(Box<Self>, Box<Self>),
    /// One member is as it shall be.
    Member(Vec<Step>, Test),
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A member.
    Name(String),
    /// An item.
    Item(usize),
}

/// What a member shall be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    /// Compared with a number.
    Number(Compare, f64),
    /// A string with wildcards (`*`), or not.
    Text(bool, String),
    /// Exactly this.
    Is(Value),
    /// There, or not.
    Exists(bool),
}

/// How numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    /// Reads what stands between the braces.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut parser = Parser { rest: text.trim_start(), depth: 0 };
        let condition = parser.either()?;
        if parser.rest.is_empty() {
            Ok(condition)
        } else {
            Err(PatternError::Invalid("something follows the condition"))
        }
    }

    /// Whether a message is a document of which this holds.
    pub(super) fn holds(&self, message: &str) -> bool {
        let message = message.trim();
        message.starts_with('{')
            && serde_json::from_str(message).is_ok_and(|document| self.holds_of(&document))
    }

    fn holds_of(&self, document: &Value) -> bool {
        match self {
            Self::And(left, right) => left.holds_of(document) && right.holds_of(document),
            Self::Or(left, right) => left.holds_of(document) || right.holds_of(document),
            Self::Member(path, test) => {
                let member = path.iter().try_fold(document, |value, step| match step {
                    Step::Name(name) => value.get(name),
                    Step::Item(item) => value.get(item),
                });
                test.holds(member)
            }
        }
    }
}

impl Test {
    fn holds(&self, member: Option<&Value>) -> bool {
        match (self, member) {
            (Self::Exists(wanted), member) => member.is_some() == *wanted,
            (_, None) => false,
            (Self::Is(wanted), Some(member)) => member == wanted,
            (Self::Number(compare, wanted), Some(member)) => member
                .as_f64()
                .and_then(|number| number.partial_cmp(wanted))
                .is_some_and(|order| compare.holds(order)),
            (Self::Text(wanted, pattern), Some(Value::String(text))) => is_like(text, pattern) == *wanted,
            (Self::Text(wanted, _), Some(_)) => !wanted,
        }
    }
}

impl Compare {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// Whether a text is what a pattern says, whose asterisks stand for anything. Takes the first place for each part: the earliest leaves
/// most to those that follow.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<Condition, PatternError> {
        let mut left = self.both()?;
        while self.eat("||") {
            left = Condition::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Condition, PatternError> {
        let mut left = self.one()?;
        while self.eat("&&") {
            left = Condition::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Condition, PatternError> {
        if !self.eat("(") {
            let path = self.path()?;
            return Ok(Condition::Member(path, self.test()?));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PatternError::Invalid("there are too many parentheses within each other"));
        }
        let inner = self.either()?;
        self.depth -= 1;
        if self.eat(")") { Ok(inner) } else { Err(PatternError::Invalid("a closing parenthesis is missing")) }
    }

    fn path(&mut self) -> Result<Vec<Step>, PatternError> {
        if !self.rest.starts_with('$') {
            return Err(PatternError::Invalid("a condition begins with a path such as $.level"));
        }
        self.rest = &self.rest[1..];
        let mut path = Vec::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix("[\"").or_else(|| self.rest.strip_prefix(".[\"")) {
                let (name, rest) = phrase(rest)?;
                path.push(Step::Name(name));
                self.rest =
                    rest.strip_prefix(']').ok_or(PatternError::Invalid("a closing bracket is missing"))?;
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                let (item, rest) =
                    rest.split_once(']').ok_or(PatternError::Invalid("a closing bracket is missing"))?;
                let item = item.trim().parse().map_err(|_| PatternError::Invalid("an item is no number"))?;
                path.push(Step::Item(item));
                self.rest = rest;
            } else if let Some(rest) = self.rest.strip_prefix('.') {
                let is_name = |char: char| char.is_alphanumeric() || char == '_' || char == '-';
                let end = rest.find(|char| !is_name(char)).unwrap_or(rest.len());
                if end == 0 {
                    return Err(PatternError::Invalid("a member has no name"));
                }
                path.push(Step::Name(rest[..end].to_owned()));
                self.rest = &rest[end..];
            } else {
                break;
            }
        }
        self.rest = self.rest.trim_start();
        if path.is_empty() { Err(PatternError::Invalid("a path names no member")) } else { Ok(path) }
    }

    fn test(&mut self) -> Result<Test, PatternError> {
        for (word, test) in [
            ("IS NULL", Test::Is(Value::Null)),
            ("IS TRUE", Test::Is(true.into())),
            ("IS FALSE", Test::Is(false.into())),
            ("NOT EXISTS", Test::Exists(false)),
            ("EXISTS", Test::Exists(true)),
        ] {
            if self.eat(word) {
                return Ok(test);
            }
        }
        let operators = [
            ("!=", Compare::Unequal),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("=", Compare::Equal),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let operator = operators.into_iter().find(|(text, _)| self.eat(text));
        let (_, compare) = operator.ok_or(PatternError::Invalid("a condition has no operator"))?;
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let (text, rest) = phrase(quoted)?;
            self.rest = rest.trim_start();
            return Self::text(compare, text);
        }
        let end = self.rest.find(|char: char| char.is_whitespace() || "()&|".contains(char));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        match word.parse::<f64>() {
            _ if word.is_empty() => Err(PatternError::Invalid("a condition has no value")),
            Ok(number) if number.is_finite() => Ok(Test::Number(compare, number)),
            _ => Self::text(compare, word.to_owned()),
        }
    }

    fn text(compare: Compare, text: String) -> Result<Test, PatternError> {
        match compare {
            Compare::Equal => Ok(Test::Text(true, text)),
            Compare::Unequal => Ok(Test::Text(false, text)),
            _ => Err(PatternError::Invalid("only numbers are less or greater")),
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }
}
