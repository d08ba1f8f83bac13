//! Buckets that the configuration has a name for: a directory of this node, or a bucket of a service. Those of `[[events.buckets]]` are
//! written to, those of `[[code.buckets]]` are read.

use std::{collections::BTreeSet, path::PathBuf};

use serde::Deserialize;

use super::{Bucket, ConfigError, is_bucket, value};

/// Most of `[[code.buckets]]`: each may have its objects on their way (`code::buckets`).
const MAX_CODE_BUCKETS: usize = 16;

/// What the name of a bucket stands for.
#[derive(Clone, Debug)]
pub(crate) struct NamedBucket {
    /// As clients name it.
    pub(crate) name: String,
    pub(crate) place: BucketPlace,
}

/// Where its objects are.
#[derive(Clone, Debug)]
pub(crate) enum BucketPlace {
    /// In a directory of this node, which begins at the root: its files.
    Directory(PathBuf),
    /// In a bucket of a service, which may have another name there.
    Service(Bucket),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBucket {
    name: String,
    directory: Option<PathBuf>,
    service: Option<Bucket>,
}

/// The table `[code]`: what code comes from that is in no request.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCode {
    buckets: Vec<RawBucket>,
}

impl RawCode {
    pub(super) fn check(self) -> Result<Vec<NamedBucket>, ConfigError> {
        const TABLE: &str = "code.buckets";
        let all = self.buckets.into_iter().map(|one| one.check(TABLE)).collect::<Result<Vec<_>, _>>()?;
        if all.len() > MAX_CODE_BUCKETS {
            return Err(value(TABLE, format!("{} buckets, {MAX_CODE_BUCKETS} are the most", all.len())));
        }
        let mut seen = BTreeSet::new();
        match all.iter().find(|one| !seen.insert(&one.name)) {
            Some(twice) => Err(value(TABLE, format!("`{}` is there twice", twice.name))),
            None => Ok(all),
        }
    }
}

impl RawBucket {
    /// `table`: where the configuration has it.
    pub(super) fn check(self, table: &str) -> Result<NamedBucket, ConfigError> {
        let Self { name, directory, service } = self;
        if !is_bucket(&name) {
            return Err(value(format!("{table}.name"), format!("`{name}` is not the name of a bucket")));
        }
        let place = match (directory, service) {
            (Some(directory), None) if directory.is_absolute() => BucketPlace::Directory(directory),
            (Some(directory), None) => {
                let problem = format!("`{}` does not begin at the root", directory.display());
                return Err(value(format!("{table}.directory"), problem));
            }
            (None, Some(service)) => {
                service.check(&format!("{table}.service"))?;
                BucketPlace::Service(service)
            }
            _ => {
                let problem = format!("`{name}` is either a directory or a bucket of a service");
                return Err(value(table.to_owned(), problem));
            }
        };
        Ok(NamedBucket { name, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<NamedBucket>, String> {
        let raw: RawCode = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|error| error.to_string())
    }

    #[test]
    fn code_comes_from_the_buckets_that_are_named() {
        assert!(check("").unwrap().is_empty());
        let text = "[[buckets]]\nname = 'near'\ndirectory = '/srv/near'\n[[buckets]]\nname = 'far-away'\n[buckets.service]\n\
                    bucket = 'far'\nregion = 'us-east-1'\naccess_key_id = 'a'\nsecret_access_key = 'hidden'\n";
        let all = check(text).unwrap();
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["near", "far-away"]);
        assert!(!format!("{all:?}").contains("hidden"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bucket = |more: &str| format!("[[buckets]]\nname = 'near'\n{more}\n");
        let many: String =
            (0..17).map(|n| format!("[[buckets]]\nname = 'b-{n}'\ndirectory = '/srv'\n")).collect();
        for (text, names) in [
            (bucket(""), "code.buckets"),
            (bucket("directory = 'srv'"), "code.buckets.directory"),
            (bucket("[buckets.service]\nbucket = 'b'"), "region"),
            (bucket("directory = '/srv'").repeat(2), "twice"),
            (bucket("directory = '/srv'").replace("near", "../n"), "code.buckets.name"),
            (bucket("directory = '/srv'\nprefix = 'x'"), "prefix"),
            (many, "16"),
        ] {
            let problem = check(&text).unwrap_err();
            assert!(problem.contains(names), "{text}: {problem}");
        }
    }
}
