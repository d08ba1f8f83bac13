//! The environment variables of a runtime's process. Pure.
//!
//! Three layers, later ones win: what Lambda lets the customer override, the customer's own, what Lambda reserves.

use std::collections::BTreeMap;
use std::ffi::CString;

use guest_protocol::{Credentials, InitializationType, Start};

use crate::runtime_api::CREDENTIALS_PATH;

/// Where the function's code is.
pub const TASK_ROOT: &str = "/var/task";

/// Where the runtime is.
pub const RUNTIME_DIR: &str = "/var/runtime";

/// Defaults that a customer may override (Lambda's documentation, "Defined runtime environment variables").
const DEFAULTS: &[(&str, &str)] = &[
    ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
    ("LANG", "en_US.UTF-8"),
    (
        "LD_LIBRARY_PATH",
        "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    ),
    ("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
    ("PWD", TASK_ROOT),
    ("TZ", ":UTC"),
];

/// The same of a container image, which brings its own variables: what containers have that say nothing, and what Lambda tells them.
const CONTAINER_DEFAULTS: &[(&str, &str)] = &[
    ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR"),
    ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR),
    ("LAMBDA_TASK_ROOT", TASK_ROOT),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("TZ", ":UTC"),
];

/// What is reserved, too, but not to a container image: it has no handler that the platform knows of, and may say where its code is.
const OF_RUNTIMES: &[&str] = &["LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT", "_HANDLER"];

/// Beginnings of the names that the loader, the C library or an interpreter reads at its start, or that ask for
/// another program to be started.
const READ_ONCE: &[&str] = &[
    "AWS_LAMBDA_EXEC_WRAPPER",
    "GCONV_",
    "GLIBC_",
    "LANG",
    "LC_",
    "LD_",
    "LOCPATH",
    "MALLOC_",
    "OPENSSL_",
    "PYTHON",
    "SSL_",
];

/// Variables that extensions do not see (Lambda's documentation, "Extensions API").
const RUNTIMES_OWN: &[&str] = &[
    "AWS_EXECUTION_ENV",
    LOG_GROUP,
    LOG_STREAM,
    "AWS_XRAY_CONTEXT_MISSING",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
];

const LOG_GROUP: &str = "AWS_LAMBDA_LOG_GROUP_NAME";
const LOG_STREAM: &str = "AWS_LAMBDA_LOG_STREAM_NAME";

/// Where SDKs find credentials that may be replaced, and what they show there.
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";

/// The variables, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Of the function that `start` names, with the Runtime API at `runtime_api` (`host:port`). `token` opens the
    /// credentials endpoint to a function that is to be snapshotted.
    #[must_use]
    pub fn of(start: &Start, runtime_api: &str, token: Option<&str>) -> Self {
        let memory = start.memory_mib.to_string();
        let snap_start = start.initialization_type == InitializationType::SnapStart;
        let reserved = [
            ("AWS_DEFAULT_REGION", start.region.as_str()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
            ("AWS_LAMBDA_FUNCTION_NAME", &start.function_name),
            ("AWS_LAMBDA_FUNCTION_VERSION", &start.function_version),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", initialization_type(start.initialization_type)),
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("AWS_REGION", &start.region),
            ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR),
            ("LAMBDA_TASK_ROOT", TASK_ROOT),
            ("_HANDLER", &start.handler),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let defaults = if start.container.is_some() { CONTAINER_DEFAULTS } else { DEFAULTS };
        let mut variables: BTreeMap<_, _> = defaults.iter().copied().map(owned).collect();
        if let Some(container) = &start.container {
            variables.extend(container.environment.iter().cloned());
            variables.insert("PWD".to_owned(), container.working_directory.clone());
        }
        variables.extend(start.environment.iter().cloned());
        variables.extend(start.platform_environment.iter().cloned());
        if snap_start {
            // A clone would have its original's credentials and log stream.
            let uri = format!("http://{runtime_api}{CREDENTIALS_PATH}");
            let endpoint = token.map(|token| [(FULL_URI, uri.as_str()), (TOKEN, token)].map(owned));
            variables.extend(endpoint.into_iter().flatten());
        } else {
            variables.extend(start.credentials.iter().flat_map(in_environment).map(owned));
            let log = [(LOG_GROUP, start.log_group.as_str()), (LOG_STREAM, start.log_stream.as_str())];
            variables.extend(log.map(owned));
        }
        let is_set = |(name, _): &(&str, &str)| start.container.is_none() || !OF_RUNTIMES.contains(name);
        variables.extend(reserved.into_iter().filter(is_set).map(owned));
        Self(variables)
    }

    /// What an extension sees of it: nothing of what is the runtime's own.
    #[must_use]
    pub fn for_extension(&self) -> Self {
        let seen = self.0.iter().filter(|(name, _)| !RUNTIMES_OWN.contains(&name.as_str()));
        Self(seen.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Of a runtime that is started before any function is known.
    #[must_use]
    pub fn of_nobody(runtime_api: &str) -> Self {
        let reserved = [
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR),
            ("LAMBDA_TASK_ROOT", TASK_ROOT),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(DEFAULTS.iter().copied().chain(reserved).map(owned).collect())
    }

    /// Whether a process that was started with `self` can become one of `other` by changing its variables: not when
    /// they differ in one that is read once, before any code of the runtime's runs.
    #[must_use]
    pub fn can_become(&self, other: &Self) -> bool {
        let once = |variables: &Self| -> BTreeMap<String, String> {
            let read_once = |name: &&str| READ_ONCE.iter().any(|prefix| name.starts_with(prefix));
            let names = variables.0.keys().map(String::as_str).filter(read_once);
            names.map(|name| (name.to_owned(), variables.get(name).unwrap_or_default().to_owned())).collect()
        };
        once(self) == once(other)
    }

    /// The value of one variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `NAME=value` strings for `execve`. A variable with a NUL byte cannot exist and is left out.
    #[must_use]
    pub fn to_exec(&self) -> Vec<CString> {
        self.iter().filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok()).collect()
    }
}

/// The value of `AWS_LAMBDA_INITIALIZATION_TYPE`.
fn initialization_type(kind: InitializationType) -> &'static str {
    match kind {
        InitializationType::OnDemand => "on-demand",
        InitializationType::SnapStart => "snap-start",
        InitializationType::Provisioned => "provisioned-concurrency",
    }
}

/// The variables that SDKs read credentials from.
fn in_environment(credentials: &Credentials) -> [(&'static str, &str); 3] {
    [
        ("AWS_ACCESS_KEY_ID", &credentials.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key),
        ("AWS_SESSION_TOKEN", &credentials.session_token),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tests::start;

    #[test]
    fn customers_override_defaults_but_not_reserved_names() {
        let mut start = start();
        start.environment = vec![
            ("TZ".into(), "Europe/Vienna".into()),
            ("_HANDLER".into(), "evil.handler".into()),
            ("AWS_ACCESS_KEY_ID".into(), "theirs".into()),
            ("MINE".into(), "1".into()),
        ];
        start.credentials = Some(Credentials {
            access_key_id: "ours".into(),
            secret_access_key: String::new(),
            session_token: String::new(),
            expiration: String::new(),
        });
        let environment = Environment::of(&start, "127.0.0.1:9001", None);
        let check = |name: &str, value: &str| assert_eq!(environment.get(name), Some(value), "{name}");
        check("TZ", "Europe/Vienna");
        check("_HANDLER", &start.handler);
        check("AWS_ACCESS_KEY_ID", "ours");
        check("MINE", "1");
        check("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
    }

    #[test]
    fn what_is_to_be_snapshotted_has_no_credentials_in_its_environment() {
        let mut start = start();
        start.initialization_type = InitializationType::SnapStart;
        start.credentials = Some(Credentials {
            access_key_id: "ours".into(),
            secret_access_key: String::new(),
            session_token: String::new(),
            expiration: String::new(),
        });
        let environment = Environment::of(&start, "127.0.0.1:9001", Some("t"));
        let check = |name: &str, value| assert_eq!(environment.get(name), value, "{name}");
        check("AWS_LAMBDA_INITIALIZATION_TYPE", Some("snap-start"));
        check("AWS_CONTAINER_CREDENTIALS_FULL_URI", Some("http://127.0.0.1:9001/2021-04-23/credentials"));
        check("AWS_CONTAINER_AUTHORIZATION_TOKEN", Some("t"));
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", LOG_STREAM, LOG_GROUP]
        {
            check(name, None);
        }
    }

    #[test]
    fn what_is_initialised_ahead_of_its_events_differs_in_one_variable() {
        let mut start = start();
        let on_demand = Environment::of(&start, "127.0.0.1:9001", None);
        start.initialization_type = InitializationType::Provisioned;
        let ahead = Environment::of(&start, "127.0.0.1:9001", None);
        let differ: Vec<_> =
            ahead.iter().filter(|(name, value)| on_demand.get(name) != Some(value)).collect();
        assert_eq!(differ, [("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")]);
        assert!(on_demand.can_become(&ahead), "a clone of the runtime may be it");
    }

    #[test]
    fn a_waiting_runtime_becomes_a_function_unless_it_would_have_started_otherwise() {
        let nobody = Environment::of_nobody("127.0.0.1:9001");
        let mut start = start();
        start.environment = vec![("MINE".into(), "1".into()), ("TZ".into(), "Europe/Vienna".into())];
        assert!(nobody.can_become(&Environment::of(&start, "127.0.0.1:9001", None)));
        for name in ["LD_PRELOAD", "PYTHONHASHSEED", "LANG"] {
            start.environment = vec![(name.into(), "0".into())];
            assert!(!nobody.can_become(&Environment::of(&start, "127.0.0.1:9001", None)), "{name}");
        }
    }

    #[test]
    fn a_container_has_its_own_variables_below_all_others() {
        let own =
            [("PATH", "/app/bin"), ("MINE", "image"), ("AWS_REGION", "mars"), ("LAMBDA_TASK_ROOT", "/app")];
        let mut start = start();
        start.environment = vec![("MINE".into(), "customer".into())];
        start.container = Some(guest_protocol::Container {
            working_directory: "/app".into(),
            environment: own.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Default::default()
        });
        let environment = Environment::of(&start, "127.0.0.1:9001", None);
        let check = |name: &str, value| assert_eq!(environment.get(name), value, "{name}");
        check("PATH", Some("/app/bin"));
        check("MINE", Some("customer"));
        check("AWS_REGION", Some("us-east-1"));
        check("LAMBDA_TASK_ROOT", Some("/app"));
        check("LAMBDA_RUNTIME_DIR", Some("/var/runtime"));
        check("PWD", Some("/app"));
        for absent in ["_HANDLER", "LD_LIBRARY_PATH", "LANG"] {
            check(absent, None);
        }
    }

    #[test]
    fn a_nul_byte_drops_only_its_variable() {
        let mut start = start();
        start.environment = vec![("BAD".into(), "a\0b".into()), ("GOOD".into(), "ab".into())];
        let strings = Environment::of(&start, "x", None).to_exec();
        assert!(strings.contains(&CString::from(c"GOOD=ab")));
        assert!(!strings.iter().any(|s| s.to_bytes().starts_with(b"BAD=")));
    }
}
