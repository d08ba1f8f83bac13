//! Provisioned concurrency: of a version, or of what an alias names; kept beside it, and told to the invoker, which keeps as many
//! sandboxes ready. `invoke::concurrency` holds invocations to it.
//!
//! A version has it once at most: its own, or that of one alias which names it.

use std::{collections::BTreeMap, sync::PoisonError};

use serde::{Deserialize, Serialize};

use super::{
    ChangeError, Functions,
    attached::Attached,
    concurrency::MIN_UNRESERVED,
    model::{Alias, FunctionId, LATEST, PUBLISHED_VERSIONS},
    now_ms,
    view::Function,
};
use crate::invoke::Provision;

/// What was provisioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Provisioned {
    /// How many invocations have a sandbox that waits for them; at least one.
    pub(crate) requested: u32,
    /// Milliseconds since the Unix epoch.
    pub(crate) last_modified_ms: i64,
}

/// What a function has of the account's concurrency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// What it has reserved.
    pub(crate) reserved: Option<u32>,
    /// What was provisioned for its versions; within what it has reserved.
    pub(crate) provisioned: u32,
    /// What was provisioned for the version in question.
    pub(crate) of_version: u32,
}

impl Claim {
    /// What no other function may take.
    pub(crate) fn total(self) -> u32 {
        self.reserved.unwrap_or(self.provisioned)
    }
}

/// Why nothing was provisioned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProvisionError {
    /// `$LATEST` changes; what is kept ready does not.
    #[error("the version is not a published one")]
    Unpublished,
    /// The alias names a second version.
    #[error("the alias names two versions")]
    Weighted,
    /// The version is resumed from snapshots.
    #[error("the version has SnapStart")]
    SnapStart,
    /// The alias names a version that has some already.
    #[error("the alias names a version that has provisioned concurrency")]
    OfProvisioned,
    /// An alias that names the version has some already.
    #[error("an alias of the version has provisioned concurrency")]
    OfAlias,
    /// More than the function has reserved.
    #[error("more than the function has reserved")]
    MoreThanReserved,
    /// More than so many, which the account has left.
    #[error("more than the {0} that are left")]
    MoreThanLeft(u32),
    /// Less than [`MIN_UNRESERVED`] would be left.
    #[error("less than {MIN_UNRESERVED} would be left")]
    TooMany,
    /// There is none to be taken away.
    #[error("nothing is provisioned")]
    None,
    /// As for functions.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What an alias's provision is for each of its versions: by the share of its invocations.
pub(crate) fn shares(alias: &Alias, requested: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    let mut first = requested;
    if let Some((second, weight)) = &alias.second {
        // From 0.0 to 1.0 of a number that is not negative.
        let share = ((f64::from(requested) * weight).round() as u32).min(requested);
        first -= share;
        shares.insert(second.clone(), share);
    }
    shares.insert(alias.version.clone(), first);
    shares.retain(|_, share| *share > 0);
    shares
}

impl Functions {
    /// Has so many sandboxes kept ready of a version, or of what an alias names, of the `account`'s concurrency.
    pub(crate) async fn provision(
        &self,
        id: &FunctionId,
        qualifier: &str,
        requested: u32,
        account: u32,
    ) -> Result<Provisioned, ProvisionError> {
        // As for what is reserved, and no alias moves meanwhile.
        let _one = self.reserving.lock().await;
        self.check_amount(id, qualifier, requested, account)?;
        match self.view.alias(id, qualifier) {
            Some(named) if named.alias.second.is_some() => return Err(ProvisionError::Weighted),
            Some(named) => self.check_provisioned_alias(id, &named.alias)?,
            None => self.check_provisioned_version(id, qualifier)?,
        }
        let provisioned = Provisioned { requested, last_modified_ms: now_ms() };
        let change = |attached: &mut Attached| {
            attached.provisioned = Some(provisioned);
            Ok::<_, ChangeError>(())
        };
        self.attach(id, qualifier, change).await?;
        self.provide(id);
        Ok(provisioned)
    }

