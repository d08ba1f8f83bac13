//! What the pool and its caller say to each other.

use std::{sync::Arc, time::Duration};

#[cfg(doc)]
use super::Pool;
use crate::{
    invoke::rate::Rate,
    sandbox::{SandboxId, VersionKey},
};

/// Names one request for a sandbox; the caller numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// What the node and the account allow.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Memory for sandboxes, MiB.
    pub(crate) memory_mib: u64,
    /// Sandboxes that may start at the same time.
    pub(crate) max_starting: usize,
    /// Of one version, up to their end: those that compute for longer than a slot is theirs would take the processors from each
    /// other until none of them was in time.
    pub(crate) starts_of_version: usize,
    /// Requests in flight for the whole account; Lambda's default is 1,000.
    pub(crate) account_concurrency: usize,
    /// How long an unused sandbox is kept.
    pub(crate) idle_timeout: Duration,
    /// How fast a function may be given new sandboxes by its requests.
    pub(crate) growth: Rate,
}

/// What a request needs.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    /// The version to run.
    pub(crate) key: Arc<VersionKey>,
    /// Memory that a new sandbox would take from the node, MiB.
    pub(crate) charge_mib: u64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Throttle {
    /// The account's requests in flight are at their limit.
    AccountConcurrency,
    /// The node's memory is taken by sandboxes that are in use.
    NodeMemory,
    /// Not even an empty node would have the memory: trying again is of no use.
    LargerThanNode,
    /// The function was given as many new sandboxes of late as [`Limits::growth`] says.
    Growth,
}

/// What the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Hand the warm sandbox to the request.
    Run {
        /// Who gets it.
        ticket: Ticket,
        /// What it gets.
        sandbox: SandboxId,
    },
    /// Start a sandbox for the request, then report [`Pool::started`] or [`Pool::stopping`].
    Start {
        /// Who gets it.
        ticket: Ticket,
        /// The name of the new sandbox.
        sandbox: SandboxId,
    },
    /// Start a sandbox that is to wait, then report [`Pool::prepared`], or [`Pool::failed`] and [`Pool::ended`].
    Prepare {
        /// The name of the new sandbox; [`Pool::key`] says of what.
        sandbox: SandboxId,
    },
    /// Destroy an unused sandbox, then report [`Pool::ended`].
    Stop {
        /// Which.
        sandbox: SandboxId,
    },
}
