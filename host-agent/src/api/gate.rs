//! What every request passes before its operation and after it: a request id, identification, the body within its
//! bounds, the signature, authorization, and AWS's headers on the answer.
//!
//! Bounds: a body is as long as its operation takes and no longer, all bodies together take [`BODY_BUDGET_KIB`], of which each
//! has what it has sent, about, and not what it announces; and a body that does not arrive is given up. A body that is too
//! long is read on and thrown away for a while, because a client that is still sending does not read the answer. A connection
//! whose request is not through here gives way to newer ones.
//!
//! What is through and may change something is carried out whether or not its client waits for the answer: no operation ends
//! between what it has written and what follows from that.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, App, authorize, names::Caller};
use crate::{
    auth::{Payload, PayloadRead, Service},
    code::uploads::MAX_PART_LEN,
    server::Standing,
};

/// Longest event: Lambda's 6 MB.
pub(crate) const MAX_EVENT_LEN: usize = guest_protocol::MAX_BODY_LEN;

/// Longest event of an asynchronous invocation: Lambda's 1 MB.
pub(crate) const MAX_ASYNC_EVENT_LEN: usize = 1024 * 1024;

/// Longest body with code in it: 50 MB as base64, as AWS bounds it.
const MAX_UPLOAD_LEN: usize = 69_905_067;

/// Longest other body. The longest that AWS takes is an environment of 4 KB and its company.
const MAX_SMALL_LEN: usize = 1024 * 1024;

/// KiB of memory that all bodies take together; who comes later waits. Seven uploads, or eighty of the longest events.
pub(crate) const BODY_BUDGET_KIB: usize = 512 * 1024;

/// KiB of memory that all bodies of functions' URLs take together: apart, because URLs are open to strangers, who shall not have what
/// it takes to upload. Forty of the longest events.
pub(crate) const URL_BUDGET_KIB: usize = 256 * 1024;

/// What a body has of that before any of it has come: an eighth of all, should every connection of the server announce one
/// and send nothing. Most events are no longer.
const FIRST_MEMORY_LEN: usize = 16 * 1024;

/// By how much a body's memory grows when that is full: who is to have some has sent a fourth of it.
const MEMORY_GROWTH: usize = 4;

/// Longest wait for memory. When all of it is with bodies that want more, this ends it.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a body may be over its limit and still be read to its end, in bytes.
const MAX_DISCARDED_LEN: usize = 64 * 1024 * 1024;

/// Longest time for a body to arrive, waiting for memory included: this, and what [`MIN_BODY_RATE`] makes of its length.
const BODY_GRACE: Duration = Duration::from_secs(30);

/// Bytes a second of a body that are not too slow, 2 Mbit/s: five minutes for the longest upload.
const MIN_BODY_RATE: usize = 256 * 1024;

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
pub(crate) async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    // None without a server in front.
    let standing = request.extensions_mut().remove::<Standing>();
    let request_id = uuid::Uuid::new_v4().to_string();
    let id_header = HeaderValue::from_str(&request_id).ok();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let service = Service::of(&method, request.uri(), request.headers());
    let mut response = match admit(&app, request, request_id).await {
        Ok(request) => {
            if let Some(standing) = standing {
                standing.admit().await;
            }
            if method.is_safe() { next.run(request).await } else { to_its_end(request, next).await }
        }
        Err(error) => match service {
            Service::Lambda => error.into_response(),
            Service::Logs => error.into_json_1_1(),
        },
    };
    if let Some(id) = id_header {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}

/// Has an operation carried out by a task of its own, for the server drops what it does for a client that goes away.
async fn to_its_end(request: Request, next: Next) -> Response {
    tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
        tracing::error!("an operation's task: {error}");
        ApiError::internal().into_response()
    })
}

async fn admit(app: &App, request: Request, request_id: String) -> Result<Request, ApiError> {
    let (mut head, body) = request.into_parts();
    let claim = app.authenticator.identify(&head, chrono::Utc::now())?;
    let (limit, operation) = body_limit(&head);
    let payload = claim.payload(&head.headers)?;
    let Arrived { body, read, memory } = receive(&app.body_budget, body, payload, (limit, operation)).await?;
    claim.verify(&read)?;
    let principal = claim.principal();
    let caller = Caller { account_id: app.account_id.clone(), region: claim.region };
    authorize::authorize(app, &principal, &caller, (&mut head, &body)).await?;
    head.extensions.insert(Admitted { caller, request_id });
    Ok(Request::from_parts(head, Body::from(memory.keep(body))))
}

/// A body that has come whole.
pub(super) struct Arrived {
    /// It.
    pub(super) body: Bytes,
    /// What its signature is verified by.
    pub(super) read: PayloadRead,
    /// What it has of the budget, until this is dropped.
    pub(super) memory: Memory,
}

