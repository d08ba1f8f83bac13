//! The node's functions: their record, their store and the view of it that requests read.
//!
//! Every change is one transaction that compares the record's revision: durable before it is answered, visible in the
//! view before it is answered, and never lost to another change in between.
//!
//! ```text
//!  create ──► Pending ──settle──► Active ◄──settle── Active, update InProgress
//!                                   └────── update ─────────▲
//! ```

pub(crate) mod model;
pub(crate) mod runtimes;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use cluster_store::{Compare, Op, Store, StoreError, Txn, TxnOutcome};

pub(crate) use self::view::{Function, View, ViewError};
use self::{
    model::{CodeRef, FunctionConfig, FunctionId, State, UpdateStatus},
    view::key,
};
use crate::{
    code::{CodeError, CodeStore},
    invoke::{CodeImage, Invoker},
};

/// How often a change is tried again when others change the same function in between.
const MAX_TRIES: usize = 16;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The name is taken.
    #[error("the function exists")]
    Exists,
    /// No such function.
    #[error("the function does not exist")]
    Absent,
    /// The client's precondition does not hold.
    #[error("the revision is not the one that was named")]
    Stale,
    /// Others changed the function again and again.
    #[error("the function is being changed")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record could not be encoded.
    #[error("the record cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// The node's functions.
pub(crate) struct Functions {
    store: Arc<dyn Store>,
    view: Arc<View>,
    code: Arc<CodeStore>,
    invoker: Arc<dyn Invoker>,
}

impl Functions {
    /// Opens the functions of a node: reads them, finishes what was under way when the agent ended, makes missing
    /// images, deletes code that no function names.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        code: Arc<CodeStore>,
        invoker: Arc<dyn Invoker>,
    ) -> Result<Arc<Self>, ViewError> {
        let view = View::follow(Arc::clone(&store), Arc::clone(&code)).await?;
        let functions = Arc::new(Self { store, view, code, invoker });
        let all = functions.view.collect(|function| Some(Arc::clone(&function.config)));
        for config in all {
            functions.settle_now(&config).await;
            if let Err(error) = functions.code.restore(&config.code.sha256).await {
                tracing::error!(function = config.arn(), "its code image cannot be made: {error}");
            }
        }
        functions.sweep().await;
        Ok(functions)
    }

    /// A function, if it exists.
    pub(crate) fn get(&self, id: &FunctionId) -> Option<Function> {
        self.view.get(id)
    }

    /// The view, for listings and totals.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Checks and stores an uploaded zip.
    pub(crate) async fn ingest(&self, zip: Bytes) -> Result<(CodeRef, Arc<CodeImage>), CodeError> {
        self.code.ingest(zip).await
    }

    /// The zip of some code.
    pub(crate) async fn zip(&self, code: &CodeRef) -> Result<Bytes, CodeError> {
        self.code.zip(&code.sha256).await
    }

    /// Creates a function, in state Pending; it becomes Active by itself.
    pub(crate) async fn create(
        self: &Arc<Self>,
        config: FunctionConfig,
    ) -> Result<Arc<FunctionConfig>, ChangeError> {
        let key = key(&config.id);
        let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
        let txn = Txn { compares: vec![Compare::Absent(key)], ops: vec![put] };
        match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => self.view.reach(revision).await,
            TxnOutcome::Refused(_) => return Err(ChangeError::Exists),
        }
        let config = Arc::new(config);
        self.settle(Arc::clone(&config));
        Ok(config)
    }

    /// Changes a function: `change` is applied to the record as it is, again if it was changed in between.
    pub(crate) async fn update(
        self: &Arc<Self>,
        id: &FunctionId,
        expected: Option<&str>,
        change: impl Fn(&mut FunctionConfig) + Send,
    ) -> Result<Arc<FunctionConfig>, ChangeError> {
        for _ in 0..MAX_TRIES {
            let Some(current) = self.view.get(id) else { return Err(ChangeError::Absent) };
            if expected.is_some_and(|expected| expected != current.config.revision_id) {
                return Err(ChangeError::Stale);
            }
            let mut config = FunctionConfig::clone(&current.config);
            change(&mut config);
            config.deployment_id = new_id();
            config.last_update = Some(UpdateStatus::InProgress);
            config.state = State::Active;
            config.last_modified_ms = now_ms();
            if self.replace(&current, &mut config).await? {
                self.invoker.retire(id, Some(&config.deployment_id));
                let config = Arc::new(config);
                self.settle(Arc::clone(&config));
                self.sweep_later();
                return Ok(config);
            }
        }
        Err(ChangeError::Busy)
    }

    /// Deletes a function.
    pub(crate) async fn delete(self: &Arc<Self>, id: &FunctionId) -> Result<(), ChangeError> {
        if self.view.get(id).is_none() {
            return Err(ChangeError::Absent);
        }
        let key = key(id);
        let txn = Txn { compares: vec![Compare::Exists(key.clone())], ops: vec![Op::Delete(key)] };
        match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => self.view.reach(revision).await,
            TxnOutcome::Refused(_) => return Err(ChangeError::Absent),
        }
        self.invoker.retire(id, None);
        self.sweep_later();
        Ok(())
    }

    /// Writes `config` if the record still is `current`; gives it its revision's id. `false` if it is not.
    async fn replace(&self, current: &Function, config: &mut FunctionConfig) -> Result<bool, ChangeError> {
        config.revision_id = new_id();
        let key = key(&config.id);
        let put = Op::Put { key: key.clone(), value: serde_json::to_vec(&config)?, lease: None };
        let txn = Txn { compares: vec![Compare::Modified(key, current.revision)], ops: vec![put] };
        match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => {
                self.view.reach(revision).await;
                Ok(true)
            }
            TxnOutcome::Refused(revision) => {
                self.view.reach(revision).await;
                Ok(false)
            }
        }
    }

    /// Finishes a creation or an update after its answer, as AWS does: clients see the state in between.
    fn settle(self: &Arc<Self>, config: Arc<FunctionConfig>) {
        let functions = Arc::clone(self);
        tokio::spawn(async move { functions.settle_now(&config).await });
    }

    async fn settle_now(&self, config: &FunctionConfig) {
        if config.state == State::Active && config.last_update == Some(UpdateStatus::Successful) {
            return;
        }
        // Whoever changed the record in between settles it.
        let current = self.view.get(&config.id).filter(|now| now.config.revision_id == config.revision_id);
        let Some(current) = current else { return };
        let mut settled = FunctionConfig::clone(&current.config);
        settled.state = State::Active;
        settled.last_update = Some(UpdateStatus::Successful);
        if let Err(error) = self.replace(&current, &mut settled).await {
            tracing::error!(function = config.arn(), "its state cannot be written: {error}");
        }
    }

    fn sweep_later(self: &Arc<Self>) {
        let functions = Arc::clone(self);
        tokio::spawn(async move { functions.sweep().await });
    }

    async fn sweep(&self) {
        if let Err(error) = self.code.sweep().await {
            tracing::error!("code that nothing names is left: {error}");
        }
    }
}

/// A fresh id: a revision's or a deployment's.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The wall clock in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
