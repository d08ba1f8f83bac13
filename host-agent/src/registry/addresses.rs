//! Where the helper may connect to. Hosts that the configuration names may be anywhere; any other, which a registry has named as the
//! place of a blob, has to be somewhere public, by HTTPS, and not this node.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
};

use reqwest::{
    Url,
    dns::{Name, Resolve, Resolving},
};

use super::Access;

/// Of URLs that name no port.
const HTTPS_PORT: u16 = 443;

/// Hosts with their ports, as a URL has them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    named: Vec<(String, u16)>,
}

impl Places {
    /// Those that a registry's configuration names.
    pub(super) fn of(access: &Access, endpoint: &Url) -> Self {
        let more = access.blob_hosts.iter().chain(&access.token_host);
        let more = more.filter_map(|host| Url::parse(&format!("https://{host}")).ok());
        let named = more.chain([endpoint.clone()]).filter_map(|url| host_and_port(&url));
        Self { named: named.collect() }
    }

    /// Whether a blob may be fetched from there, as far as its URL says.
    pub(super) fn allow(&self, url: &Url, endpoint: &Url) -> Result<(), &'static str> {
        if same_origin(url, endpoint) {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err("not by https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("with a name before its host");
        }
        let Some(place) = host_and_port(url) else { return Err("without a host") };
        if self.named.contains(&place) {
            return Ok(());
        }
        if place.1 != HTTPS_PORT {
            return Err("at a port that is not 443");
        }
        // A name is looked at when it is resolved; an address never is.
        let address = place.0.trim_matches(['[', ']']).parse();
        match address.is_ok_and(|address| !is_allowed(address)) {
            true => Err("at an address that is not public"),
            false => Ok(()),
        }
    }

    fn is_named(&self, host: &str) -> bool {
        self.named.iter().any(|(named, _)| named == host)
    }
}

fn host_and_port(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Scheme, host and port: what a credential is for.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme() && host_and_port(one) == host_and_port(other)
}

/// Resolves as everybody does, and leaves out addresses that a host may not have.
impl Resolve for Places {
    fn resolve(&self, name: Name) -> Resolving {
        // Nothing else goes on in this process meanwhile, and one thread is all that it has.
        let found = (name.as_str(), 0).to_socket_addrs().and_then(|found| {
            let named = self.is_named(name.as_str());
            let found: Vec<SocketAddr> = found.filter(|address| named || is_allowed(address.ip())).collect();
            match found.is_empty() {
                true => Err(io::Error::other("it has no address that is public")),
                false => Ok(found),
            }
        });
        Box::pin(std::future::ready(match found {
            Ok(found) => Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>),
            Err(error) => Err(error.into()),
        }))
    }
}

fn is_allowed(address: IpAddr) -> bool {
    is_public(address) && !is_own(address)
}

/// Whether a packet to it would stay on this node: it would have the address that it goes to.
fn is_own(address: IpAddr) -> bool {
    let from: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Nothing is sent. An address that there is no way to is nobody's.
    let source = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((address, HTTPS_PORT))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

/// Whether it is one of the internet's, by IANA's registries of special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) | (169, 254, _) => true,
        // Between carriers and their customers, where the guests' pool is, too; protocols' own; benchmarks.
        (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) => true,
        // Documentation, multicast and everything above.
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) | (224.., ..) => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let [a, b, c, ..] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b) {
        // By a translator, or a tunnel, to an address of the older kind.
        (0x64, 0xff9b) => {
            let [.., high, low] = address.segments();
            address.segments()[2..6] == [0; 4] && is_public_v4(v4(high, low))
        }
        (0x2002, _) => is_public_v4(v4(b, c)),
        // Teredo, benchmarks, documentation: parts of what is public otherwise.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Credential;

    #[test]
    fn what_is_not_public_is_told() {
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::127.0.0.1",
            "5f00::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "2600::1", "64:ff9b::101:101", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn this_nodes_own_addresses_are_told() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(is_own("127.3.2.1".parse::<IpAddr>().unwrap()) || !is_public("127.3.2.1".parse().unwrap()));
        assert!(!is_own("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_blob_is_at_a_place_that_was_named_or_is_public() {
        let endpoint: Url = "http://127.0.0.1:5000".parse().unwrap();
        let access = Access {
            endpoint: endpoint.to_string(),
            authorities: String::new(),
            credential: Credential::Nobody,
            token_host: Some("tokens.example.net".into()),
            blob_hosts: vec!["10.0.0.1:9443".into(), "[fd00::1]".into()],
        };
        let places = Places::of(&access, &endpoint);
        let allow = |url: &str| places.allow(&url.parse().unwrap(), &endpoint);
        for good in [
            "http://127.0.0.1:5000/v2/x",
            "https://blobs.example.net/x?signature=1",
            "https://10.0.0.1:9443/x",
            "https://[fd00::1]/x",
            "https://1.1.1.1/x",
        ] {
            assert_eq!(allow(good), Ok(()), "{good}");
        }
        for (wrong, why) in [
            ("http://127.0.0.1:5001/x", "https"),
            ("http://blobs.example.net/x", "https"),
            ("https://127.0.0.1/x", "public"),
            ("https://2130706433/x", "public"),
            ("https://0x7f.1/x", "public"),
            ("https://[::1]/x", "public"),
            ("https://[::ffff:169.254.169.254]/x", "public"),
            ("https://10.0.0.1/x", "public"),
            ("https://10.0.0.1:9444/x", "443"),
            ("https://blobs.example.net:8443/x", "443"),
            ("https://user@blobs.example.net/x", "name"),
            ("file:///etc/passwd", "https"),
        ] {
            assert!(allow(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }

    #[test]
    fn a_name_of_this_node_is_resolved_to_nothing_unless_it_was_named() {
        let endpoint: Url = "https://registry.example.net".parse().unwrap();
        let resolve = |named: &[&str]| {
            let named = named.iter().map(|name| ((*name).to_owned(), 443)).collect();
            let resolving = Places { named }.resolve("localhost".parse().unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(resolving).map(Iterator::count)
        };
        assert!(resolve(&["localhost"]).unwrap() > 0);
        let refused = resolve(&[endpoint.host_str().unwrap()]).unwrap_err();
        assert_eq!(refused.to_string(), "it has no address that is public");
    }
}
