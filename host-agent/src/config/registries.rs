//! The tables `[[registries]]`: where container images come from that no one pushes. Clients name images; which hosts those lead to, and
//! by which credentials, this alone says.

use std::{collections::BTreeSet, path::PathBuf};

use axum::http::{Uri, uri::Scheme};
use serde::Deserialize;

use super::{ConfigError, chunks::system_authorities, is_loopback, value};
use crate::identity::Secret;

/// Most of them.
const MAX_REGISTRIES: usize = 16;

/// Most hosts that one of them has its blobs at.
const MAX_BLOB_HOSTS: usize = 16;

/// Longest host with its port: what names have room for.
const MAX_HOST_LEN: usize = 259;

/// A registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// What the names of its images begin with: `HOST[:PORT]`.
    pub(crate) host: String,
    /// Where it is: `https://HOST[:PORT]`, or `http://` where that was said on purpose.
    pub(crate) endpoint: String,
    /// Who may have signed the certificates of all servers that images come from, in PEM.
    pub(crate) ca: PathBuf,
    pub(crate) credential: RegistryCredential,
    /// `HOST[:PORT]` of its token service, if that is not the registry's own.
    pub(crate) token_host: Option<String>,
    /// `HOST[:PORT]` of where its blobs may be, beside any public host.
    pub(crate) blob_hosts: Vec<String>,
}

/// Who asks a registry.
#[derive(Clone, Debug)]
pub(crate) enum RegistryCredential {
    Nobody,
    Password { user: String, password: RegistrySecret },
    Token(RegistrySecret),
}

/// What only the registry is to know.
#[derive(Clone, Debug)]
pub(crate) enum RegistrySecret {
    Said(Secret<String>),
    /// A file with it, which is read for each pull: somebody may renew it.
    File(PathBuf),
}

impl Registry {
    /// The file that its secret is read from, if it is.
    pub(crate) fn secret_file(&self) -> Option<&PathBuf> {
        match &self.credential {
            RegistryCredential::Password { password: RegistrySecret::File(path), .. }
            | RegistryCredential::Token(RegistrySecret::File(path)) => Some(path),
            _ => None,
        }
    }

