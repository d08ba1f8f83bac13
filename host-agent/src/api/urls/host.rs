//! Whose a request is, by the host that it names. Pure.
//!
//! A request may name its host in more than one place (RFC 9112 §3.2.2), and a proxy before the node may have gone by another
//! one than the node does. So wherever a URL is named, all of them must be the same.

use axum::http::{HeaderMap, Uri, header::HOST};

use crate::{
    config::{LABEL, UrlBase, is_region},
    functions::urls::is_url_id,
};

/// Whom a host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The node itself, by whatever name.
    Node,
    /// What could be a URL.
    Url(UrlHost),
    /// Something that is below the domain of URLs, and none of them.
    Nobody,
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlHost {
    /// The URL's own name.
    pub(super) id: String,
    /// Of the function.
    pub(super) region: String,
}

/// Whom a request names.
pub(super) fn named(uri: &Uri, headers: &HeaderMap, base: &UrlBase) -> Named {
    let lines =
        headers.get_all(HOST).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let hosts = lines.chain(uri.authority().map(ToString::to_string));
    let mut all = hosts.map(|host| of(&host, base));
    let first = all.next().unwrap_or(Named::Node);
    if all.all(|other| other == first) { first } else { Named::Nobody }
}

/// Whom one host names: letter case, a port and a last dot make no difference.
fn of(host: &str, base: &UrlBase) -> Named {
    let host = host.trim().to_ascii_lowercase();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(below) = name.strip_suffix(&base.domain).and_then(|name| name.strip_suffix('.')) else {
        return Named::Node;
    };
    let labels: Vec<_> = below.split('.').collect();
    match labels[..] {
        [id, LABEL, region] if is_url_id(id) && is_region(region) => {
            Named::Url(UrlHost { id: id.into(), region: region.into() })
        }
        _ if labels.contains(&LABEL) => Named::Nobody,
        _ => Named::Node,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "abcdefghijklmnopqrstuvwxyz234567";

    fn base() -> UrlBase {
        UrlBase { scheme: "https".into(), domain: "fn.example.net".into(), port: 443 }
    }

    fn check(uri: &str, hosts: &[&str]) -> Named {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let head = request.body(()).unwrap().into_parts().0;
        named(&head.uri, &head.headers, &base())
    }

    #[test]
    fn a_url_is_known_by_its_host() {
        let url = Named::Url(UrlHost { id: ID.into(), region: "eu-west-1".into() });
        let host = format!("{ID}.lambda-url.eu-west-1.fn.example.net");
        for spelt in [
            host.clone(),
            format!("{host}:9000"),
            format!("{host}."),
            format!("{host}.:80"),
            host.to_uppercase(),
        ] {
            assert_eq!(check("/", &[&spelt]), url, "{spelt}");
        }
        assert_eq!(check(&format!("http://{host}/x"), &[]), url);
        assert_eq!(check(&format!("http://{host}/x"), &[&host]), url);
    }

    #[test]
    fn everything_else_is_the_nodes() {
        for host in
            ["", "127.0.0.1:9000", "[::1]:9000", "fn.example.net", "node.fn.example.net", "xfn.example.net"]
        {
            assert_eq!(check("/", &[host]), Named::Node, "{host}");
        }
        assert_eq!(check("/", &[]), Named::Node);
    }

    #[test]
    fn hosts_that_disagree_or_are_almost_urls_are_nobodys() {
        let host = format!("{ID}.lambda-url.eu-west-1.fn.example.net");
        for wrong in [
            "lambda-url.fn.example.net".to_owned(),
            "x.lambda-url.eu-west-1.fn.example.net".into(),
            format!("x.{host}"),
            format!("me@{host}"),
            format!("{ID}.lambda-url.EU_WEST.fn.example.net"),
            format!("{ID}.lambda-url..fn.example.net"),
        ] {
            assert_eq!(check("/", &[&wrong]), Named::Nobody, "{wrong}");
        }
        assert_eq!(check("/", &[&host, "node"]), Named::Nobody);
        assert_eq!(check("/", &["node", &host]), Named::Nobody);
        assert_eq!(check("http://node/", &[&host]), Named::Nobody);
        assert_eq!(check(&format!("http://{host}/"), &["node"]), Named::Nobody);
    }

    proptest! {
        #[test]
        fn whatever_names_a_url_is_never_the_nodes(
            before in "[ -~]{0,20}", region in "[a-z0-9-]{1,12}", port in proptest::option::of(any::<u16>()),
        ) {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let host = format!("{before}.lambda-url.{region}.fn.example.net{port}");
            prop_assert_ne!(of(&host, &base()), Named::Node);
        }
    }
}
