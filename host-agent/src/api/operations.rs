//! Every operation of Lambda's: its method, its path, and what serves it here. Routes, refusals and the README's list come from
//! this one table.
//!
//! A path of AWS's that nobody serves would look like a mistyped one; a client is better told what is missing. An operation
//! that nothing serves is refused by its name: status 501, `NotImplementedException`, and never a success.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{Method, Uri},
    routing::{MethodFilter, MethodRouter, on},
};

use super::{
    ApiError, App, aliases, code_signing, concurrency, event_invokes, functions, invocations, layer_policies,
    layers, permissions, provisioned, recursion, runtime_management, streaming, tags, url_configs, versions,
};

/// An operation of AWS's service model.
pub(super) struct Operation {
    /// Its name.
    name: &'static str,
    /// Its method.
    method: &'static str,
    /// Its path; with the parameter that tells it from another operation, if it takes one.
    path: &'static str,
    /// What serves it; `None`: this node does not.
    serve: Option<fn() -> MethodRouter<Arc<App>>>,
}

macro_rules! operations {
    (@serve $method:ident) => { None };
    (@serve $method:ident $handler:path) => { Some(|| on(MethodFilter::$method, $handler)) };
    ($($name:literal $method:ident $path:literal $(=> $handler:path)?;)*) => {
        const OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            method: stringify!($method),
            path: $path,
            serve: operations!(@serve $method $($handler)?),
        }),*];
    };
}

