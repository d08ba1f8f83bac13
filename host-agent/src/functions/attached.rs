//! What belongs to `$LATEST`, a version or an alias beside what it runs: who may invoke it, how its asynchronous events are
//! handled, its URL, and what is kept ready of it. Kept in a record of its own, which a publication does not copy and which goes with what it belongs to.
//!
//! ```text
//! absent ──attach──► a record ──attach──► … ──what is left is nothing──► absent
//! ```

use std::sync::Arc;

use cluster_store::{Compare, Op, Txn};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ChangeError, Functions, MAX_TRIES,
    keys::Key,
    model::{FunctionId, LATEST},
    provisioned::Provisioned,
    urls::FunctionUrl,
};

/// What is attached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// `$LATEST`, a version's number or an alias's name.
    pub(crate) qualifier: String,
    /// The function's.
    pub(crate) incarnation: String,
    /// Who may invoke it.
    pub(crate) policy: Option<Policy>,
    /// How its asynchronous events are handled.
    pub(crate) event_invoke: Option<EventInvoke>,
    /// Its URL. Of `$LATEST` or an alias.
    pub(crate) url: Option<FunctionUrl>,
    /// What is kept ready of it. Of a version or an alias.
    pub(crate) provisioned: Option<Provisioned>,
}

impl Attached {
    /// Whether there is nothing left to keep.
    fn is_empty(&self) -> bool {
        let Self { policy, event_invoke, url, provisioned, .. } = self;
        policy.is_none() && event_invoke.is_none() && url.is_none() && provisioned.is_none()
    }
}

/// A resource policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Changes with every change of the policy.
    pub(crate) revision_id: String,
    /// In the order in which they were added; not empty.
    pub(crate) statements: Vec<Statement>,
}

/// A permission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Statement {
    /// Names it within its policy.
    pub(crate) sid: String,
    /// As IAM has it.
    pub(crate) document: Map<String, Value>,
}

/// How asynchronous events are handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventInvoke {
    /// 0 to 2.
    pub(crate) max_retries: Option<i64>,
    /// 60 to 21,600 s.
    pub(crate) max_age_s: Option<i64>,
    /// ARN of who is told of a success.
    pub(crate) on_success: Option<String>,
    /// ARN of who is told of a failure.
    pub(crate) on_failure: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub(crate) last_modified_ms: i64,
}

impl Functions {
    /// Changes what is attached to `$LATEST`, a version or an alias, which must exist; again if it was changed in between.
    ///
    /// # Errors
    /// What `change` refuses, and as for functions.
    pub(crate) async fn attach<E: From<ChangeError>>(
        &self,
        id: &FunctionId,
        qualifier: &str,
        change: impl Fn(&mut Attached) -> Result<(), E> + Send,
    ) -> Result<Arc<Attached>, E> {
        for _ in 0..MAX_TRIES {
            let function = self.view.get(id).ok_or(ChangeError::Absent)?;
            let current = self.view.attached(id, qualifier);
            let mut attached = match &current {
                Some(kept) => Attached::clone(&kept.attached),
                None => Attached {
                    qualifier: qualifier.into(),
                    incarnation: function.config.incarnation.clone(),
                    ..Attached::default()
                },
            };
            change(&mut attached)?;
            let key = Key::Attached(id.clone(), qualifier.into()).bytes();
            let op = if attached.is_empty() {
                Op::Delete(key.clone())
            } else {
                let value = serde_json::to_vec(&attached).map_err(ChangeError::from)?;
                Op::Put { key: key.clone(), value, lease: None }
            };
            let unchanged = match current {
                Some(kept) => Compare::Modified(key, kept.revision),
                None => Compare::Absent(key),
            };
            let mut compares = vec![unchanged, Compare::Exists(Key::Latest(id.clone()).bytes())];
            if qualifier != LATEST {
                compares.push(Compare::Exists(match qualifier.parse() {
                    Ok(number) => Key::Version(id.clone(), number).bytes(),
                    Err(_) => Key::Alias(id.clone(), qualifier.into()).bytes(),
                }));
            }
            if self.commit(Txn { compares, ops: vec![op] }).await? {
                return Ok(Arc::new(attached));
            }
            let alias = self.view.alias(id, qualifier).is_some();
            if !alias && self.view.named(id, qualifier).is_none() {
                return Err(ChangeError::Absent.into());
            }
        }
        Err(ChangeError::Busy.into())
    }
}
