//! CreateLogGroup and ListTagsForResource: what tools do with a group that they make before its first line.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    describe::{CLASS, CLASSES},
    group, group_arn, read, required_group,
};
use crate::{
    api::{ApiError, App, call::Call, constraints::Constraints},
    logs::LogsError,
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    log_group_name: Option<String>,
    log_group_class: Option<String>,
    kms_key_id: Option<String>,
    tags: Option<BTreeMap<String, Value>>,
    deletion_protection_enabled: Option<bool>,
}

/// CreateLogGroup.
pub(super) async fn create_group(app: &App, call: &Call) -> Result<(), ApiError> {
    let Wanted { log_group_name, log_group_class, kms_key_id, tags, deletion_protection_enabled } =
        read(call)?;
    let mut constraints = Constraints::default();
    required_group(&mut constraints, log_group_name.as_deref());
    constraints.one_of("logGroupClass", log_group_class.as_deref(), &CLASSES);
    constraints.finish()?;
    for (member, is_given) in [
        ("logGroupClass", log_group_class.is_some_and(|class| class != CLASS)),
        ("kmsKeyId", kms_key_id.is_some()),
        ("tags", tags.is_some_and(|tags| !tags.is_empty())),
        ("deletionProtectionEnabled", deletion_protection_enabled == Some(true)),
    ] {
        if is_given {
            return Err(ApiError::unsupported_in_logs(member));
        }
    }
    Ok(app.logs.create_group(group(call, log_group_name)).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tagged {
    resource_arn: Option<String>,
}

/// ListTagsForResource: none, of a group that there is.
pub(super) async fn tags(app: &App, call: &Call) -> Result<Value, ApiError> {
    let Tagged { resource_arn } = read(call)?;
    let mut constraints = Constraints::default();
    constraints.required("resourceArn", resource_arn.as_ref());
    constraints.length("resourceArn", resource_arn.as_deref(), 1..=1011);
    constraints.finish()?;
    let arn = resource_arn.unwrap_or_default();
    let name = arn.strip_prefix(group_arn(&call.caller, "").as_str()).ok_or(LogsError::NoGroup)?.to_owned();
    let found = app.logs.groups(call.caller.region.clone(), move |of| of == name, String::new()).await?;
    if found.is_empty() { Err(LogsError::NoGroup.into()) } else { Ok(json!({ "tags": {} })) }
}
