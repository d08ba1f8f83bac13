//! What operators have said of functions, in the store. It is said of a name: it is there before the function, and after it.
//!
//! ```text
//! egress/REGION/NAME     where sandboxes of that function may go, as JSON
//! ```

use std::{str, sync::Arc};

use cluster_store::{KeyRange, Op, Store, StoreError, Txn};
use gateway_api::Egress;
use tokio::sync::Mutex;

use super::{Network, Wording, WordingError};
use crate::{
    functions::model::FunctionId,
    invoke::{Invoker, Retired},
};

/// What all keys begin with.
const PREFIX: &str = "egress/";

/// Why something is not said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record cannot be written, or read.
    #[error("the record of an egress")]
    Record(#[from] serde_json::Error),
    /// It says nothing that this version knows.
    #[error("the record of an egress")]
    Wording(#[from] WordingError),
    /// Its key is none of ours.
    #[error("an egress of nobody's: `{0}`")]
    Key(String),
}

/// Everything that was said.
pub(crate) struct Policies {
    store: Arc<dyn Store>,
    network: Arc<Network>,
    invoker: Arc<dyn Invoker>,
    /// One change at a time, so that store and memory say the same.
    turn: Mutex<()>,
}

impl Policies {
    /// Reads what was said before.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        network: Arc<Network>,
        invoker: Arc<dyn Invoker>,
    ) -> Result<Self, PolicyError> {
        let (entries, _) = store.range(KeyRange::prefix(PREFIX.as_bytes()), usize::MAX).await?;
        for entry in entries {
            let foreign = || PolicyError::Key(String::from_utf8_lossy(&entry.key).into_owned());
            let function = parse(&entry.key).ok_or_else(foreign)?;
            let wording: Wording = serde_json::from_slice(&entry.value)?;
            network.say(function, Some(wording.try_into()?));
        }
        Ok(Self { store, network, invoker, turn: Mutex::default() })
    }

    /// Where sandboxes of a function may go, and whether that was said of it.
    pub(crate) fn get(&self, function: &FunctionId) -> (Egress, bool) {
        (self.network.egress(function), self.network.said(function).is_some())
    }

    /// Says it, or that what the node says of all holds again: durable when this returns, and no sandbox begins otherwise or waits
    /// that has.
    pub(crate) async fn set(&self, function: &FunctionId, egress: Option<Egress>) -> Result<(), PolicyError> {
        let _turn = self.turn.lock().await;
        let key = key(function);
        let op = match &egress {
            Some(egress) => Op::Put { key, value: serde_json::to_vec(&Wording::from(egress))?, lease: None },
            None => Op::Delete(key),
        };
        self.store.txn(Txn { compares: Vec::new(), ops: vec![op] }).await?;
        self.network.say(function.clone(), egress);
        self.invoker.retire(function, Retired::Sandboxes);
        Ok(())
    }
}

fn key(FunctionId { region, name }: &FunctionId) -> Vec<u8> {
    format!("{PREFIX}{region}/{name}").into_bytes()
}

fn parse(key: &[u8]) -> Option<FunctionId> {
    let (region, name) = str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once('/')?;
    Some(FunctionId { region: region.into(), name: name.into() })
}