// In the order of AWS's model, which is the alphabet's.
operations! {
    "AddLayerVersionPermission" POST "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy" => layer_policies::add;
    "AddPermission" POST "/2015-03-31/functions/{FunctionName}/policy" => permissions::add;
    "CheckpointDurableExecution" POST "/2025-12-01/durable-executions/{DurableExecutionArn}/checkpoint";
    "CreateAlias" POST "/2015-03-31/functions/{FunctionName}/aliases" => aliases::create;
    "CreateCapacityProvider" POST "/2025-11-30/capacity-providers";
    "CreateCodeSigningConfig" POST "/2020-04-22/code-signing-configs";
    "CreateEventSourceMapping" POST "/2015-03-31/event-source-mappings";
    "CreateFunction" POST "/2015-03-31/functions" => functions::create;
    "CreateFunctionUrlConfig" POST "/2021-10-31/functions/{FunctionName}/url" => url_configs::create;
    "DeleteAlias" DELETE "/2015-03-31/functions/{FunctionName}/aliases/{Name}" => aliases::delete;
    "DeleteCapacityProvider" DELETE "/2025-11-30/capacity-providers/{CapacityProviderName}";
    "DeleteCodeSigningConfig" DELETE "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}";
    "DeleteDurableExecution" DELETE "/2025-12-01/durable-executions/{DurableExecutionArn}";
    "DeleteEventSourceMapping" DELETE "/2015-03-31/event-source-mappings/{UUID}";
    "DeleteFunction" DELETE "/2015-03-31/functions/{FunctionName}" => functions::delete;
    "DeleteFunctionCodeSigningConfig" DELETE "/2020-06-30/functions/{FunctionName}/code-signing-config";
    "DeleteFunctionConcurrency" DELETE "/2017-10-31/functions/{FunctionName}/concurrency" => concurrency::delete;
    "DeleteFunctionEventInvokeConfig" DELETE "/2019-09-25/functions/{FunctionName}/event-invoke-config" => event_invokes::delete;
    "DeleteFunctionUrlConfig" DELETE "/2021-10-31/functions/{FunctionName}/url" => url_configs::delete;
    "DeleteLayerVersion" DELETE "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}" => layers::delete;
    "DeleteProvisionedConcurrencyConfig" DELETE "/2019-09-30/functions/{FunctionName}/provisioned-concurrency" => provisioned::delete;
    "DeleteResourcePolicy" DELETE "/2026-07-09/resource-policy/{ResourceArn}";
    "GetAccountSettings" GET "/2016-08-19/account-settings" => functions::account_settings;
    "GetAlias" GET "/2015-03-31/functions/{FunctionName}/aliases/{Name}" => aliases::get;
    "GetCapacityProvider" GET "/2025-11-30/capacity-providers/{CapacityProviderName}";
    "GetCodeSigningConfig" GET "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}" => code_signing::none;
    "GetDurableExecution" GET "/2025-12-01/durable-executions/{DurableExecutionArn}";
    "GetDurableExecutionHistory" GET "/2025-12-01/durable-executions/{DurableExecutionArn}/history";
    "GetDurableExecutionState" GET "/2025-12-01/durable-executions/{DurableExecutionArn}/state";
    "GetEventSourceMapping" GET "/2015-03-31/event-source-mappings/{UUID}";
    "GetFunction" GET "/2015-03-31/functions/{FunctionName}" => functions::get;
    "GetFunctionCodeSigningConfig" GET "/2020-06-30/functions/{FunctionName}/code-signing-config" => code_signing::get_of_function;
    "GetFunctionConcurrency" GET "/2019-09-30/functions/{FunctionName}/concurrency" => concurrency::get;
    "GetFunctionConfiguration" GET "/2015-03-31/functions/{FunctionName}/configuration" => functions::get_configuration;
    "GetFunctionEventInvokeConfig" GET "/2019-09-25/functions/{FunctionName}/event-invoke-config" => event_invokes::get;
    "GetFunctionRecursionConfig" GET "/2024-08-31/functions/{FunctionName}/recursion-config" => recursion::get;
    "GetFunctionScalingConfig" GET "/2025-11-30/functions/{FunctionName}/function-scaling-config";
    "GetFunctionUrlConfig" GET "/2021-10-31/functions/{FunctionName}/url" => url_configs::get;
    "GetLayerVersion" GET "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}" => layers::get;
    "GetLayerVersionByArn" GET "/2018-10-31/layers?find=LayerVersion" => layers::find;
    "GetLayerVersionPolicy" GET "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy" => layer_policies::get;
    "GetPolicy" GET "/2015-03-31/functions/{FunctionName}/policy" => permissions::get;
    "GetProvisionedConcurrencyConfig" GET "/2019-09-30/functions/{FunctionName}/provisioned-concurrency" => provisioned::get;
    "GetResourcePolicy" GET "/2026-07-09/resource-policy/{ResourceArn}";
    "GetRuntimeManagementConfig" GET "/2021-07-20/functions/{FunctionName}/runtime-management-config" => runtime_management::get;
    "Invoke" POST "/2015-03-31/functions/{FunctionName}/invocations" => invocations::invoke;
    "InvokeAsync" POST "/2014-11-13/functions/{FunctionName}/invoke-async" => invocations::invoke_async;
    "InvokeWithResponseStream" POST "/2021-11-15/functions/{FunctionName}/response-streaming-invocations" => streaming::invoke;
    "ListAliases" GET "/2015-03-31/functions/{FunctionName}/aliases" => aliases::list;
    "ListCapacityProviders" GET "/2025-11-30/capacity-providers";
    "ListCodeSigningConfigs" GET "/2020-04-22/code-signing-configs" => code_signing::list;
    "ListDurableExecutionsByFunction" GET "/2025-12-01/functions/{FunctionName}/durable-executions";
    "ListEventSourceMappings" GET "/2015-03-31/event-source-mappings";
    "ListFunctionEventInvokeConfigs" GET "/2019-09-25/functions/{FunctionName}/event-invoke-config/list" => event_invokes::list;
    "ListFunctionUrlConfigs" GET "/2021-10-31/functions/{FunctionName}/urls" => url_configs::list;
    "ListFunctionVersionsByCapacityProvider" GET "/2025-11-30/capacity-providers/{CapacityProviderName}/function-versions";
    "ListFunctions" GET "/2015-03-31/functions" => functions::list;
    "ListFunctionsByCodeSigningConfig" GET "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}/functions" => code_signing::none;
    "ListLayerVersions" GET "/2018-10-31/layers/{LayerName}/versions" => layers::list_versions;
    "ListLayers" GET "/2018-10-31/layers" => layers::find;
    "ListProvisionedConcurrencyConfigs" GET "/2019-09-30/functions/{FunctionName}/provisioned-concurrency?List=ALL" => provisioned::get;
    "ListTags" GET "/2017-03-31/tags/{Resource}" => tags::list;
    "ListVersionsByFunction" GET "/2015-03-31/functions/{FunctionName}/versions" => versions::list;
    "PauseDurableExecution" POST "/2025-12-01/durable-executions/{DurableExecutionArn}/pause";
    "PublishLayerVersion" POST "/2018-10-31/layers/{LayerName}/versions" => layers::publish;
    "PublishVersion" POST "/2015-03-31/functions/{FunctionName}/versions" => versions::publish;
    "PutFunctionCodeSigningConfig" PUT "/2020-06-30/functions/{FunctionName}/code-signing-config";
    "PutFunctionConcurrency" PUT "/2017-10-31/functions/{FunctionName}/concurrency" => concurrency::put;
    "PutFunctionEventInvokeConfig" PUT "/2019-09-25/functions/{FunctionName}/event-invoke-config" => event_invokes::put;
    "PutFunctionRecursionConfig" PUT "/2024-08-31/functions/{FunctionName}/recursion-config" => recursion::put;
    "PutFunctionScalingConfig" PUT "/2025-11-30/functions/{FunctionName}/function-scaling-config";
    "PutProvisionedConcurrencyConfig" PUT "/2019-09-30/functions/{FunctionName}/provisioned-concurrency" => provisioned::put;
    "PutResourcePolicy" PUT "/2026-07-09/resource-policy/{ResourceArn}";
    "PutRuntimeManagementConfig" PUT "/2021-07-20/functions/{FunctionName}/runtime-management-config" => runtime_management::put;
    "RemoveLayerVersionPermission" DELETE "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy/{StatementId}" => layer_policies::remove;
    "RemovePermission" DELETE "/2015-03-31/functions/{FunctionName}/policy/{StatementId}" => permissions::remove;
    "ResumeDurableExecution" POST "/2025-12-01/durable-executions/{DurableExecutionArn}/resume";
    "SendDurableExecutionCallbackFailure" POST "/2025-12-01/durable-execution-callbacks/{CallbackId}/fail";
    "SendDurableExecutionCallbackHeartbeat" POST "/2025-12-01/durable-execution-callbacks/{CallbackId}/heartbeat";
    "SendDurableExecutionCallbackSuccess" POST "/2025-12-01/durable-execution-callbacks/{CallbackId}/succeed";
    "StopDurableExecution" POST "/2025-12-01/durable-executions/{DurableExecutionArn}/stop";
    "TagResource" POST "/2017-03-31/tags/{Resource}" => tags::tag;
    "UntagResource" DELETE "/2017-03-31/tags/{Resource}" => tags::untag;
    "UpdateAlias" PUT "/2015-03-31/functions/{FunctionName}/aliases/{Name}" => aliases::update;
    "UpdateCapacityProvider" PUT "/2025-11-30/capacity-providers/{CapacityProviderName}";
    "UpdateCodeSigningConfig" PUT "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}";
    "UpdateEventSourceMapping" PUT "/2015-03-31/event-source-mappings/{UUID}";
    "UpdateFunctionCode" PUT "/2015-03-31/functions/{FunctionName}/code" => functions::update_code;
    "UpdateFunctionConfiguration" PUT "/2015-03-31/functions/{FunctionName}/configuration" => functions::update_configuration;
    "UpdateFunctionEventInvokeConfig" POST "/2019-09-25/functions/{FunctionName}/event-invoke-config" => event_invokes::update;
    "UpdateFunctionUrlConfig" PUT "/2021-10-31/functions/{FunctionName}/url" => url_configs::update;
}

