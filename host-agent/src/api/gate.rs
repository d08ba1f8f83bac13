//! What every request passes before its operation and after it: a request id, identification, the body within its
//! bounds, the signature, and AWS's headers on the answer.
//!
//! Bounds: a body is as long as its operation takes and no longer, all bodies together take [`BODY_BUDGET_KIB`], and a
//! body that does not arrive is given up. A body that is too long is read on and thrown away for a while, because a
//! client that is still sending does not read the answer.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::{ApiError, App, names::Caller};

/// Longest event: Lambda's 6 MB.
pub(crate) const MAX_EVENT_LEN: usize = guest_protocol::MAX_BODY_LEN;

/// Longest body with code in it: 50 MB as base64, as AWS bounds it.
const MAX_UPLOAD_LEN: usize = 69_905_067;

/// Longest other body. The longest that AWS takes is an environment of 4 KB and its company.
const MAX_SMALL_LEN: usize = 1024 * 1024;

/// KiB of memory that all bodies take together; who comes later waits. Seven uploads, or eighty of the longest events.
pub(crate) const BODY_BUDGET_KIB: usize = 512 * 1024;

/// What a body may be over its limit and still be read to its end, in bytes.
const MAX_DISCARDED_LEN: usize = 64 * 1024 * 1024;

/// Longest time for a body to arrive, waiting for memory included: 70 MB at 2 Mbit/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(300);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// What is known of a request when its operation begins.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// Who asks.
    pub(crate) caller: Caller,
    /// `x-amzn-requestid`.
    pub(crate) request_id: String,
}

/// Lets a request through to its operation, or answers it.
pub(crate) async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let request_id = uuid::Uuid::new_v4().to_string();
    let id_header = HeaderValue::from_str(&request_id).ok();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match admit(&app, request, request_id).await {
        // The memory is given back when the operation is done with the body.
        Ok((request, _memory)) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    if let Some(id) = id_header {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}

async fn admit(
    app: &App,
    request: Request,
    request_id: String,
) -> Result<(Request, OwnedSemaphorePermit), ApiError> {
    let (mut head, body) = request.into_parts();
    let claim = app.authenticator.identify(&head, chrono::Utc::now())?;
    let (limit, operation) = body_limit(&head);
    let announced = body.size_hint().upper().and_then(|len| usize::try_from(len).ok());
    let reading = async {
        let memory = reserve(app, announced.unwrap_or(limit).min(limit)).await?;
        let (body, hash) = read(body, announced.unwrap_or(0), limit, operation).await?;
        Ok::<_, ApiError>((memory, body, hash))
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    let (memory, body, hash) = read.map_err(|_| ApiError::body_timeout())??;
    claim.verify(&hash)?;
    let caller = Caller { account_id: app.account_id.clone(), region: claim.region };
    head.extensions.insert(Admitted { caller, request_id });
    Ok((Request::from_parts(head, Body::from(body)), memory))
}

/// How long the body of a request may be, and what AWS calls its operation.
fn body_limit(head: &Parts) -> (usize, &'static str) {
    let path = head.uri.path().trim_end_matches('/');
    if path.ends_with("/invocations") {
        (MAX_EVENT_LEN, "InvokeFunction")
    } else if path.ends_with("/code") {
        (MAX_UPLOAD_LEN, "UpdateFunctionCode")
    } else if path.ends_with("/functions") && head.method == Method::POST {
        (MAX_UPLOAD_LEN, "CreateFunction")
    } else {
        (MAX_SMALL_LEN, "requested")
    }
}

/// Waits for the memory that a body may take.
async fn reserve(app: &App, len: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let kib = u32::try_from(len / 1024 + 1).unwrap_or(u32::MAX);
    // The semaphore is never closed; the longest body is far below the budget.
    Arc::clone(&app.body_budget).acquire_many_owned(kib).await.map_err(|_| ApiError::internal())
}

/// Reads a body to its end, hashing as it arrives.
async fn read(
    mut body: Body,
    announced: usize,
    limit: usize,
    operation: &str,
) -> Result<(Bytes, [u8; 32]), ApiError> {
    let mut bytes = BytesMut::with_capacity(announced.min(limit));
    let mut hash = Sha256::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ApiError::body_broken())?.into_data() else { continue };
        if discarded > 0 || bytes.len() + data.len() > limit {
            discarded += data.len();
            bytes = BytesMut::new();
            if discarded > MAX_DISCARDED_LEN {
                break;
            }
            continue;
        }
        hash.update(&data);
        bytes.extend_from_slice(&data);
    }
    if discarded > 0 {
        Err(ApiError::too_large(limit, operation))
    } else {
        Ok((bytes.freeze(), hash.finalize().into()))
    }
}
