//! Leases of a one-node store: who is alive, and a timer for each.
//!
//! A lease is memory only. Its keys are on disk, and go when the lease ends or, if the process ended first, when the
//! store is opened again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::LeaseId;

/// What a lease's timer listens to.
#[derive(Debug)]
struct Lease {
    renewed: watch::Sender<()>,
}

/// The leases that are alive.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    alive: Mutex<HashMap<LeaseId, Lease>>,
}

/// The wait of one lease.
#[derive(Debug)]
pub(crate) struct Timer {
    ttl: Duration,
    renewals: watch::Receiver<()>,
}

impl Leases {
    /// Makes a lease known; its keys are to be deleted when the timer runs out.
    pub(crate) fn insert(&self, id: LeaseId, ttl: Duration) -> Timer {
        let (renewed, renewals) = watch::channel(());
        self.lock().insert(id, Lease { renewed });
        Timer { ttl, renewals }
    }

    /// Whether the lease is alive.
    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Starts its time anew; `false` if it is not alive.
    pub(crate) fn renew(&self, id: LeaseId) -> bool {
        self.lock().get(&id).is_some_and(|lease| lease.renewed.send(()).is_ok())
    }

    /// Forgets it; `false` if it was not alive.
    pub(crate) fn remove(&self, id: LeaseId) -> bool {
        self.lock().remove(&id).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer {
    /// Waits until the lease has not been renewed for its time (`true`) or was removed (`false`).
    pub(crate) async fn expired(&mut self) -> bool {
        loop {
            match tokio::time::timeout(self.ttl, self.renewals.changed()).await {
                Err(_) => return true,
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
            }
        }
    }
}