/// Waits for a body of at most `limit` bytes, within the bounds of this file and of a budget.
///
/// # Errors
/// One that is too long, too slow, broken, or has no memory.
pub(super) async fn receive(
    budget: &Arc<Semaphore>,
    body: Body,
    payload: Payload,
    (limit, operation): (usize, &str),
) -> Result<Arrived, ApiError> {
    let announced = body.size_hint().upper().and_then(|len| usize::try_from(len).ok());
    let room = announced.unwrap_or(limit).min(limit);
    let reading = async {
        let mut memory = Memory::reserve(budget, room).await?;
        let (body, read) = read(body, payload, &mut memory, (limit, operation)).await?;
        Ok(Arrived { body, read, memory })
    };
    tokio::time::timeout(patience(room), reading).await.map_err(|_| ApiError::body_timeout())?
}

/// How long a body of this length may take to arrive.
fn patience(len: usize) -> Duration {
    BODY_GRACE + Duration::from_secs((len / MIN_BODY_RATE) as u64)
}

/// How long the body of a request may be, and what AWS calls its operation.
fn body_limit(head: &Parts) -> (usize, &'static str) {
    let path = head.uri.path().trim_end_matches('/');
    if path.ends_with("/invocations") {
        (MAX_EVENT_LEN, "InvokeFunction")
    } else if path.ends_with("/invoke-async") {
        (MAX_ASYNC_EVENT_LEN, "InvokeAsync")
    } else if path.ends_with("/response-streaming-invocations") {
        (MAX_EVENT_LEN, "InvokeWithResponseStream")
    } else if path.ends_with("/code") {
        (MAX_UPLOAD_LEN, "UpdateFunctionCode")
    } else if path.ends_with("/functions") && head.method == Method::POST {
        (MAX_UPLOAD_LEN, "CreateFunction")
    } else if path.starts_with("/2018-10-31/layers/") && path.ends_with("/versions") {
        (MAX_UPLOAD_LEN, "PublishLayerVersion")
    } else if path.starts_with("/tinderbox/images/uploads/") && head.method == Method::PUT {
        (MAX_PART_LEN, "PutImagesUploads")
    } else {
        (MAX_SMALL_LEN, "requested")
    }
}

/// What a body has of the budget.
#[derive(Debug)]
pub(super) struct Memory {
    budget: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    /// Bytes that it may take now, and at most.
    len: usize,
    max: usize,
}

impl Memory {
    /// The first of it, for a body of at most `max` bytes.
    pub(super) async fn reserve(budget: &Arc<Semaphore>, max: usize) -> Result<Self, ApiError> {
        let len = max.min(FIRST_MEMORY_LEN);
        let permit = acquire(budget, kib(len)).await?;
        Ok(Self { budget: Arc::clone(budget), permit, len, max })
    }

    /// The body, or what was made of it, which has this memory as long as anybody has it.
    pub(super) fn keep(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _memory: self })
    }

    /// Adds to what has this memory, once there is room.
    pub(super) async fn extend(&mut self, bytes: &mut BytesMut, data: &[u8]) -> Result<(), ApiError> {
        if bytes.capacity() - bytes.len() < data.len() {
            self.grow(bytes.len() + data.len()).await?;
            bytes.reserve(self.len - bytes.len());
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    /// Until there is room for `len` bytes.
    pub(super) async fn grow(&mut self, len: usize) -> Result<(), ApiError> {
        if len > self.len {
            let grown = len.max(self.len * MEMORY_GROWTH).min(self.max.max(len));
            let more = acquire(&self.budget, kib(grown) - kib(self.len)).await?;
            self.permit.merge(more);
            self.len = grown;
        }
        Ok(())
    }
}

/// Bytes, and what they have of the budget: one goes with the other.
struct Kept {
    bytes: Bytes,
    _memory: Memory,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn kib(len: usize) -> u32 {
    u32::try_from(len / 1024 + 1).unwrap_or(u32::MAX)
}

async fn acquire(budget: &Arc<Semaphore>, kib: u32) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(MEMORY_TIMEOUT, Arc::clone(budget).acquire_many_owned(kib)).await {
        // The semaphore is never closed; the longest body is far below the budget.
        Ok(permit) => permit.map_err(|_| ApiError::internal()),
        Err(_) => Err(ApiError::no_memory()),
    }
}

/// Reads a body to its end, and what its signature is over as it arrives.
async fn read(
    mut body: Body,
    mut payload: Payload,
    memory: &mut Memory,
    (limit, operation): (usize, &str),
) -> Result<(Bytes, PayloadRead), ApiError> {
    let mut bytes = BytesMut::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ApiError::body_broken())?.into_data() else { continue };
        if discarded > 0 || !keep(&data, &mut payload, &mut bytes, memory, limit).await? {
            discarded += data.len();
            bytes = BytesMut::new();
            if discarded > MAX_DISCARDED_LEN {
                break;
            }
        }
    }
    if discarded > 0 {
        Err(ApiError::too_large(limit, operation))
    } else {
        Ok((bytes.freeze(), payload.finish()?))
    }
}

/// Adds what has arrived of a body to it; false: it is too long.
async fn keep(
    arrived: &[u8],
    payload: &mut Payload,
    bytes: &mut BytesMut,
    memory: &mut Memory,
    limit: usize,
) -> Result<bool, ApiError> {
    let mut rest = arrived;
    while let Some(data) = payload.next(&mut rest)? {
        if bytes.len() + data.len() > limit {
            return Ok(false);
        }
        memory.extend(bytes, data).await?;
    }
    Ok(true)
}
