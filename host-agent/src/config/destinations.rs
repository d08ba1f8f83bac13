//! The tables `[[events.buckets]]` and `[[events.webhooks]]`: what the ARNs of buckets and topics stand for that functions have as
//! destinations of their asynchronous events. Clients name ARNs; where those lead, this alone says.

use std::{collections::BTreeSet, path::PathBuf};

use axum::http::{Uri, uri::Scheme};
use serde::Deserialize;

use super::{
    Bucket, BucketPlace, ConfigError, NamedBucket, buckets::RawBucket, chunks::system_authorities, is_region,
    value,
};

/// Most of both together: each may hold a few records of 2 MiB in memory (`events::parcels`).
const MAX_DESTINATIONS: usize = 16;

/// Longest URL.
const MAX_URL_LEN: usize = 2048;

/// Longest name of a topic: AWS's.
const MAX_TOPIC_LEN: usize = 256;

/// What an ARN stands for.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) arn: String,
    pub(crate) place: DestinationPlace,
}

/// Where records go.
#[derive(Clone, Debug)]
pub(crate) enum DestinationPlace {
    /// A directory of this node, a file for each record.
    Directory(PathBuf),
    /// A bucket of a service, an object for each.
    Bucket(Bucket),
    /// An HTTPS server, a request for each.
    Webhook(Webhook),
}

/// An HTTPS server that records are posted to.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    /// With a host; `https`, unless it was said that it need not be.
    pub(crate) url: Uri,
    /// Who may have signed the server's certificate, in PEM.
    pub(crate) ca: PathBuf,
    /// A file: what requests are signed with.
    pub(crate) hmac_key: Option<PathBuf>,
    /// A file: the value of their `Authorization`.
    pub(crate) authorization: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWebhook {
    topic: String,
    url: String,
    #[serde(default)]
    allow_http: bool,
    #[serde(default = "system_authorities")]
    ca: PathBuf,
    hmac_key: Option<PathBuf>,
    authorization: Option<PathBuf>,
}

/// All destinations that a configuration names.
pub(super) fn check(
    buckets: Vec<RawBucket>,
    webhooks: Vec<RawWebhook>,
) -> Result<Vec<Destination>, ConfigError> {
    let buckets = buckets.into_iter().map(|bucket| bucket.check("events.buckets").map(Destination::from));
    let all = buckets.chain(webhooks.into_iter().map(RawWebhook::check)).collect::<Result<Vec<_>, _>>()?;
    if all.len() > MAX_DESTINATIONS {
        let problem = format!("{} buckets and webhooks, {MAX_DESTINATIONS} are the most", all.len());
        return Err(value("events", problem));
    }
    let mut seen = BTreeSet::new();
    match all.iter().find(|one| !seen.insert(&one.arn)) {
        Some(twice) => Err(value("events", format!("`{}` is there twice", twice.arn))),
        None => Ok(all),
    }
}

impl From<NamedBucket> for Destination {
    fn from(NamedBucket { name, place }: NamedBucket) -> Self {
        let place = match place {
            BucketPlace::Directory(path) => DestinationPlace::Directory(path),
            BucketPlace::Service(bucket) => DestinationPlace::Bucket(bucket),
        };
        Self { arn: format!("arn:aws:s3:::{name}"), place }
    }
}

impl RawWebhook {
    fn check(self) -> Result<Destination, ConfigError> {
        let Self { topic, url, allow_http, ca, hmac_key, authorization } = self;
        if !is_topic(&topic) {
            let problem =
                format!("`{topic}` is no topic's ARN, such as arn:aws:sns:us-east-1:000000000000:t");
            return Err(value("events.webhooks.topic", problem));
        }
        let wrong = |problem: &str| value("events.webhooks.url", format!("`{url}` {problem}"));
        let parsed: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if parsed.host().is_none_or(str::is_empty) || url.len() > MAX_URL_LEN {
            return Err(wrong("is no URL"));
        }
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("has a name before its host; `authorization` is for that"));
        }
        match parsed.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {}
            Some(scheme) if *scheme == Scheme::HTTP && allow_http => {}
            Some(scheme) if *scheme == Scheme::HTTP => {
                return Err(wrong("is not encrypted; `allow_http = true` says that it need not be"));
            }
            _ => return Err(wrong("does not begin with https://")),
        }
        let webhook = Webhook { url: parsed, ca, hmac_key, authorization };
        Ok(Destination { arn: topic, place: DestinationPlace::Webhook(webhook) })
    }
}

fn is_topic(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let ["arn", partition, "sns", region, account, name] = parts[..] else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    partition.starts_with("aws")
        && is_region(region)
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && (1..=MAX_TOPIC_LEN).contains(&name.len())
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::events::RawEvents;

    const TOPIC: &str = "[[webhooks]]\ntopic = 'arn:aws:sns:us-east-1:000000000000:t'\n";
    const SERVICE: &str =
        "bucket = 'far'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 'hidden'\n";

    fn check(text: &str) -> Result<Vec<Destination>, String> {
        let raw: RawEvents = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check().map(|events| events.destinations).map_err(|error| error.to_string())
    }

    #[test]
    fn arns_stand_for_what_is_configured() {
        let text = format!(
            "{TOPIC}url = 'https://hooks.example.net/x?y=z'\n[[buckets]]\nname = 'near'\ndirectory = '/srv/near'\n\
             [[buckets]]\nname = 'far-away'\n[buckets.service]\n{SERVICE}"
        );
        let all = check(&text).unwrap();
        assert_eq!(
            all.iter().map(|one| one.arn.as_str()).collect::<Vec<_>>(),
            ["arn:aws:s3:::near", "arn:aws:s3:::far-away", "arn:aws:sns:us-east-1:000000000000:t"]
        );
        assert!(!format!("{all:?}").contains("hidden"));
        check(&format!("{TOPIC}url = 'http://[::1]:8080'\nallow_http = true")).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bucket = |more: &str| format!("[[buckets]]\nname = 'near'\n{more}");
        let url = |url: &str| format!("{TOPIC}url = '{url}'");
        let many: String =
            (0..17).map(|n| format!("[[buckets]]\nname = 'b-{n}'\ndirectory = '/srv'\n")).collect();
        for (text, names) in [
            (bucket(""), "events.buckets"),
            (bucket("directory = 'srv'"), "events.buckets.directory"),
            (bucket(&format!("directory = '/srv'\n[buckets.service]\n{SERVICE}")), "events.buckets"),
            (bucket(&format!("[buckets.service]\nendpoint = 'http://x'\n{SERVICE}")), "service.endpoint"),
            (bucket("directory = '/srv'\n").repeat(2), "twice"),
            (bucket("directory = '/srv'").replace("near", "N"), "events.buckets.name"),
            (many, "16"),
            (url("http://hooks.example.net"), "allow_http"),
            (url("ftp://hooks.example.net"), "https://"),
            (url("/x"), "events.webhooks.url"),
            (url("https://user:password@hooks.example.net"), "authorization"),
            (url("https://x").replace(":t'", ":t.fifo'"), "events.webhooks.topic"),
            (url("https://x").replace("sns", "sqs"), "events.webhooks.topic"),
            (url("https://x") + "\nsecret = 's'", "secret"),
        ] {
            let problem = check(&text).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
