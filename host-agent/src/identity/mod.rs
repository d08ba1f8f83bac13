//! Who may do what: access keys that an operator makes, the policies on them, and what functions' own policies grant.
//!
//! ```text
//! signature ─► Principal ─┬─ Administrator (a key of the configuration) ────────────────► everything
//!                         └─ Key ─► its policy: denied? ─► allowed? ─► the function's policy: allowed? ─► refused
//! ```
//!
//! Deciding is pure. Which action on which resource a request is, `api::authorize` says; whose a request is, `auth`.

mod access_keys;
mod grants;
mod pattern;
mod policy;
mod secret;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use access_keys::{AccessKey, AccessKeyError, AccessKeys, KeyState, check_name};
pub(crate) use grants::{Grantee, UrlUse, grants};
pub(crate) use policy::{ActionPattern, Document, Policy, Verdict};
pub(crate) use secret::Secret;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A key of the configuration; or nobody in particular, where the operator takes unsigned requests.
    Administrator,
    /// An access key, by its id. What it may do is looked up when it is decided.
    Key(String),
}
