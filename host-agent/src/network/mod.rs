//! What sandboxes have of the network: where each function may go, and a slot of the gateway's for each sandbox that may go
//! anywhere.
//!
//! ```text
//!  policies   what operators have said of functions, durable         connect ─► slot, taken from those that are ready
//!  wording    how that is written                                     slots ── the one task that talks to the gateway
//! ```
//!
//! A sandbox that may go nowhere has no slot: the link of its machine is down. What is said of a function holds for sandboxes that
//! begin afterwards.

mod policies;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod wording;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use gateway_api::Egress;
use tokio::sync::{mpsc, oneshot};
use vmm_api::RateLimit;

use self::slots::{Gateway, Order};
pub(crate) use self::{
    policies::{Policies, PolicyError},
    slots::{NetworkError, Slot},
    wording::{Wording, WordingError},
};
use crate::{config, functions::model::FunctionId};

/// The node's networks.
#[derive(Debug)]
pub(crate) struct Network {
    default: Egress,
    /// What was said of functions.
    said: RwLock<HashMap<FunctionId, Egress>>,
    rate: RateLimit,
    /// Not longer than there are sandboxes.
    orders: mpsc::UnboundedSender<Order>,
}

impl Network {
    /// By the gateway that listens at `path`. It need not run yet.
    pub(crate) fn start(config: &config::Network, path: PathBuf) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Gateway::new(path, config).serve(inbox));
        Self { default: config.egress.clone(), said: RwLock::default(), rate: config.rate, orders }
    }

    /// A slot for a sandbox of that function, if it may go anywhere.
    pub(crate) async fn connect(&self, function: &FunctionId) -> Result<Option<Slot>, NetworkError> {
        let egress = self.egress(function);
        if egress == Egress::Nowhere {
            return Ok(None);
        }
        let (reply, slot) = oneshot::channel();
        self.orders.send(Order::Take { egress, reply }).map_err(|_| NetworkError::Gone)?;
        let (number, connection, tap) = slot.await.map_err(|_| NetworkError::Gone)??;
        Ok(Some(Slot::new((number, connection), tap, self.rate, self.orders.clone())))
    }

    /// Where sandboxes of that function may go that begin now.
    pub(crate) fn egress(&self, function: &FunctionId) -> Egress {
        self.said(function).unwrap_or_else(|| self.default.clone())
    }

    /// What was said of the function, if anything was.
    pub(crate) fn said(&self, function: &FunctionId) -> Option<Egress> {
        self.said.read().unwrap_or_else(PoisonError::into_inner).get(function).cloned()
    }

    fn say(&self, function: FunctionId, egress: Option<Egress>) {
        let mut said = self.said.write().unwrap_or_else(PoisonError::into_inner);
        match egress {
            Some(egress) => said.insert(function, egress),
            None => said.remove(&function),
        };
    }
}
