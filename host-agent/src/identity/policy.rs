//! A policy as IAM has it: which actions on which resources are allowed, and which are denied whatever allows them.
//!
//! [`Document`] is what somebody wrote, [`Policy`] what was checked. What would restrict and is not understood is refused when
//! the policy is set: nothing of it is ever ignored.

mod document;
#[cfg(test)]
mod tests;

pub(crate) use self::document::Document;
use self::document::{Many, RawStatement};

use super::pattern::matches;

/// Longest policy, in bytes: IAM's limit for the policies of a role.
const MAX_POLICY_LEN: usize = 10_240;

/// The language of 2012, the only one that is current.
const VERSION: &str = "2012-10-17";

/// Whose actions there are: Lambda's, its logs', the node's own, and the one of each kind of destination.
const VENDORS: [&str; 6] = ["lambda", "logs", "tinderbox", "sqs", "sns", "s3"];

/// Parts of an ARN. The last one may have colons.
const ARN_PARTS: usize = 6;

/// Why a policy is none that this node can keep to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// Of another time, or of none.
    #[error("Version has to be \"{VERSION}\"")]
    Version,
    /// It has no statement.
    #[error("the policy has no Statement")]
    Empty,
    /// It is too long.
    #[error("the policy has {0} bytes, {MAX_POLICY_LEN} is the most")]
    TooLong(usize),
    /// A member that restricts in a way that the node does not know.
    #[error("{0} is not supported by this Tinderbox node")]
    Unsupported(&'static str),
    /// Not exactly one of two members.
    #[error("a statement has either {0} or Not{0}")]
    OneOf(&'static str),
    /// A member without an entry.
    #[error("{0} is empty")]
    Nothing(&'static str),
    /// Neither `Allow` nor `Deny`.
    #[error("Effect has to be Allow or Deny, and is `{0}`")]
    Effect(String),
    /// No action.
    #[error(
        "`{0}` is no action: it is `*`, or one of lambda:, logs:, tinderbox:, sqs:, sns: and s3: with a name, in which `*` and `?` are patterns"
    )]
    Action(String),
    /// No resource.
    #[error("`{0}` is no resource: it is `*`, an ARN, or a function's name with or without a qualifier")]
    Resource(String),
}

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A statement denies it.
    Denied,
    /// A statement allows it, and none denies it.
    Allowed,
    /// No statement is about it.
    Unmentioned,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy(Vec<Statement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    effect: Effect,
    actions: Scope<ActionPattern>,
    resources: Scope<ResourcePattern>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

/// What a statement is about: these, or all but these.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope<P> {
    These(Vec<P>),
    AllBut(Vec<P>),
}

/// A pattern of actions, in lower case: IAM does not tell them apart by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActionPattern(String);

/// A pattern of resources.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ResourcePattern {
    All,
    /// Each part is compared with its own, so that no pattern of a region reaches into a name.
    Arn([String; ARN_PARTS]),
}

impl Policy {
    /// What the policy says of an action on a resource, which is an ARN, or `*` if the action has none.
    pub(crate) fn judge(&self, action: &str, resource: &str) -> Verdict {
        let mut verdict = Verdict::Unmentioned;
        for statement in &self.0 {
            let about = statement.actions.has(|pattern| pattern.matches(action))
                && statement.resources.has(|pattern| pattern.matches(resource));
            match (about, statement.effect) {
                (false, _) => {}
                (true, Effect::Deny) => return Verdict::Denied,
                (true, Effect::Allow) => verdict = Verdict::Allowed,
            }
        }
        verdict
    }

    /// All patterns of actions.
    pub(crate) fn actions(&self) -> impl Iterator<Item = &ActionPattern> {
        self.0.iter().flat_map(|statement| statement.actions.patterns())
    }
}

impl TryFrom<&Document> for Policy {
    type Error = PolicyError;

