//! The environment variables of a runtime's process. Pure.
//!
//! Three layers, later ones win: what Lambda lets the customer override, the customer's own, what Lambda reserves.

use std::collections::BTreeMap;
use std::ffi::CString;

use guest_protocol::{Credentials, Start};

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

/// The variables, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Of the function that `start` names, with the Runtime API at `runtime_api` (`host:port`).
    #[must_use]
    pub fn of(start: &Start, runtime_api: &str) -> Self {
        let memory = start.memory_mib.to_string();
        let reserved = [
            ("AWS_DEFAULT_REGION", start.region.as_str()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
            ("AWS_LAMBDA_FUNCTION_NAME", &start.function_name),
            ("AWS_LAMBDA_FUNCTION_VERSION", &start.function_version),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", &start.log_group),
            ("AWS_LAMBDA_LOG_STREAM_NAME", &start.log_stream),
            ("AWS_LAMBDA_RUNTIME_API", runtime_api),
            ("AWS_REGION", &start.region),
            ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR),
            ("LAMBDA_TASK_ROOT", TASK_ROOT),
            ("_HANDLER", &start.handler),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut variables: BTreeMap<_, _> = DEFAULTS.iter().copied().map(owned).collect();
        variables.extend(start.environment.iter().cloned());
        variables.extend(start.platform_environment.iter().cloned());
        if let Some(credentials) = &start.credentials {
            variables.extend(in_environment(credentials).map(owned));
        }
        variables.extend(reserved.into_iter().map(owned));
        Self(variables)
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
        let environment = Environment::of(&start, "127.0.0.1:9001");
        let check = |name: &str, value: &str| assert_eq!(environment.get(name), Some(value), "{name}");
        check("TZ", "Europe/Vienna");
        check("_HANDLER", &start.handler);
        check("AWS_ACCESS_KEY_ID", "ours");
        check("MINE", "1");
        check("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
    }

    #[test]
    fn a_nul_byte_drops_only_its_variable() {
        let mut start = start();
        start.environment = vec![("BAD".into(), "a\0b".into()), ("GOOD".into(), "ab".into())];
        let strings = Environment::of(&start, "x").to_exec();
        assert!(strings.contains(&CString::from(c"GOOD=ab")));
        assert!(!strings.iter().any(|s| s.to_bytes().starts_with(b"BAD=")));
    }
}
