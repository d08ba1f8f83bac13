//! How extensions subscribe: the Telemetry API and the Logs API before it, on the Runtime API's address.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::extensions::{self, ExtensionCall, Unanswered};
use super::{Call, reply};
use crate::extensions::Refusal;
use crate::telemetry::{Api, Closed, Subscription};

/// Why a subscription is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// By whom.
    #[error(transparent)]
    Extension(#[from] Refusal),
    /// When, or besides what.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Which interface a path names.
pub(super) fn parse(method: &Method, path: &str) -> Option<Api> {
    let api = match path.strip_suffix('/').unwrap_or(path) {
        "/2022-07-01/telemetry" => Api::Telemetry,
        "/2020-08-15/logs" => Api::Logs,
        _ => return None,
    };
    (*method == Method::PUT).then_some(api)
}

/// Answers one call.
pub(super) async fn route(
    calls: &mpsc::Sender<Call>,
    api: Api,
    headers: &HeaderMap,
    body: Incoming,
) -> Response<Full<Bytes>> {
    let id = match extensions::identifier(headers) {
        Ok(id) => id,
        Err(unanswered) => return extensions::unanswered(&unanswered),
    };
    let document = extensions::read(body).await.unwrap_or_default();
    let subscription = match Subscription::parse(api, &document) {
        Ok(subscription) => subscription,
        Err(invalid) => {
            return reply::error(StatusCode::BAD_REQUEST, "ValidationError", &invalid.to_string());
        }
    };
    let (reply, decision) = oneshot::channel();
    let call = Call::Extension(ExtensionCall::Subscribe(id, subscription, reply));
    if calls.send(call).await.is_err() {
        return extensions::unanswered(&Unanswered::Closed);
    }
    match decision.await {
        Ok(Ok(())) => reply::document(r#""OK""#.to_owned()),
        Ok(Err(NotTaken::Extension(refusal))) => extensions::unanswered(&refusal.into()),
        Ok(Err(NotTaken::Closed(closed))) => {
            let name = match api {
                Api::Telemetry => "Telemetry",
                Api::Logs => "Logs",
            };
            let message = format!("{name} API {closed}");
            reply::error(StatusCode::FORBIDDEN, &format!("{name}.SubscriptionClosed"), &message)
        }
        Err(_) => extensions::unanswered(&Unanswered::Closed),
    }
}
