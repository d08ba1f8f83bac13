//! What the host's own apt knows: which mirrors it uses, which packages are installed. The repository names no mirror:
//! everything we take from Debian comes from where this machine takes its packages.

use crate::cmd::Cmd;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;

/// Debian's own signing keys, in Debian's own package.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One archive the host is configured to use.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Source {
    uri: String,
    suite: String,
    component: String,
}

/// Where the host gets Debian from.
pub(crate) struct Apt {
    sources: Vec<Source>,
    codename: String,
}

impl Apt {
    /// Asks apt; needs no downloaded package lists.
    pub(crate) fn of_host() -> Result<Apt> {
        let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename =
            codename.context("/etc/os-release names no Debian release")?.trim_matches('"').to_owned();
        let indexes = Cmd::new("apt-get").args(["update", "--print-uris"]).read()?;
        Ok(Apt::new(&codename, &indexes))
    }

    /// From the release's name and what `apt-get update --print-uris` prints.
    pub(crate) fn new(codename: &str, indexes: &str) -> Apt {
        Apt { sources: indexes.lines().filter_map(parse_index).collect(), codename: codename.to_owned() }
    }

    /// The host's release, such as `bookworm`.
    pub(crate) fn codename(&self) -> &str {
        &self.codename
    }

    /// The address of the Debian mirror.
    pub(crate) fn mirror(&self) -> Result<&str> {
        let uri = self.uri_of(&self.codename);
        uri.with_context(|| format!("apt has no source for Debian {} main", self.codename))
    }

    /// The address of the security archive, when the host uses one.
    pub(crate) fn security_mirror(&self) -> Option<&str> {
        self.uri_of(&format!("{}-security", self.codename))
    }

    /// Whether packages from this suite can be installed.
    pub(crate) fn has_suite(&self, suite: &str) -> bool {
        self.uri_of(suite).is_some()
    }

    fn uri_of(&self, suite: &str) -> Option<&str> {
        let source = self.sources.iter().find(|source| source.suite == suite && source.component == "main");
        source.map(|source| source.uri.as_str())
    }
}

/// The packages of `wanted` that are not installed. `dpkg-query` reads one file: quick enough to ask on every run.
pub(crate) fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let status =
        Cmd::new("dpkg-query").args(["--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"]).read()?;
    let installed: BTreeSet<&str> = status.lines().filter_map(|line| line.strip_prefix("ii  ")).collect();
    Ok(wanted.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// A line of `apt-get update --print-uris`: `'URI/dists/SUITE/COMPONENT/binary-ARCHITECTURE/Packages.xz' …`. (`apt-get
/// indextargets` would say the same more nicely, but knows nothing before the first `apt-get update`.)
fn parse_index(line: &str) -> Option<Source> {
    let address = line.strip_prefix('\'')?.split('\'').next()?;
    let (uri, index) = address.split_once("/dists/")?;
    let (place, _packages) = index.split_once("/binary-")?;
    let (suite, component) = place.rsplit_once('/')?;
    Some(Source { uri: uri.to_owned(), suite: suite.to_owned(), component: component.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_release_itself() {
        let lines = [
            "'http://deb.test/d/dists/b/InRelease' deb.test_d_dists_b_InRelease 0 ",
            "'http://sec.test/s/dists/b-security/main/binary-amd64/Packages.xz' x 0 ",
            "'http://deb.test/contrib/dists/b/contrib/binary-amd64/Packages.xz' x 0 ",
            "'http://deb.test/d/dists/b/main/binary-amd64/Packages.xz' x 0 ",
        ];
        let apt = Apt::new("b", &lines.join("\n"));
        assert_eq!(apt.mirror().unwrap(), "http://deb.test/d");
        assert_eq!(apt.security_mirror(), Some("http://sec.test/s"));
        assert!(!apt.has_suite("b-backports"));
    }
}
