//! The agent's side: which registry an image's name is of, and a helper for each question to it.

use std::{fs::File, io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::Semaphore,
};
use zeroize::Zeroizing;

use super::{
    Access, Credential, Found, Pace, Reference, Refusal, Request, Wanted, archive, helper::MAX_REQUEST_LEN,
};
use crate::{
    code::{confined::EXIT_REFUSED, image::documents::is_sha256, uploads::MAX_ARCHIVE_LEN},
    config::{Registry, RegistryCredential, RegistrySecret},
    functions::images::{ImageUri, Which},
    pem::{self, PemError},
    sandbox::describe,
};

/// Longest time until a tag is resolved: a client waits.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time until an archive is whole: 10 GiB at some 3 MiB a second.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3600);

/// Tags that are resolved at a time, each by a process.
const MAX_RESOLVING: usize = 4;

/// As fast as a registry has to be: a connection that carries no 64 KiB a second is of no use for what is as long as an image.
const PACE: Pace = Pace {
    silence: Duration::from_secs(15),
    window: Duration::from_secs(60),
    window_len: 60 * 64 * 1024,
    pause: Duration::from_secs(1),
};

/// Most bytes that are read of what the helper says.
const MAX_OUTPUT: u64 = 16 * 1024;

/// Who asks registries.
#[derive(Clone, Debug)]
pub(crate) enum Puller {
    /// A confined helper.
    Helper,
    /// Nobody: for tests of what is around it.
    #[cfg(test)]
    Pretended(std::sync::Arc<tests::Pretended>),
}

/// The registries that the configuration names.
pub(crate) struct Registries {
    all: Vec<(Registry, String)>,
    puller: Puller,
    resolving: Semaphore,
}

impl Registries {
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// A file with authorities is not there.
    pub(crate) fn open(configured: &[Registry], puller: Puller) -> Result<Self, PemError> {
        let authorities = |registry: &Registry| -> Result<String, PemError> {
            if registry.endpoint.starts_with("http://") {
                return Ok(String::new());
            }
            // At least one that can be read, and no more than a request has room for.
            pem::certificates(&registry.ca)?;
            Ok(String::from_utf8_lossy(&pem::read(&registry.ca)?).into_owned())
        };
        let all = configured.iter().map(|registry| Ok((registry.clone(), authorities(registry)?)));
        Ok(Self {
            all: all.collect::<Result<_, PemError>>()?,
            puller,
            resolving: Semaphore::new(MAX_RESOLVING),
        })
    }

    /// Whether there is a registry that an image of that name is in.
    pub(crate) fn have(&self, name: &str) -> bool {
        self.of(name).is_some()
    }

    /// The image that is meant, as its registry has it now.
    pub(crate) async fn resolve(&self, uri: &ImageUri) -> Result<Found, Refusal> {
        let reference = match &uri.which {
            Which::Tag(tag) => Reference::Tag(tag.clone()),
            Which::Digest(digest) => Reference::Digest(digest.clone()),
        };
        let asked = async {
            // The semaphore is never closed.
            let _one = self.resolving.acquire().await;
            self.ask(&uri.name, reference, Wanted::Digest, None).await
        };
        within(RESOLVE_TIMEOUT, asked).await
    }

    /// Writes the archive of an image to an empty file; [`archive_len`] is the longest that it may become.
    pub(crate) async fn fetch(&self, name: &str, image: &Found, file: File) -> Result<(), Refusal> {
        let reference = Reference::Digest(image.digest.clone());
        let wanted = Wanted::Archive { max_len: archive_len(image.size) };
        let fetched = within(FETCH_TIMEOUT, self.ask(name, reference, wanted, Some(file))).await?;
        // The manifest was compared with this already, by who has read what a registry says.
        if fetched == *image {
            Ok(())
        } else {
            Err(Refusal::Unsuitable(format!("the registry gave sha256:{} instead", fetched.digest)))
        }
    }

    fn of(&self, name: &str) -> Option<(&Registry, &str, String)> {
        let (host, repository) = name.split_once('/')?;
        let (registry, authorities) = self.all.iter().find(|(registry, _)| registry.host == host)?;
        Some((registry, authorities, repository.to_owned()))
    }

    async fn ask(
        &self,
        name: &str,
        reference: Reference,
        wanted: Wanted,
        file: Option<File>,
    ) -> Result<Found, Refusal> {
        let (registry, authorities, repository) = self.of(name).ok_or(Refusal::Absent)?;
        let found = match &self.puller {
            Puller::Helper => {
                let credential = credential(&registry.credential).map_err(|error| {
                    tracing::error!("the credential of a registry cannot be read: {}", describe(&error));
                    Refusal::Denied("the node cannot read its credential".into())
                })?;
                let access = Access {
                    endpoint: registry.endpoint.clone(),
                    authorities: authorities.to_owned(),
                    credential,
                    token_host: registry.token_host.clone(),
                    blob_hosts: registry.blob_hosts.clone(),
                };
                let request = Request { registry: access, repository, reference, wanted, pace: PACE };
                run(&request, file).await?
            }
            #[cfg(test)]
            Puller::Pretended(pretended) => pretended.ask(&repository, &reference, file).await?,
        };
        // What has read hostile bytes may say anything.
        if is_sha256(&found.digest) && archive_len(found.size) <= MAX_ARCHIVE_LEN {
            Ok(found)
        } else {
            Err(Refusal::Unsuitable("what the registry has cannot be understood".into()))
        }
    }
}

/// Longest archive of an image of that size.
pub(crate) fn archive_len(size: u64) -> u64 {
    size.saturating_add(archive::OVERHEAD)
}

async fn within<T>(limit: Duration, asked: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let late = |_| Refusal::Unavailable(format!("the registry took longer than {} s", limit.as_secs()));
    tokio::time::timeout(limit, asked).await.map_err(late)?
}