/// Routes of all operations that are served. AWS's SDKs end some paths in a slash. Two that only a parameter tells apart have one
/// handler.
pub(super) fn routes() -> Router<Arc<App>> {
    let mut router = Router::new();
    let mut routed = HashSet::new();
    for (operation, serve) in OPERATIONS.iter().filter_map(|operation| Some((operation, operation.serve?))) {
        let (path, _) = operation.path.split_once('?').unwrap_or((operation.path, ""));
        if !routed.insert((operation.method, path)) {
            continue;
        }
        router = router.route(path, serve());
        if !path.ends_with('}') {
            router = router.route(&format!("{path}/"), serve());
        }
    }
    router
}

/// Answers whatever has no route.
pub(super) async fn refuse(request: Request) -> ApiError {
    match find(request.method(), request.uri()) {
        Some(operation) if operation.serve.is_none() => ApiError::not_implemented(operation.name),
        // Not quite the path of one that is served, either.
        _ => ApiError::unknown_operation(),
    }
}

/// The name of the operation that a request is which the router has matched to that path; `last`: the last parameter of a name. It is
/// told as its handler tells it.
pub(super) fn routed<'a>(
    method: &Method,
    path: &str,
    last: impl Fn(&str) -> Option<&'a str>,
) -> Option<&'static str> {
    // The router has `GET` answer `HEAD`.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let here = OPERATIONS.iter().filter(|operation| operation.method == method.as_str());
    let mut here: Vec<_> = here
        .map(|operation| (operation, operation.path.split_once('?').unwrap_or((operation.path, ""))))
        .filter(|(_, (own, _))| *own == path)
        .collect();
    here.sort_by_key(|(_, (_, parameter))| parameter.is_empty());
    let is_meant = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) => last(name) == Some(value),
        None => true,
    };
    here.iter().find(|(_, (_, parameter))| is_meant(parameter)).map(|(operation, _)| operation.name)
}

