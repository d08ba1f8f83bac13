//! The table `[function_urls]`: what the URLs of functions look like, and where they are served.

use std::net::{IpAddr, SocketAddr};

use axum::http::Uri;
use serde::Deserialize;

use super::{ConfigError, value};

/// What stands between a URL's own name and its region.
pub(crate) const LABEL: &str = "lambda-url";

/// Longest domain. A host's name has 253 characters, of which a URL's own name, [`LABEL`] and a region take 77.
const MAX_DOMAIN_LEN: usize = 176;

/// Where functions' URLs lead, checked.
#[derive(Clone, Debug)]
pub(crate) struct FunctionUrls {
    /// An address of their own, where nothing else is served.
    pub(crate) listen: Option<SocketAddr>,
    /// What they are made of.
    pub(crate) base: UrlBase,
}

/// Scheme, domain and port of all URLs: as clients see them, whatever stands before the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UrlBase {
    /// `http` or `https`.
    pub(crate) scheme: String,
    /// In lower case.
    pub(crate) domain: String,
    /// Which clients connect to.
    pub(crate) port: u16,
}

impl UrlBase {
    /// The host of a URL.
    pub(crate) fn host_of(&self, id: &str, region: &str) -> String {
        format!("{id}.{LABEL}.{region}.{}", self.domain)
    }

    /// A URL.
    pub(crate) fn url_of(&self, id: &str, region: &str) -> String {
        let host = self.host_of(id, region);
        match (self.scheme.as_str(), self.port) {
            (scheme, port) if port == usual_port(scheme) => format!("{scheme}://{host}/"),
            (scheme, port) => format!("{scheme}://{host}:{port}/"),
        }
    }
}

fn usual_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawFunctionUrls {
    listen: Option<SocketAddr>,
    base: Option<String>,
}

impl RawFunctionUrls {
    /// `api`: where they are served when they have no address of their own; `scheme`: how clients come there.
    pub(super) fn check(self, api: SocketAddr, scheme: &str) -> Result<FunctionUrls, ConfigError> {
        let Self { listen, base } = self;
        if listen.is_some_and(|own| own.port() == api.port() && own.port() != 0) {
            return Err(value("function_urls.listen", format!("{} is the API's port", api.port())));
        }
        let base = match base {
            Some(text) => parse_base(&text).ok_or_else(|| {
                let problem =
                    format!("`{text}` is not a base of URLs, such as https://functions.example.net");
                value("function_urls.base", problem)
            })?,
            // Whoever runs on this machine reaches it by that: all of `localhost` is loopback (RFC 6761 §6.3).
            None => UrlBase {
                scheme: scheme.into(),
                domain: "localhost".into(),
                port: listen.unwrap_or(api).port(),
            },
        };
        Ok(FunctionUrls { listen, base })
    }
}

fn parse_base(text: &str) -> Option<UrlBase> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?.to_owned();
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let domain = authority.host().to_ascii_lowercase();
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(inner)
    };
    if domain.len() > MAX_DOMAIN_LEN || !domain.split('.').all(is_label) || domain.parse::<IpAddr>().is_ok() {
        return None;
    }
    let port = authority.port_u16().unwrap_or(usual_port(&scheme));
    let nothing_else = uri.path() == "/" && uri.query().is_none();
    nothing_else.then_some(UrlBase { scheme, domain, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<FunctionUrls, String> {
        let raw: RawFunctionUrls = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check("127.0.0.1:9000".parse().unwrap(), "http").map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_below_their_base() {
        let id = "a".repeat(32);
        for (text, url) in [
            ("", format!("http://{id}.lambda-url.eu-west-1.localhost:9000/")),
            ("listen = '0.0.0.0:9080'", format!("http://{id}.lambda-url.eu-west-1.localhost:9080/")),
            ("base = 'https://Fn.example.net'", format!("https://{id}.lambda-url.eu-west-1.fn.example.net/")),
            (
                "base = 'https://fn.example.net:8443/'",
                format!("https://{id}.lambda-url.eu-west-1.fn.example.net:8443/"),
            ),
            ("base = 'http://fn:80'", format!("http://{id}.lambda-url.eu-west-1.fn/")),
        ] {
            assert_eq!(check(text).unwrap().base.url_of(&id, "eu-west-1"), url, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            ("base = 'fn.example.net'", "function_urls.base"),
            ("base = 'ftp://fn.example.net'", "function_urls.base"),
            ("base = 'https://fn.example.net/x'", "function_urls.base"),
            ("base = 'https://fn.example.net/?x'", "function_urls.base"),
            ("base = 'https://me@fn.example.net'", "function_urls.base"),
            ("base = 'https://10.0.0.1'", "function_urls.base"),
            ("base = 'https://[::1]'", "function_urls.base"),
            ("base = 'https://a..b'", "function_urls.base"),
            ("listen = '0.0.0.0:9000'", "function_urls.listen"),
            ("listen = 'x'", "listen"),
            ("domain = 'x'", "domain"),
        ] {
            let problem = check(text).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
