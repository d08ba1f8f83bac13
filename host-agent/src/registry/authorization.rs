//! How a registry wants to know who asks: what its challenge says, and the token that its service gives for it (the distribution project's
//! token authentication specification, RFC 6750, RFC 7617).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_auth::parser::ChallengeParser;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{Access, Credential, Refusal, shown};

/// Most challenges that are looked at in one answer.
const MAX_CHALLENGES: usize = 8;

/// Longest answer of a token service. Tokens have some kilobytes.
pub(super) const MAX_TOKEN_ANSWER_LEN: u64 = 64 * 1024;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token of a service.
    Bearer {
        /// Where it is.
        realm: String,
        /// What it knows the registry by.
        service: Option<String>,
    },
}

/// The challenge of an answer: for a token if there is one.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let all = values.flat_map(ChallengeParser::new).take(MAX_CHALLENGES).map_while(Result::ok);
    let mut basic = None;
    for challenge in all {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm")?;
            return Some(Challenge::Bearer { realm, service: parameter("service") });
        }
    }
    basic
}

/// The token service of a challenge, with what it is asked.
///
/// # Errors
/// [`Refusal::Denied`] when it is at a host that the configuration does not name: it would be told the password.
pub(super) fn token_url(
    access: &Access,
    endpoint: &Url,
    repository: &str,
    (realm, service): (&str, Option<&str>),
) -> Result<Url, Refusal> {
    let denied =
        || Refusal::Denied(format!("it wants a token of {}, which `token_host` does not name", shown(realm)));
    let mut url = Url::parse(realm).map_err(|_| denied())?;
    let of_its_own = super::addresses::same_origin(&url, endpoint);
    let named = access.token_host.as_ref().and_then(|host| Url::parse(&format!("https://{host}")).ok());
    if !of_its_own && !named.is_some_and(|named| super::addresses::same_origin(&url, &named)) {
        return Err(denied());
    }
    // Who asks is said in a header, and of what here: not what else the challenge wants.
    url.set_fragment(None);
    if url.set_username("").and(url.set_password(None)).is_err() {
        return Err(denied());
    }
    let mut query = url.query_pairs_mut();
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &format!("repository:{repository}:pull"));
    drop(query);
    Ok(url)
}

/// The header's value of a name and a password, if that is what there is.
pub(super) fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { user, password } = credential else { return None };
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// The header's value of a token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The token that a service has given.
pub(super) fn token(answer: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Answer { token, access_token } = serde_json::from_slice(answer).ok()?;
    bearer(&token.or(access_token).filter(|token| !token.is_empty())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn challenged(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    fn access(token_host: Option<&str>) -> Access {
        Access {
            endpoint: String::new(),
            authorities: String::new(),
            credential: Credential::Nobody,
            token_host: token_host.map(String::from),
            blob_hosts: Vec::new(),
        }
    }

    #[test]
    fn a_challenge_is_read_as_registries_write_it() {
        let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull""#;
        let realm = "https://auth.example/token".to_owned();
        let bearer = |service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.clone(), service: service.map(String::from) })
        };
        assert_eq!(challenged(&[hub]), bearer(Some("registry.example")));
        assert_eq!(challenged(&["Basic realm=\"x\"", hub]), bearer(Some("registry.example")));
        assert_eq!(challenged(&["bearer Realm=\"https://auth.example/token\""]), bearer(None));
        assert_eq!(challenged(&["Basic realm=\"https://x/\",service=\"ecr\""]), Some(Challenge::Basic));
        for other in ["Digest realm=\"x\"", "Bearer", "Bearer service=\"x\"", "", "\"", "Negotiate abc=="] {
            assert_eq!(challenged(&[other]), None, "{other}");
        }
    }

    #[test]
    fn only_a_service_that_is_named_is_asked() {
        let endpoint: Url = "https://registry.example".parse().unwrap();
        let asked = |host: Option<&str>, realm: &str| {
            token_url(&access(host), &endpoint, "team/app", (realm, Some("s&t"))).map(String::from)
        };
        assert_eq!(
            asked(None, "https://registry.example/token?account=x").unwrap(),
            "https://registry.example/token?account=x&service=s%26t&scope=repository%3Ateam%2Fapp%3Apull"
        );
        assert!(asked(Some("auth.example"), "https://auth.example/token").is_ok());
        assert!(asked(Some("auth.example:8443"), "https://auth.example:8443/token").is_ok());
        for (host, realm) in [
            (None, "https://auth.example/token"),
            (None, "http://registry.example/token"),
            (None, "https://registry.example:5000/token"),
            (None, "https://registry.example@evil.example/token"),
            (Some("auth.example"), "http://auth.example/token"),
            (Some("auth.example"), "https://auth.example:444/token"),
            (Some("auth.example"), "https://auth.example.evil.example/token"),
            (Some("auth.example"), "token"),
        ] {
            assert!(matches!(asked(host, realm), Err(Refusal::Denied(_))), "{realm}");
        }
    }

    #[test]
    fn a_token_is_one_of_two_members() {
        let said = |answer: &str| token(answer.as_bytes()).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(said(r#"{"token": "a", "access_token": "b", "expires_in": 60}"#).unwrap(), "Bearer a");
        assert_eq!(said(r#"{"access_token": "b"}"#).unwrap(), "Bearer b");
        for none in ["", "{}", r#"{"token": ""}"#, r#"{"token": 1}"#, "{\"token\": \"a\\nb\"}"] {
            assert_eq!(said(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_says_breaks_it(header in "[ -~]{0,200}", realm in "\\PC{0,60}", answer: Vec<u8>) {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(&header).unwrap());
            let _ = challenge(&headers);
            let endpoint: Url = "https://registry.example".parse().unwrap();
            if let Ok(url) = token_url(&access(None), &endpoint, "a", (&realm, None)) {
                prop_assert_eq!(url.host_str(), Some("registry.example"));
            }
            let _ = token(&answer);
        }
    }
}
