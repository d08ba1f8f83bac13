//! Aliases: which version serves, and how an alias is made, moved and removed.
//!
//! An alias that is moved to a version without a snapshot yet goes on serving what it served before, until that version
//! is active; if it fails, for good. The flip is the transaction that makes the version active.

use std::sync::Arc;

use cluster_store::{Compare, Op, Txn, TxnOutcome};

use super::{
    ChangeError, Functions, MAX_TRIES,
    keys::Key,
    model::{Alias, FunctionId, LATEST, State},
    new_id,
    provisioned::ProvisionError,
};

/// The version that an invocation of an alias runs: `roll`, from 0.0 up to 1.0, is the caller's chance; `serves` says
/// which versions take invocations. What is named is the answer when nothing serves, so that the caller can say why.
pub(crate) fn route(alias: &Alias, roll: f64, serves: impl Fn(&str) -> bool) -> &str {
    if let Some((second, weight)) = &alias.second
        && roll < *weight
        && serves(second)
    {
        return second;
    }
    if serves(&alias.version) {
        return &alias.version;
    }
    alias.fallback.as_deref().filter(|fallback| serves(fallback)).unwrap_or(&alias.version)
}

/// What a client wants an alias to be; absent members stay as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct AliasChange {
    /// The version that it names.
    pub(crate) version: Option<String>,
    /// Free text.
    pub(crate) description: Option<String>,
    /// A second version and its share; `Some(None)` removes it.
    pub(crate) second: Option<Option<(String, f64)>>,
}

/// Why an alias was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AliasError {
    /// The name is taken.
    #[error("the alias exists")]
    Exists,
    /// No such alias.
    #[error("the alias does not exist")]
    Absent,
    /// It would name a version that does not exist.
    #[error("version {0} does not exist")]
    NoVersion(String),
    /// It would route `$LATEST` beside another version.
    #[error("$LATEST cannot share an alias")]
    SharedLatest,
    /// It would route a version beside itself.
    #[error("version {0} is named twice")]
    Twice(String),
    /// It has provisioned concurrency, which what it would name cannot have.
    #[error(transparent)]
    Provisioned(#[from] ProvisionError),
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Functions {
    /// Makes an alias.
    pub(crate) async fn create_alias(
        &self,
        id: &FunctionId,
        name: &str,
        change: AliasChange,
    ) -> Result<Arc<Alias>, AliasError> {
        let function = self.view.get(id).ok_or(ChangeError::Absent)?;
        if self.view.alias(id, name).is_some() {
            return Err(AliasError::Exists);
        }
        let mut alias = Alias {
            name: name.into(),
            version: String::new(),
            description: String::new(),
            second: None,
            fallback: None,
            revision_id: String::new(),
            incarnation: function.config.incarnation.clone(),
        };
        self.apply(id, &mut alias, change)?;
        let key = Key::Alias(id.clone(), name.into()).bytes();
        let put = put(&key, &alias)?;
        let mut compares = vec![Compare::Absent(key)];
        compares.extend(self.references(id, &alias));
        match self.commit(Txn { compares, ops: vec![put] }).await? {
            true => Ok(Arc::new(alias)),
            false if self.view.alias(id, name).is_some() => Err(AliasError::Exists),
            false => Err(ChangeError::Busy.into()),
        }
    }

    /// Changes an alias, if its revision is the expected one.
    pub(crate) async fn update_alias(
        &self,
        id: &FunctionId,
        name: &str,
        expected: Option<&str>,
        change: AliasChange,
    ) -> Result<Arc<Alias>, AliasError> {
        // Nothing is provisioned meanwhile.
        let _one = self.reserving.lock().await;
        for _ in 0..MAX_TRIES {
            let current = self.view.alias(id, name).ok_or(AliasError::Absent)?;
            if expected.is_some_and(|expected| expected != current.alias.revision_id) {
                return Err(ChangeError::Stale.into());
            }
            let mut alias = Alias::clone(&current.alias);
            self.apply(id, &mut alias, change.clone())?;
            let attached = self.view.attached(id, name);
            let provisioned = attached.is_some_and(|kept| kept.attached.provisioned.is_some());
            if provisioned {
                self.check_provisioned_alias(id, &alias)?;
            }
            let key = Key::Alias(id.clone(), name.into()).bytes();
            let put = put(&key, &alias)?;
            let mut compares = vec![Compare::Modified(key, current.revision)];
            compares.extend(self.references(id, &alias));
            if self.commit(Txn { compares, ops: vec![put] }).await? {
                if provisioned {
                    self.provide(id);
                }
                return Ok(Arc::new(alias));
            }
        }
        Err(ChangeError::Busy.into())
    }

    /// Removes an alias; one that does not exist is as good as removed.
    pub(crate) async fn delete_alias(&self, id: &FunctionId, name: &str) -> Result<(), AliasError> {
        if self.view.get(id).is_none() {
            return Err(ChangeError::Absent.into());
        }
        let delete = Op::Delete(Key::Alias(id.clone(), name.into()).bytes());
        let attached = Op::Delete(Key::Attached(id.clone(), name.into()).bytes());
        self.commit(Txn { compares: Vec::new(), ops: vec![delete, attached] }).await?;
        self.provide(id);
        Ok(())
    }

    /// Applies a change and checks the alias that comes out.
    fn apply(&self, id: &FunctionId, alias: &mut Alias, change: AliasChange) -> Result<(), AliasError> {
        let state_of =
            |version: &str| self.view.named(id, version).map(|function| function.config.state.clone());
        let serves = |version: &str| state_of(version) == Some(State::Active);
        let served = (!alias.version.is_empty()).then(|| route(alias, 1.0, serves).to_owned());
        if let Some(version) = change.version {
            alias.fallback =
                served.filter(|served| *served != version && !serves(&version) && serves(served));
            alias.version = version;
        }
        alias.description = change.description.unwrap_or(std::mem::take(&mut alias.description));
        alias.second = change.second.unwrap_or(alias.second.take());
        for version in std::iter::once(&alias.version).chain(alias.second.iter().map(|(version, _)| version))
        {
            if state_of(version).is_none() {
                return Err(AliasError::NoVersion(version.clone()));
            }
        }
        match &alias.second {
            Some((second, _)) if alias.version == LATEST || second == LATEST => {
                return Err(AliasError::SharedLatest);
            }
            Some((second, _)) if *second == alias.version => return Err(AliasError::Twice(second.clone())),
            _ => {}
        }
        alias.revision_id = new_id();
        Ok(())
    }

    /// What an alias names exists when it is written.
    fn references(&self, id: &FunctionId, alias: &Alias) -> Vec<Compare> {
        let versions = [Some(&alias.version), alias.second.as_ref().map(|(version, _)| version)];
        let named = versions.into_iter().flatten().chain(&alias.fallback);
        let mut compares = vec![Compare::Exists(Key::Latest(id.clone()).bytes())];
        let number = |version: &String| version.parse().ok();
        compares.extend(
            named.filter_map(number).map(|number| Compare::Exists(Key::Version(id.clone(), number).bytes())),
        );
        compares
    }

    /// Runs a transaction and waits until the view has its outcome; whether it was made.
    pub(super) async fn commit(&self, txn: Txn) -> Result<bool, ChangeError> {
        let (made, revision) = match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => (true, revision),
            TxnOutcome::Refused(revision) => (false, revision),
        };
        self.view.reach(revision).await;
        Ok(made)
    }
}

