//! Functions' URLs: a request whose host is a function's becomes an event, and what the function answers becomes the answer.
//!
//! ```text
//! request ─► host ─► preflight? ─► signer, if it takes one ─► body ─► signature ─► may they? ─► event ─► invoker ─► answer ─► cors
//! ```
//!
//! Nothing here knows a path: all of a URL's paths are its function's, and no path of the API's is reached by a URL's host.

pub(super) mod answer;
mod cors;
mod event;
mod host;
mod prelude;
mod refusal;
mod stream;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header::ORIGIN, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use chrono::Utc;
use http_body_util::BodyExt as _;

use self::{
    event::{Context, Signer},
    host::{Named, UrlHost},
    refusal::Refusal,
};
use super::{
    App, authorize,
    gate::{self, Arrived, MAX_EVENT_LEN},
    invocations,
    streaming::{self, Beginning},
};
use crate::{
    auth::{Claim, Payload},
    functions::{
        attached::Attached,
        model::{self, FunctionId, LATEST},
        urls::{FunctionUrl, UrlAuth, UrlMode},
    },
    identity::Principal,
    invoke::{Invocation, messages},
    server::{Peer, Standing},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

/// Lets the API have what is its own, and serves the rest.
pub(super) async fn divert(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match host::named(request.uri(), request.headers(), &app.urls) {
        Named::Node => next.run(request).await,
        named => respond(&app, named, request).await,
    }
}

/// Serves whatever comes.
pub(super) async fn serve(State(app): State<Arc<App>>, request: Request) -> Response {
    let named = host::named(request.uri(), request.headers(), &app.urls);
    respond(&app, named, request).await
}

async fn respond(app: &Arc<App>, named: Named, request: Request) -> Response {
    let request_id = uuid::Uuid::new_v4().to_string();
    let mut response = match Found::of(app, named) {
        None => Refusal::Forbidden.into_response(),
        Some(found) => found.respond(app, request, &request_id).await,
    };
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    tracing::debug!(request_id, status = response.status().as_u16(), "a URL answered");
    response
}

/// A URL that is there.
struct Found {
    host: UrlHost,
    id: FunctionId,
    qualifier: String,
    url: FunctionUrl,
}

impl Found {
    fn of(app: &App, named: Named) -> Option<Self> {
        let Named::Url(host) = named else { return None };
        let (id, attached) = app.functions.view().url(&host.id)?;
        let Attached { qualifier, url, .. } = &*attached;
        let (qualifier, url) = (qualifier.clone(), url.clone()?);
        (id.region == host.region).then_some(Self { host, id, qualifier, url })
    }

    async fn respond(&self, app: &Arc<App>, request: Request, request_id: &str) -> Response {
        let origin = request.headers().get(ORIGIN).cloned();
        let (head, body) = request.into_parts();
        if let Some(answered) = self.url.cors.as_ref().and_then(|cors| cors::preflight(&head, cors)) {
            return answered;
        }
        let called = self.call(app, head, body, request_id).await;
        let mut response = called.unwrap_or_else(Refusal::into_response);
        if let Some(cors) = &self.url.cors {
            cors::tell(response.headers_mut(), origin.as_ref(), cors);
        }
        response
    }

    async fn call(
        &self,
        app: &Arc<App>,
        mut head: Parts,
        body: Body,
        request_id: &str,
    ) -> Result<Response, Refusal> {
        // None without a server in front.
        let standing = head.extensions.remove::<Standing>();
        let source =
            head.extensions.remove::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        let claim = self.claim(app, &head)?;
        let payload =
            claim.as_ref().map_or_else(|| Ok(Payload::whole()), |claim| claim.payload(&head.headers));
        let payload = payload.map_err(|_| Refusal::Forbidden)?;
        let bounds = (MAX_EVENT_LEN, "InvokeFunction");
        let arrived = gate::receive(&app.url_budget, body, payload, bounds).await;
        let Arrived { body, read, mut memory } = arrived.map_err(Refusal::Request)?;
        read.tell(&mut head.headers);
        let mut arn = None;
        if let Some(claim) = &claim {
            claim.verify(&read).map_err(|_| Refusal::Forbidden)?;
            arn = self.authorize(app, Some(&claim.principal()))?;
        }
        if let Some(standing) = standing {
            standing.admit().await;
        }
        let key = claim.as_ref().and_then(Claim::access_key_id);
        let signer = key.zip(arn.as_deref());
        let trace_id = head.headers.get(TRACE_ID).and_then(|id| id.to_str().ok());
        let trace_id = trace_id.filter(|id| id.len() <= invocations::MAX_TRACE_LEN).map(String::from);
        let trace_id = trace_id.unwrap_or_else(|| messages::trace_id(request_id));
        let context = Context {
            id: &self.host.id,
            domain: app.urls.host_of(&self.host.id, &self.host.region),
            base: &app.urls,
            source,
            request_id,
            trace_id: &trace_id,
            at: Utc::now(),
            signer: signer.map(|(key, arn)| Signer { account: &app.account_id, key, arn }),
        };
        let event = event::of(&head, &body, &context)?;
        drop(body);
        memory.grow(event.len()).await.map_err(Refusal::Request)?;
        let event = memory.keep(event);
        let invocation = self.invocation(app, event, trace_id, request_id)?;
        let answer = match self.url.mode {
            UrlMode::Buffered => streaming::joined(invocations::begin(app, &self.id, invocation).await)?,
            UrlMode::Streamed => match streaming::begin(app, &self.id, invocation).await? {
                Beginning::Whole(answer) => answer,
                Beginning::Streamed(content_type, streaming) => {
                    return stream::answer(&content_type, streaming).await;
                }
            },
        };
        match answer.function_error {
            Some(_) => Err(Refusal::Failed),
            None => with_memory(answer::of(&answer.payload)?, answer.payload).await,
        }
    }

    /// Who signed, where somebody has to; their signature is still to be verified.
    fn claim(&self, app: &App, head: &Parts) -> Result<Option<Claim>, Refusal> {
        if self.url.auth == UrlAuth::Open {
            // Before anything is read of who may not call it.
            return self.authorize(app, None).map(|_anybody| None);
        }
        // Whatever `auth` says of the API: who made this URL wanted signatures.
        let claim = app.authenticator.identify_signer(head, Utc::now()).map_err(|_| Refusal::Forbidden)?;
        if claim.region == self.id.region { Ok(Some(claim)) } else { Err(Refusal::Forbidden) }
    }

    /// Whether the policies let them, of who signed and of what the URL belongs to; and who that is.
    fn authorize(&self, app: &App, principal: Option<&Principal>) -> Result<Option<String>, Refusal> {
        let allowed = authorize::authorize_url(app, principal, &self.arn(app), self.url.auth.name());
        allowed.map_err(|_| Refusal::Forbidden)
    }

    /// Of the function, or of the alias of it.
    fn arn(&self, app: &App) -> String {
        let arn = model::arn(&self.id, &app.account_id);
        if self.qualifier == LATEST { arn } else { format!("{arn}:{}", self.qualifier) }
    }

    fn invocation(
        &self,
        app: &App,
        payload: Bytes,
        trace_id: String,
        request_id: &str,
    ) -> Result<Invocation, Refusal> {
        let roll = invocations::roll().map_err(Refusal::Request)?;
        let function = app.functions.view().serving(&self.id, &self.qualifier, roll);
        let function = function.ok_or(Refusal::Forbidden)?;
        invocations::serves(&function.config).map_err(|_| Refusal::Failed)?;
        Ok(Invocation {
            function: function.config,
            code: function.code,
            invoked_arn: self.arn(app),
            payload,
            client_context: None,
            trace_id: Some(trace_id),
            log_tail: false,
            request_id: request_id.into(),
            slot: None,
            sink: None,
            answers: app.url_answers.clone(),
        })
    }
}

/// An answer that was made of what a function answered, with the memory that there is for both.
async fn with_memory(made: Response, answered: Bytes) -> Result<Response, Refusal> {
    let (head, body) = made.into_parts();
    // It is in memory: nothing is waited for, and nothing is copied.
    let body = body.collect().await.map_err(|_| Refusal::Failed)?.to_bytes();
    Ok(Response::from_parts(head, Body::from(Bytes::from_owner(Made { body, _of: answered }))))
}

/// A body, and what it was made of.
struct Made {
    body: Bytes,
    _of: Bytes,
}

impl AsRef<[u8]> for Made {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}
