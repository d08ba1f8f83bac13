//! A request as operations read it: one extractor whose failures are AWS's errors.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts as _, Path, Query, Request},
    http::HeaderMap,
};

use super::{
    ApiError,
    constraints::Constraints,
    gate::Admitted,
    names::{self, Caller, Target},
};

/// A request, taken apart.
pub(crate) struct Call {
    /// Who asks.
    pub(crate) caller: Caller,
    /// `x-amzn-requestid`.
    pub(crate) request_id: String,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Body, already bounded and verified; it has its memory of the budget as long as anybody has it.
    pub(crate) body: Bytes,
    path: HashMap<String, String>,
    query: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut head, body) = request.into_parts();
        let admitted = head.extensions.get::<Admitted>().cloned().ok_or_else(ApiError::internal)?;
        let Path(path) = Path::from_request_parts(&mut head, state)
            .await
            .map_err(|_| ApiError::invalid_content("The request's path is not valid."))?;
        let Query(query) = Query::from_request_parts(&mut head, state)
            .await
            .map_err(|_| ApiError::invalid_content("The request's query is not valid."))?;
        let headers = std::mem::take(&mut head.headers);
        let body = Bytes::from_request(Request::from_parts(head, body), state)
            .await
            .map_err(|_| ApiError::body_broken())?;
        let Admitted { caller, request_id } = admitted;
        Ok(Self { caller, request_id, headers, body, path, query })
    }
}

impl Call {
    /// A parameter of the query; the last one of that name.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().rfind(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query that is a list: each item has the name.
    pub(crate) fn queries(&self, name: &str) -> Vec<String> {
        let named = self.query.iter().filter(|(given, _)| given == name);
        named.map(|(_, value)| value.clone()).collect()
    }

    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A segment of the path.
    pub(crate) fn path(&self, name: &str) -> &str {
        self.path.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The function that the path names, where no version can be meant.
    ///
    /// # Errors
    /// As [`names::resolve_function`].
    pub(crate) fn function(&self, action: &str) -> Result<Target, ApiError> {
        names::resolve_function(&self.caller, action, self.path("FunctionName"))
    }

    /// The function that the path and the `Qualifier` name.
    ///
    /// # Errors
    /// As [`names::resolve`].
    pub(crate) fn target(&self, action: &str) -> Result<Target, ApiError> {
        names::resolve(&self.caller, action, self.path("FunctionName"), self.query("Qualifier"))
    }

    /// The version or the alias of a function that the path and the `Qualifier` name, which is required; `constraints` are what the rest of the
    /// request violates.
    ///
    /// # Errors
    /// As [`names::resolve_provisioned`].
    pub(crate) fn target_to_provision(
        &self,
        action: &str,
        constraints: Constraints,
    ) -> Result<Target, ApiError> {
        let name = self.path("FunctionName");
        names::resolve_provisioned(&self.caller, action, name, self.query("Qualifier"), constraints)
    }

    /// The function, or the alias of it, whose URL the path and the `Qualifier` name.
    ///
    /// # Errors
    /// As [`names::resolve_with_url`].
    pub(crate) fn target_with_url(&self, action: &str) -> Result<Target, ApiError> {
        names::resolve_with_url(&self.caller, action, self.path("FunctionName"), self.query("Qualifier"))
    }
}