fn put(key: &[u8], alias: &Alias) -> Result<Op, ChangeError> {
    Ok(Op::Put { key: key.to_vec(), value: serde_json::to_vec(alias)?, lease: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alias(version: &str, second: Option<(&str, f64)>, fallback: Option<&str>) -> Alias {
        Alias {
            name: "live".into(),
            version: version.into(),
            description: String::new(),
            second: second.map(|(version, weight)| (version.into(), weight)),
            fallback: fallback.map(String::from),
            revision_id: String::new(),
            incarnation: String::new(),
        }
    }

    #[test]
    fn weights_are_shares() {
        let alias = alias("1", Some(("2", 0.25)), None);
        let share =
            (0..1000).filter(|roll| route(&alias, f64::from(*roll) / 1000.0, |_| true) == "2").count();
        assert_eq!(share, 250);
    }

    proptest! {
        #[test]
        fn what_does_not_serve_is_never_chosen_while_something_does(
            roll in 0.0..1.0f64, weight in 0.0..=1.0f64, serving in any::<[bool; 3]>(),
        ) {
            let alias = alias("1", Some(("2", weight)), Some("3"));
            let serves = |version: &str| serving[version.parse::<usize>().unwrap() - 1];
            let chosen = route(&alias, roll, serves);
            // The second version alone does not stand in for the first: its share is what was asked for.
            if serving[0] || serving[2] {
                prop_assert!(serves(chosen), "{chosen}");
            } else if !(serving[1] && roll < weight) {
                prop_assert_eq!(chosen, "1");
            }
        }
    }
}
