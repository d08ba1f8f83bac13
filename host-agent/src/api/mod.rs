//! The Lambda HTTP API: routes, wire shapes, validation and errors. Knows HTTP and AWS's names; decides nothing about
//! sandboxes.
//!
//! ```text
//! request ─► gate (id, identification, bounded body, signature, authorization) ─► operation ─► functions | invoker
//!    └─► urls, if its host is a function's URL ───────────────────────────────────────────────────────────┘
//! ```

mod aliases;
mod authorize;
mod call;
mod chunks;
mod code_signing;
mod concurrency;
mod constraints;
mod containers;
mod downloads;
mod egress;
mod error;
mod event_invokes;
mod events;
mod functions;
mod gate;
mod images;
mod invocations;
mod keys;
mod layer_names;
mod layer_policies;
mod layers;
mod lists;
mod logs;
mod names;
mod objects;
mod operations;
mod permissions;
mod policies;
mod provisioned;
mod recursion;
mod requests;
mod responses;
mod runtime_management;
mod runtimes;
mod settings;
mod streaming;
mod structures;
mod tags;
#[cfg(test)]
mod tests;
mod upload;
mod url_configs;
mod urls;
mod versions;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::{delete, get, post, put},
};
use tokio::sync::Semaphore;

use self::downloads::Downloads;
pub(crate) use self::{
    error::ApiError,
    logs::{TARGET, TARGET_PREFIX},
};
use crate::{
    auth::Authenticator,
    chunks::Chunks,
    code::buckets::CodeBuckets,
    config::{Config, UrlBase},
    events::Events,
    functions::{Functions, runtimes::Runtimes},
    identity::AccessKeys,
    invoke::{
        Invoker,
        concurrency::Concurrency,
        memory::{self, Answers},
    },
    logs::LogStore,
    network::Policies,
    node_state::NodeState,
};

/// What operations work with.
pub(crate) struct App {
    account_id: String,
    authenticator: Authenticator,
    access_keys: Arc<AccessKeys>,
    runtimes: Runtimes,
    functions: Arc<Functions>,
    code_buckets: CodeBuckets,
    invoker: Arc<dyn Invoker>,
    downloads: Downloads,
    body_budget: Arc<Semaphore>,
    concurrency: Arc<Concurrency>,
    events: Arc<Events>,
    chunks: Arc<Chunks>,
    policies: Policies,
    logs: Arc<LogStore>,
    /// One operation on all chunks at a time.
    upkeep: Semaphore,
    node: NodeState,
    urls: UrlBase,
    url_budget: Arc<Semaphore>,
    answers: Answers,
    url_answers: Answers,
}

impl App {
    /// For a node.
    pub(crate) fn new(
        config: &Config,
        (functions, code_buckets): (Arc<Functions>, CodeBuckets),
        invoker: Arc<dyn Invoker>,
        (chunks, policies, logs): (Arc<Chunks>, Policies, Arc<LogStore>),
        (concurrency, events): (Arc<Concurrency>, Arc<Events>),
        access_keys: Arc<AccessKeys>,
        node: NodeState,
    ) -> Arc<Self> {
        Arc::new(Self {
            account_id: config.account_id.clone(),
            authenticator: Authenticator::new(config, Arc::clone(&access_keys)),
            access_keys,
            runtimes: Runtimes::find(&config.lib_dir, config.runtime_stand_ins),
            functions,
            code_buckets,
            invoker,
            downloads: Downloads::new(
                if config.tls.is_some() { "https" } else { "http" },
                config.listen.to_string(),
            ),
            body_budget: Arc::new(Semaphore::new(gate::BODY_BUDGET_KIB)),
            concurrency,
            events,
            chunks,
            policies,
            logs,
            upkeep: Semaphore::new(1),
            node,
            urls: config.function_urls.base.clone(),
            url_budget: Arc::new(Semaphore::new(gate::URL_BUDGET_KIB)),
            answers: Answers::new(memory::API_ANSWERS_KIB),
            url_answers: Answers::twofold(memory::URL_ANSWERS_KIB),
        })
    }

    /// What settings of a function may name.
    fn offered(&self) -> settings::Offered<'_> {
        let (account_id, destinations) = (&self.account_id, self.events.destinations());
        settings::Offered { account_id, runtimes: &self.runtimes, destinations }
    }
}

/// The whole API as one service; requests whose host is a function's URL are that function's and never the API's.
pub(crate) fn router(app: Arc<App>) -> Router {
    let operations = operations::routes()
        .route("/", post(logs::serve))
        .route("/tinderbox/node", get(node))
        .route("/tinderbox/runtimes", get(runtimes::list))
        .route("/tinderbox/egress/{FunctionName}", get(egress::get).put(egress::put).delete(egress::delete))
        .route("/tinderbox/events", get(events::totals))
        .route("/tinderbox/events/{FunctionName}", get(events::get))
        .route("/tinderbox/queues/{QueueName}", get(events::read_queue).delete(events::drop_queue))
        .route("/tinderbox/chunks", get(chunks::stats))
        .route("/tinderbox/chunks/verify", post(chunks::verify))
        .route("/tinderbox/chunks/gc", post(chunks::gc))
        .route("/tinderbox/chunks/repair", post(chunks::repair))
        .route("/tinderbox/images", get(images::list).delete(images::delete))
        .route("/tinderbox/images/uploads", post(images::begin))
        .route("/tinderbox/images/uploads/{UploadId}", put(images::append).post(images::finish))
        .route("/tinderbox/images/pulls", post(images::pull))
        .route("/tinderbox/keys", get(keys::list).post(keys::create))
        .route("/tinderbox/keys/{AccessKeyId}", delete(keys::delete))
        .route("/tinderbox/keys/{AccessKeyId}/policy", put(keys::set_policy))
        .route("/tinderbox/keys/{AccessKeyId}/state", put(keys::set_state))
        .fallback(operations::refuse)
        .method_not_allowed_fallback(operations::refuse)
        // The gate bounds bodies, by operation.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate::gate));
    let node = Router::new()
        .route("/tinderbox/health", get(health))
        .route("/tinderbox/code/{name}", get(downloads::download));
    let divert = middleware::from_fn_with_state(Arc::clone(&app), urls::divert);
    node.merge(operations).layer(divert).with_state(app)
}

/// Functions' URLs as a service of their own: no request is the API's, whatever its host.
pub(crate) fn url_router(app: Arc<App>) -> Router {
    Router::new().fallback(urls::serve).with_state(app)
}

/// How the node is closed. Signed for: it says what an attacker need not try.
async fn node(State(app): State<Arc<App>>) -> Json<impl serde::Serialize> {
    Json(app.node.clone())
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}