/// The names of all operations.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|operation| operation.name)
}

/// The operation that a request names. One that a parameter tells from another comes first.
fn find(method: &Method, uri: &Uri) -> Option<&'static Operation> {
    let mut named: Vec<_> = OPERATIONS
        .iter()
        .filter(|operation| operation.method == method.as_str() && matches(operation.path, uri))
        .collect();
    named.sort_by_key(|operation| !operation.path.contains('?'));
    named.first().copied()
}

/// Whether a URI has a pattern's segments (`{…}` stands for any one) and the parameter that it may end in.
fn matches(pattern: &str, uri: &Uri) -> bool {
    let (pattern, parameter) = pattern.split_once('?').unwrap_or((pattern, ""));
    if !parameter.is_empty() && !uri.query().unwrap_or_default().split('&').any(|given| given == parameter) {
        return false;
    }
    let mut path = uri.path().trim_matches('/').split('/');
    for wanted in pattern.trim_matches('/').split('/') {
        match path.next() {
            Some(segment) if wanted == segment || (wanted.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
    path.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands before and after the README's list.
    const BEGIN: &str =
        "<!-- operations: written by `TINDERBOX_WRITE_README=1 cargo test -p host-agent operations` -->\n";
    const END: &str = "<!-- end of operations -->";

    #[test]
    fn every_operation_is_known_by_its_own_path() {
        assert_eq!(OPERATIONS.len(), 91);
        assert!(OPERATIONS.is_sorted_by_key(|operation| operation.name));
        for operation in OPERATIONS {
            let fill = |segment: &str| {
                if segment.starts_with('{') { "arn%3Aaws%3Ax".to_owned() } else { segment.to_owned() }
            };
            let path: Vec<_> = operation.path.split('/').map(fill).collect();
            let uri = path.join("/").parse().unwrap();
            assert_eq!(find(&operation.method.parse().unwrap(), &uri).unwrap().name, operation.name);
        }
        assert!(find(&Method::GET, &"/2015-03-31/nosuchthing".parse().unwrap()).is_none());
        assert!(find(&Method::PATCH, &"/2015-03-31/functions/".parse().unwrap()).is_none());
    }

    #[test]
    fn the_readme_lists_what_is_served() {
        let row = |operation: &Operation| {
            let served = if operation.serve.is_some() { "yes" } else { "refused" };
            format!("| {} | `{} {}` | {served} |\n", operation.name, operation.method, operation.path)
        };
        let count = OPERATIONS.iter().filter(|operation| operation.serve.is_some()).count();
        let rows: String = OPERATIONS.iter().map(row).collect();
        let list = format!(
            "\n{count} of Lambda's {} operations are served.\n\n| operation | request | served |\n|---|---|---|\n{rows}\n",
            OPERATIONS.len()
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (before, rest) = readme.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("TINDERBOX_WRITE_README").is_some() {
            std::fs::write(path, [before, BEGIN, &list, END, after].concat()).unwrap();
        } else {
            assert_eq!(found, list, "the README's list of operations is not the code's");
        }
    }
}
