//! What browsers are told of a URL that pages of other origins may use: the URL's configuration and nothing of the function's.
//! Pure.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{
            ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
        request::Parts,
    },
    response::Response,
};

use crate::functions::urls::Cors;

/// What a function may say of these is not said: two answers would be none to a browser.
const OURS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The answer to a browser that asks before it sends; `None` for any other request. The function does not see it.
pub(super) fn preflight(head: &Parts, cors: &Cors) -> Option<Response> {
    let asks = head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if allow(headers, head.headers.get(ORIGIN), cors) {
        insert_list(headers, ACCESS_CONTROL_ALLOW_METHODS, cors.allow_methods.as_deref());
        insert_list(headers, ACCESS_CONTROL_ALLOW_HEADERS, cors.allow_headers.as_deref());
        if let Some(age) = cors.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, age.into());
        }
    }
    Some(response)
}

/// Tells a browser what its page may read of an answer.
pub(super) fn tell(headers: &mut HeaderMap, origin: Option<&HeaderValue>, cors: &Cors) {
    for name in &OURS {
        headers.remove(name);
    }
    if allow(headers, origin, cors) {
        insert_list(headers, ACCESS_CONTROL_EXPOSE_HEADERS, cors.expose_headers.as_deref());
    }
}

/// Whether the origin may read anything; says so. `*` is said as it is, so that it never goes with credentials: browsers refuse that.
fn allow(headers: &mut HeaderMap, origin: Option<&HeaderValue>, cors: &Cors) -> bool {
    let origins = cors.allow_origins.as_deref().unwrap_or_default();
    let everybody = origins.iter().any(|allowed| allowed == "*");
    if !everybody && !origins.is_empty() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = origin else { return false };
    let allowed = if everybody {
        HeaderValue::from_static("*")
    } else if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
        origin.clone()
    } else {
        return false;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.allow_credentials == Some(true) {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

fn insert_list(headers: &mut HeaderMap, name: HeaderName, items: Option<&[String]>) {
    let list = items.unwrap_or_default().join(",");
    // Checked when it was configured.
    if let Some(value) = HeaderValue::from_str(&list).ok().filter(|value| !value.is_empty()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
        Cors {
            allow_credentials: Some(true),
            allow_headers: list(&["x-a", "x-b"]),
            allow_methods: list(&["GET", "PUT"]),
            allow_origins: list(origins),
            expose_headers: list(&["x-c"]),
            max_age: Some(60),
        }
    }

    fn asked(origin: &str) -> Parts {
        let request = Request::builder().method("OPTIONS").header("origin", origin);
        request.header("access-control-request-method", "PUT").body(()).unwrap().into_parts().0
    }

    fn check(response: &Response) -> Vec<String> {
        let headers = response.headers().iter();
        headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_preflight_is_answered_as_configured() {
        let answered = preflight(&asked("https://a.example"), &cors(&["https://a.example"])).unwrap();
        assert_eq!(
            check(&answered),
            [
                "vary: origin",
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET,PUT",
                "access-control-allow-headers: x-a,x-b",
                "access-control-max-age: 60",
            ]
        );
        let other = preflight(&asked("https://b.example"), &cors(&["https://a.example"])).unwrap();
        assert_eq!(check(&other), ["vary: origin"]);
        let mut plain = asked("https://a.example");
        plain.method = Method::GET;
        assert!(preflight(&plain, &cors(&["*"])).is_none());
    }

    #[test]
    fn everybody_is_said_as_it_is() {
        let answered = preflight(&asked("https://a.example"), &cors(&["*"])).unwrap();
        assert_eq!(check(&answered)[0], "access-control-allow-origin: *");
    }

    #[test]
    fn the_functions_word_does_not_count() {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        for name in &OURS {
            headers.append(name, HeaderValue::from_static("x"));
        }
        let origin = HeaderValue::from_static("https://a.example");
        tell(headers, Some(&origin), &cors(&["https://a.example"]));
        assert_eq!(
            check(&response),
            [
                "vary: origin",
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-c",
            ]
        );
        tell(response.headers_mut(), None, &cors(&["*"]));
        assert_eq!(check(&response), ["vary: origin"]);
    }
}