fn credential(configured: &RegistryCredential) -> Result<Credential, PemError> {
    let read = |secret: &RegistrySecret| match secret {
        RegistrySecret::Said(secret) => Ok(secret.expose().clone()),
        RegistrySecret::File(path) => {
            let content = pem::read(path)?;
            Ok(String::from_utf8_lossy(content.trim_ascii()).into_owned())
        }
    };
    Ok(match configured {
        RegistryCredential::Nobody => Credential::Nobody,
        RegistryCredential::Password { user, password } => {
            Credential::Password { user: user.clone(), password: read(password)? }
        }
        RegistryCredential::Token(token) => Credential::Token(read(token)?),
    })
}

/// Runs a helper to its end.
async fn run(request: &Request, file: Option<File>) -> Result<Found, Refusal> {
    let failed = |error: io::Error| {
        tracing::error!("cannot run a helper: {error}");
        Refusal::Unavailable("the node failed to ask".into())
    };
    // The running program, whatever its file is called by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg("pull-image").current_dir("/").env_clear().kill_on_drop(true);
    command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(file.map_or_else(Stdio::null, Stdio::from));
    let mut child = command.spawn().map_err(failed)?;
    let mut line = Zeroizing::new(serde_json::to_vec(request).unwrap_or_default());
    line.push(b'\n');
    debug_assert!(line.len() as u64 <= MAX_REQUEST_LEN);
    // Kept open until it has ended: when this is closed, it ends.
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &mut stdin
        && let Err(error) = stdin.write_all(&line).await
    {
        tracing::warn!("a helper does not take its request: {error}");
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_OUTPUT).read_to_end(&mut said).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    drop(stdin);
    let found = status.success().then(|| serde_json::from_slice(&said).ok()).flatten();
    let refusal =
        || (status.code() == Some(EXIT_REFUSED.into())).then(|| serde_json::from_slice(&said).ok()).flatten();
    found.ok_or_else(|| {
        refusal().unwrap_or_else(|| {
            let said = String::from_utf8_lossy(&said);
            tracing::warn!("a registry ended its helper with {status}: {}", said.trim().escape_debug());
            Refusal::Unavailable(format!("asking the registry ended with {status}"))
        })
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, io::Write as _, sync::Mutex};

    use tokio::sync::watch;

    use super::*;

    /// An image, and its archive.
    type Answer = Result<(Found, Vec<u8>), Refusal>;

    /// A registry without a network: what it answers to each name and digest.
    #[derive(Debug)]
    pub(crate) struct Pretended {
        /// By `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
        pub(crate) has: Mutex<BTreeMap<String, Answer>>,
        /// Archives are given while this is so.
        pub(crate) open: watch::Sender<bool>,
        /// What was fetched.
        pub(crate) fetched: Mutex<Vec<String>>,
        /// Fetches that are under way.
        pub(crate) under_way: watch::Sender<usize>,
    }

    impl Default for Pretended {
        fn default() -> Self {
            let (has, fetched) = Default::default();
            Self { has, open: watch::Sender::new(true), fetched, under_way: watch::Sender::new(0) }
        }
    }

    /// Counts a fetch for as long as it is under way, however it ends.
    struct UnderWay<'a>(&'a Pretended);

    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            self.0.under_way.send_modify(|count| *count -= 1);
        }
    }

    impl Pretended {
        pub(super) async fn ask(
            &self,
            repository: &str,
            reference: &Reference,
            file: Option<File>,
        ) -> Result<Found, Refusal> {
            let key = match reference {
                Reference::Tag(tag) => format!("{repository}:{tag}"),
                Reference::Digest(digest) => format!("{repository}@{digest}"),
            };
            if let Some(mut file) = file {
                self.under_way.send_modify(|count| *count += 1);
                let _counted = UnderWay(self);
                self.fetched.lock().unwrap().push(key.clone());
                self.open.subscribe().wait_for(|open| *open).await.unwrap();
                let (found, archive) =
                    self.has.lock().unwrap().get(&key).cloned().ok_or(Refusal::Absent)??;
                file.write_all(&archive).unwrap();
                return Ok(found);
            }
            let has = self.has.lock().unwrap().get(&key).cloned();
            has.ok_or(Refusal::Absent)?.map(|(found, _)| found)
        }
    }

    #[test]
    fn a_name_is_of_the_registry_that_it_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let registry = |host: &str| Registry {
            host: host.into(),
            endpoint: format!("http://{host}"),
            ca: dir.path().join("none"),
            credential: RegistryCredential::Nobody,
            token_host: None,
            blob_hosts: Vec::new(),
        };
        let all =
            Registries::open(&[registry("a.example"), registry("a.example:5000")], Puller::Helper).unwrap();
        let of =
            |name: &str| all.of(name).map(|(registry, _, repository)| (registry.host.as_str(), repository));
        assert_eq!(of("a.example/team/app"), Some(("a.example", "team/app".into())));
        assert_eq!(of("a.example:5000/app"), Some(("a.example:5000", "app".into())));
        for none in ["app", "b.example/app", "a.example.evil/app", "a.example:5001/app", "team/a.example/app"]
        {
            assert_eq!(of(none), None, "{none}");
        }
        let encrypted = Registry { endpoint: "https://a.example".into(), ..registry("a.example") };
        assert!(Registries::open(&[encrypted], Puller::Helper).is_err(), "no authorities");
    }

    #[test]
    fn a_secret_is_read_anew_for_each_pull() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let configured = RegistryCredential::Token(RegistrySecret::File(path.clone()));
        assert!(credential(&configured).is_err());
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            assert!(matches!(credential(&configured).unwrap(), Credential::Token(read) if read == token));
        }
    }
}
