//! Paths of Lambda's API: each kind of thing under the date of its operations.

use crate::egress::segment;

/// Of the functions of a node.
pub(crate) const FUNCTIONS: &str = "/2015-03-31/functions";

/// Path of something of a function, with a qualifier or without.
pub(crate) fn path(function: &str, of: &str, qualifier: &str) -> String {
    let query =
        if qualifier.is_empty() { String::new() } else { format!("?Qualifier={}", segment(qualifier)) };
    format!("{FUNCTIONS}/{}{of}{query}", segment(function))
}

fn dated(date: &str, function: &str, of: &str, qualifier: &str) -> String {
    path(function, of, qualifier).replacen("2015-03-31", date, 1)
}

/// Path of a function's or an alias's URL.
pub(crate) fn url_path(function: &str, qualifier: &str) -> String {
    dated("2021-10-31", function, "/url", qualifier)
}

/// Path of how its asynchronous calls are handled.
pub(crate) fn events_path(function: &str, qualifier: &str) -> String {
    dated("2019-09-25", function, "/event-invoke-config", qualifier)
}

/// Path of what is provisioned of a version or an alias.
pub(crate) fn provisioned_path(function: &str, qualifier: &str) -> String {
    dated("2019-09-30", function, "/provisioned-concurrency", qualifier)
}

/// Path of an alias.
pub(crate) fn alias_path(function: &str, alias: &str) -> String {
    path(function, &format!("/aliases/{}", segment(alias)), "")
}

/// Path of a function's tags.
pub(crate) fn tags_path(arn: &str) -> String {
    format!("/2017-03-31/tags/{}", segment(arn))
}

/// Path of a layer's versions.
pub(crate) fn layer_path(name: &str) -> String {
    format!("/2018-10-31/layers/{}/versions", segment(name))
}

/// Path of what a function reserves.
pub(crate) fn reserved_path(function: &str) -> String {
    dated("2017-10-31", function, "/concurrency", "")
}

/// Path that takes tags off a function.
pub(crate) fn untag_path(arn: &str, tags: &[&str]) -> String {
    let keys: Vec<_> = tags.iter().map(|tag| format!("tagKeys={}", segment(tag))).collect();
    format!("{}?{}", tags_path(arn), keys.join("&"))
}