    fn try_from(document: &Document) -> Result<Self, PolicyError> {
        if document.version != VERSION {
            return Err(PolicyError::Version);
        }
        // Strings and lists of them: this does not fail.
        let len = serde_json::to_vec(document).map_or(usize::MAX, |text| text.len());
        if len > MAX_POLICY_LEN {
            return Err(PolicyError::TooLong(len));
        }
        if document.statement.0.is_empty() {
            return Err(PolicyError::Empty);
        }
        document.statement.0.iter().map(Statement::try_from).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<&RawStatement> for Statement {
    type Error = PolicyError;

    fn try_from(raw: &RawStatement) -> Result<Self, PolicyError> {
        for (member, value) in [
            ("Condition", &raw.condition),
            ("Principal", &raw.principal),
            ("NotPrincipal", &raw.not_principal),
        ] {
            if value.is_some() {
                return Err(PolicyError::Unsupported(member));
            }
        }
        let effect = match raw.effect.as_str() {
            "Allow" => Effect::Allow,
            "Deny" => Effect::Deny,
            other => return Err(PolicyError::Effect(other.into())),
        };
        let action = |text: &String| ActionPattern::parse(text).map(|pattern| vec![pattern]);
        let actions = Scope::of("Action", &raw.action, &raw.not_action, action)?;
        let resource = |text: &String| ResourcePattern::parse(text);
        let resources = Scope::of("Resource", &raw.resource, &raw.not_resource, resource)?;
        Ok(Self { effect, actions, resources })
    }
}

impl<P> Scope<P> {
    fn of(
        member: &'static str,
        these: &Option<Many<String>>,
        all_but: &Option<Many<String>>,
        parse: impl Fn(&String) -> Result<Vec<P>, PolicyError>,
    ) -> Result<Self, PolicyError> {
        let all = |Many(texts): &Many<String>| {
            let patterns: Vec<_> = texts.iter().map(parse).collect::<Result<_, _>>()?;
            if patterns.is_empty() {
                Err(PolicyError::Nothing(member))
            } else {
                Ok(patterns.into_iter().flatten().collect())
            }
        };
        match (these, all_but) {
            (Some(these), None) => all(these).map(Self::These),
            (None, Some(all_but)) => all(all_but).map(Self::AllBut),
            _ => Err(PolicyError::OneOf(member)),
        }
    }

    fn has(&self, is_it: impl Fn(&P) -> bool) -> bool {
        match self {
            Self::These(patterns) => patterns.iter().any(is_it),
            Self::AllBut(patterns) => !patterns.iter().any(is_it),
        }
    }

    fn patterns(&self) -> &[P] {
        let (Self::These(patterns) | Self::AllBut(patterns)) = self;
        patterns
    }
}

impl ActionPattern {
    fn parse(text: &str) -> Result<Self, PolicyError> {
        let lower = text.to_ascii_lowercase();
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*?".contains(&byte))
        };
        let known = lower == "*"
            || lower.split_once(':').is_some_and(|(vendor, name)| VENDORS.contains(&vendor) && is_name(name));
        if known { Ok(Self(lower)) } else { Err(PolicyError::Action(text.into())) }
    }

    /// Whether an action, with whose it is, is one of these.
    pub(crate) fn matches(&self, action: &str) -> bool {
        matches(&self.0, &action.to_ascii_lowercase())
    }

    /// The pattern, in lower case.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourcePattern {
    /// A pattern of ARNs; or two, for a function's name alone means it and all of its versions and aliases.
    fn parse(text: &str) -> Result<Vec<Self>, PolicyError> {
        let wrong = || PolicyError::Resource(text.into());
        if text == "*" {
            return Ok(vec![Self::All]);
        }
        // What IAM would put a value in.
        if text.contains("${") {
            return Err(wrong());
        }
        if text.starts_with("arn:") {
            return Self::arn(text).map(|arn| vec![arn]).ok_or_else(wrong);
        }
        let is_part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*?$".contains(&byte))
        };
        let below = |name: &str| Self::arn(&format!("arn:aws:lambda:*:*:function:{name}")).ok_or_else(wrong);
        match text.split(':').collect::<Vec<_>>()[..] {
            [name] if is_part(name) => Ok(vec![below(name)?, below(&format!("{name}:*"))?]),
            [name, qualifier] if is_part(name) && is_part(qualifier) => Ok(vec![below(text)?]),
            _ => Err(wrong()),
        }
    }

    fn arn(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.splitn(ARN_PARTS, ':').map(String::from).collect();
        parts.try_into().ok().map(Self::Arn)
    }

    fn matches(&self, resource: &str) -> bool {
        let Self::Arn(patterns) = self else { return true };
        let parts: Vec<_> = resource.splitn(ARN_PARTS, ':').collect();
        parts.len() == ARN_PARTS && patterns.iter().zip(parts).all(|(pattern, part)| matches(pattern, part))
    }
}