    /// Ports of all that it names.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        let named = self.blob_hosts.iter().chain(&self.token_host).map(|host| format!("https://{host}"));
        // Checked.
        let urls = named.chain([self.endpoint.clone()]).filter_map(|url| url.parse().ok());
        urls.map(|url| super::port_of(&url)).collect::<Vec<_>>().into_iter()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegistry {
    host: String,
    endpoint: Option<String>,
    #[serde(default)]
    allow_http: bool,
    #[serde(default = "system_authorities")]
    ca: PathBuf,
    user: Option<String>,
    password: Option<Secret<String>>,
    password_file: Option<PathBuf>,
    token: Option<Secret<String>>,
    token_file: Option<PathBuf>,
    token_host: Option<String>,
    #[serde(default)]
    blob_hosts: Vec<String>,
}

/// All that a configuration names.
pub(super) fn check(all: Vec<RawRegistry>) -> Result<Vec<Registry>, ConfigError> {
    if all.len() > MAX_REGISTRIES {
        let problem = format!("{} registries, {MAX_REGISTRIES} are the most", all.len());
        return Err(value("registries", problem));
    }
    let all = all.into_iter().map(RawRegistry::check).collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    match all.iter().find(|one| !seen.insert(&one.host)) {
        Some(twice) => Err(value("registries.host", format!("`{}` is there twice", twice.host))),
        None => Ok(all),
    }
}

impl RawRegistry {
    fn check(self) -> Result<Registry, ConfigError> {
        let host = is_host("registries.host", self.host)?;
        let endpoint = self.endpoint.unwrap_or_else(|| format!("https://{host}"));
        let wrong = |problem: &str| value("registries.endpoint", format!("`{endpoint}` {problem}"));
        let url: Uri = endpoint.parse().map_err(|_| wrong("is no URL"))?;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        is_host("registries.endpoint", authority.to_owned())?;
        let plain = url.scheme() == Some(&Scheme::HTTP);
        if url.scheme() != Some(&Scheme::HTTPS) && !plain {
            return Err(wrong("does not begin with https://"));
        }
        if url.path() != "/" || url.query().is_some() || endpoint.ends_with('/') {
            return Err(wrong("has something behind its host and port"));
        }
        if plain && !self.allow_http {
            return Err(wrong("is not encrypted; `allow_http = true` says that it need not be"));
        }
        let said = |said: Option<Secret<String>>, file: Option<PathBuf>, field| match (said, file) {
            (Some(_), Some(_)) => Err(value(field, "is there itself and as a file".to_owned())),
            (Some(secret), None) if secret.expose().trim().is_empty() => {
                Err(value(field, "is empty".to_owned()))
            }
            (Some(secret), None) => Ok(Some(RegistrySecret::Said(secret))),
            (None, file) => Ok(file.map(RegistrySecret::File)),
        };
        let password = said(self.password, self.password_file, "registries.password")?;
        let token = said(self.token, self.token_file, "registries.token")?;
        let credential = match (self.user, password, token) {
            (None, None, None) => RegistryCredential::Nobody,
            (Some(user), Some(password), None) if !user.is_empty() && !user.contains(':') => {
                RegistryCredential::Password { user, password }
            }
            (None, None, Some(token)) => RegistryCredential::Token(token),
            _ => {
                let problem = "either `user` and `password`, or `token`, or none of them";
                return Err(value("registries.user", problem.to_owned()));
            }
        };
        // Only of an address can it be said before a name is resolved.
        let near = url.host().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if plain && !matches!(credential, RegistryCredential::Nobody) && !near.is_some_and(is_loopback) {
            return Err(wrong("would have its credential sent in the clear"));
        }
        let token_host = self.token_host.map(|host| is_host("registries.token_host", host)).transpose()?;
        if self.blob_hosts.len() > MAX_BLOB_HOSTS {
            return Err(value("registries.blob_hosts", format!("{MAX_BLOB_HOSTS} are the most")));
        }
        let blob_hosts = self.blob_hosts.into_iter().map(|host| is_host("registries.blob_hosts", host));
        let blob_hosts = blob_hosts.collect::<Result<_, _>>()?;
        Ok(Registry { host, endpoint, ca: self.ca, credential, token_host, blob_hosts })
    }
}

/// `HOST[:PORT]`, as the names of images and URLs have it.
fn is_host(field: &'static str, host: String) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]_".contains(&byte);
    let url = format!("https://{host}/").parse::<Uri>();
    let is_host = url.is_ok_and(|url| {
        let name = url.host().unwrap_or_default();
        // What is no number is a port to that parser all the same.
        let port = host.strip_prefix(name).unwrap_or(&host);
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        !name.is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
    });
    if is_host && host.len() <= MAX_HOST_LEN && host.bytes().all(plain) {
        Ok(host)
    } else {
        Err(value(field, format!("`{host}` is not HOST or HOST:PORT in lower case")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        registries: Vec<RawRegistry>,
    }

    fn load(text: &str) -> Result<Vec<Registry>, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        check(file.registries).map_err(|error| error.to_string())
    }

    #[test]
    fn a_registry_is_a_host_and_how_it_is_reached() {
        let text = "[[registries]]\nhost = 'registry.example'\nuser = 'AWS'\npassword_file = '/run/password'\n\
                    token_host = 'auth.example:8443'\nblob_hosts = ['10.0.0.1:9000']\n\
                    [[registries]]\nhost = 'here:5000'\nendpoint = 'http://127.0.0.1:5000'\nallow_http = true\ntoken = 'hidden'\n";
        let all = load(text).unwrap();
        assert_eq!(all[0].endpoint, "https://registry.example");
        assert_eq!(all[0].secret_file(), Some(&PathBuf::from("/run/password")));
        assert_eq!(all[0].ports().collect::<Vec<_>>(), [9000, 8443, 443]);
        assert_eq!((all[1].ports().collect::<Vec<_>>(), all[1].secret_file()), (vec![5000], None));
        assert!(!format!("{all:?}").contains("hidden"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |more: &str| format!("[[registries]]\nhost = 'registry.example'\n{more}\n");
        for (text, names) in [
            (of("").repeat(2), "twice"),
            ((0..17).map(|n| of("").replace("example", &format!("example{n}"))).collect(), "16"),
            (of("").replace("registry.example", "Registry"), "registries.host"),
            (of("").replace("registry.example", "a/b"), "registries.host"),
            (of("").replace("registry.example", "a@b"), "registries.host"),
            (of("").replace("registry.example", "a:0"), "registries.host"),
            (of("").replace("registry.example", "a:x"), "registries.host"),
            (of("endpoint = 'http://x'"), "allow_http"),
            (of("endpoint = 'ftp://x'"), "https://"),
            (of("endpoint = 'https://x/y'"), "behind its host"),
            (of("endpoint = 'https://u@x'"), "registries.endpoint"),
            (of("endpoint = 'http://x'\nallow_http = true\ntoken = 't'"), "in the clear"),
            (of("user = 'u'"), "registries.user"),
            (of("password = 'p'"), "registries.user"),
            (of("user = 'u:v'\npassword = 'p'"), "registries.user"),
            (of("user = 'u'\npassword = 'p'\ntoken = 't'"), "registries.user"),
            (of("token = ' '"), "registries.token"),
            (of("token = 't'\ntoken_file = '/t'"), "registries.token"),
            (of("token_host = 'https://x'"), "registries.token_host"),
            (of("blob_hosts = ['x/y']"), "registries.blob_hosts"),
            (of("plain_http = true"), "plain_http"),
        ] {
            let problem = load(&text).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