    /// Keeps nothing ready of it any more.
    pub(crate) async fn unprovision(&self, id: &FunctionId, qualifier: &str) -> Result<(), ProvisionError> {
        let change =
            |attached: &mut Attached| attached.provisioned.take().map(drop).ok_or(ProvisionError::None);
        self.attach(id, qualifier, change).await?;
        self.provide(id);
        Ok(())
    }

    /// Whether an alias that has something provisioned may name what it names.
    pub(super) fn check_provisioned_alias(
        &self,
        id: &FunctionId,
        alias: &Alias,
    ) -> Result<(), ProvisionError> {
        let second = alias.second.iter().map(|(version, _)| version);
        for version in std::iter::once(&alias.version).chain(second) {
            self.check_version(id, version)?;
            if self.view.provisioned_by(id, version).iter().any(|other| *other != alias.name) {
                return Err(ProvisionError::OfProvisioned);
            }
        }
        Ok(())
    }

    fn check_provisioned_version(&self, id: &FunctionId, version: &str) -> Result<(), ProvisionError> {
        self.check_version(id, version)?;
        match self.view.provisioned_by(id, version).iter().any(|other| other != version) {
            true => Err(ProvisionError::OfAlias),
            false => Ok(()),
        }
    }

    fn check_version(&self, id: &FunctionId, version: &str) -> Result<(), ProvisionError> {
        if version == LATEST {
            return Err(ProvisionError::Unpublished);
        }
        let function = self.view.named(id, version).ok_or(ChangeError::Absent)?;
        if function.config.snap_start == PUBLISHED_VERSIONS {
            return Err(ProvisionError::SnapStart);
        }
        Ok(())
    }

    fn check_amount(
        &self,
        id: &FunctionId,
        qualifier: &str,
        requested: u32,
        account: u32,
    ) -> Result<(), ProvisionError> {
        let claim = self.view.claim(id, LATEST);
        let before = self.view.attached(id, qualifier).and_then(|kept| kept.attached.provisioned);
        let others = claim.provisioned - before.map_or(0, |provisioned| provisioned.requested);
        let sum = others.saturating_add(requested);
        match claim.reserved {
            Some(reserved) if sum > reserved => Err(ProvisionError::MoreThanReserved),
            Some(_) => Ok(()),
            None => {
                let left = account.saturating_sub(self.view.claimed() - claim.provisioned + others);
                if requested > left {
                    Err(ProvisionError::MoreThanLeft(left))
                } else if left - requested < MIN_UNRESERVED {
                    Err(ProvisionError::TooMany)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Tells the invoker what is to be kept ready of a function's versions.
    pub(super) fn provide(&self, id: &FunctionId) {
        // Who looks last tells last.
        let _one = self.providing.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |(function, _): &(Function, u32)| !function.config.awaits_image();
        let provisions = self.view.provisions(id).into_iter().filter(here);
        let wanted = provisions.map(|(function, count)| Provision {
            function: function.config,
            code: function.code,
            count,
        });
        self.invoker.provide(id, wanted.collect());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_aliass_versions_share_all_of_it(requested in 1..1000u32, weight in 0.0..=1.0f64) {
            let alias = Alias {
                name: "live".into(),
                version: "1".into(),
                description: String::new(),
                second: Some(("2".into(), weight)),
                fallback: None,
                revision_id: String::new(),
                incarnation: String::new(),
            };
            let both = shares(&alias, requested);
            prop_assert_eq!(both.values().sum::<u32>(), requested);
            let second = f64::from(both.get("2").copied().unwrap_or(0));
            prop_assert!((second - f64::from(requested) * weight).abs() <= 0.5);
            let alone = shares(&Alias { second: None, ..alias }, requested);
            prop_assert_eq!(alone, BTreeMap::from([("1".to_owned(), requested)]));
        }
    }
}
