//! Whether who signed a request may have it: the one place where that is decided, before any operation begins.
//!
//! ```text
//! matched route ─► operation ─► actions on resources ─► the key's policy, the function's ─► on to the operation | 403
//! ```
//!
//! What is decided on is read as operations read it: the route that the router has matched, the path's segments and the query by
//! the same extractors, names by the same parser. A route without an action is nobody's but administrators'.

mod actions;

use std::collections::{BTreeMap, HashMap};

use axum::{
    extract::{FromRequestParts as _, MatchedPath, Path, Query},
    http::{Method, request::Parts},
};
use bytes::Bytes;
use serde::Deserialize;

use self::actions::On;
use super::{
    ApiError, App, layer_names, logs,
    names::{self, Caller},
    operations,
    requests::{self, DeadLetterConfig, DestinationConfig, LoggingConfig},
};
use crate::{
    functions::{layers::LayerId, model},
    identity::{AccessKey, ActionPattern, Grantee, Principal, UrlUse, Verdict, grants},
};

/// What a call of a URL is: AWS asks for both, whichever policy grants which.
const URL_ACTIONS: [&str; 2] = ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"];

/// Where the node's own operations are, and what IAM would call them.
const NODE_PATH: &str = "/tinderbox/";
const NODE_VENDOR: &str = "tinderbox";

/// What is asked: an action, with whose it is, on a resource.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    action: String,
    resource: String,
}

/// Members of bodies that name something else than the path does.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mentioned {
    function_name: Option<String>,
    layers: Option<Vec<String>>,
    tags: Option<BTreeMap<String, String>>,
    dead_letter_config: Option<DeadLetterConfig>,
    destination_config: Option<DestinationConfig>,
    logging_config: Option<LoggingConfig>,
    /// Where code is: CreateFunction's, PublishLayerVersion's, and UpdateFunctionCode's own members.
    code: Option<InBucket>,
    content: Option<InBucket>,
    #[serde(flatten)]
    own: InBucket,
}

/// Code that is in a bucket.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InBucket {
    #[serde(rename = "S3Bucket")]
    bucket: Option<String>,
    #[serde(rename = "S3Key")]
    key: Option<String>,
    #[serde(rename = "S3ObjectVersion")]
    version: Option<String>,
}

/// A request's path and query, as its operation will read them.
struct Names<'a> {
    caller: &'a Caller,
    path: HashMap<String, String>,
    query: Vec<(String, String)>,
}

/// Lets a request pass that its signer may have.
///
/// # Errors
/// AccessDeniedException in IAM's words; UnrecognizedClientException if the key has gone meanwhile.
pub(super) async fn authorize(
    app: &App,
    principal: &Principal,
    caller: &Caller,
    (head, body): (&mut Parts, &Bytes),
) -> Result<(), ApiError> {
    let Principal::Key(id) = principal else { return Ok(()) };
    // What has no route is refused by whatever its name is, and does nothing.
    let Some(route) = head.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        return Ok(());
    };
    let names = Names::of(caller, head).await?;
    let asked = if route.starts_with(NODE_PATH) {
        vec![of_node(&head.method, &route, &names)]
    } else if route == "/" {
        vec![of_logs(caller, head, body)?]
    } else {
        let route = route.trim_end_matches('/');
        let operation = operations::routed(&head.method, route, |name| names.query(name));
        let operation = operation.ok_or_else(ApiError::unknown_operation)?;
        of_operation(operation, &names, body).await?
    };
    let key = app.access_keys.usable(id).ok_or_else(ApiError::unrecognized_client)?;
    asked.iter().try_for_each(|asked| decide(app, &key, asked, UrlUse::None))
}

/// Lets a call of a URL pass: of one that is open, or by who signed it, and says who that is as IAM names them. An administrator is
/// the account.
///
/// # Errors
/// As [`authorize`].
pub(super) fn authorize_url(
    app: &App,
    principal: Option<&Principal>,
    arn: &str,
    auth_type: &'static str,
) -> Result<Option<String>, ApiError> {
    let url = UrlUse::Of(auth_type);
    match principal {
        Some(Principal::Administrator) => Ok(Some(format!("arn:aws:iam::{}:root", app.account_id))),
        Some(Principal::Key(id)) => {
            let key = app.access_keys.usable(id).ok_or_else(ApiError::unrecognized_client)?;
            let asked = |action: &str| Asked { action: action.into(), resource: arn.into() };
            URL_ACTIONS.iter().try_for_each(|action| decide(app, &key, &asked(action), url))?;
            Ok(Some(key.user_arn(&app.account_id)))
        }
        None => match URL_ACTIONS.iter().find(|action| !granted(app, Grantee::Anybody, action, arn, url)) {
            Some(action) => Err(ApiError::access_denied("anonymous", action, arn)),
            None => Ok(None),
        },
    }
}

/// Whether a pattern is of any action that there is. One that is of none was meant to be of another.
pub(super) fn is_of_an_action(pattern: &ActionPattern) -> bool {
    !pattern.as_str().starts_with("lambda:")
        || pattern.matches("lambda:InvokeFunctionUrl")
        || actions::ACTIONS.iter().any(|(_, action, _)| pattern.matches(&format!("lambda:{action}")))
}

/// IAM's order: a denial, the key's own policy, the function's.
fn decide(app: &App, key: &AccessKey, asked: &Asked, url: UrlUse) -> Result<(), ApiError> {
    let Asked { action, resource } = asked;
    let user = key.user_arn(&app.account_id);
    match key.policy.judge(action, resource) {
        Verdict::Allowed => Ok(()),
        Verdict::Denied => Err(ApiError::explicitly_denied(&user, action, resource)),
        Verdict::Unmentioned if granted(app, Grantee::User(&user), action, resource, url) => Ok(()),
        Verdict::Unmentioned => Err(ApiError::access_denied(&user, action, resource)),
    }
}

/// Whether the policy of the function, version or alias of that ARN grants it. Nothing but actions of Lambda's: who may change such a
/// policy is no operator of the node.
fn granted(app: &App, to: Grantee<'_>, action: &str, arn: &str, url: UrlUse) -> bool {
    let function = names::function_of(&app.account_id, arn).filter(|_| action.starts_with("lambda:"));
    let Some((id, qualifier)) = function else { return false };
    let kept = app.functions.view().attached(&id, qualifier.as_deref().unwrap_or(model::LATEST));
    let policy = kept.as_ref().and_then(|kept| kept.attached.policy.as_ref());
    policy.is_some_and(|policy| grants(policy, to, action, arn, url))
}

/// `tinderbox:GetChunks` of `GET /tinderbox/chunks`, `tinderbox:PutKeysPolicy` of `PUT /tinderbox/keys/{AccessKeyId}/policy`: one rule
/// for all, so that no operation of the node's can be forgotten.
fn of_node(method: &Method, route: &str, names: &Names<'_>) -> Asked {
    let capital = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or_default();
        first.to_ascii_uppercase() + rest
    };
    let method = if method == Method::HEAD { "get".to_owned() } else { method.as_str().to_ascii_lowercase() };
    let words = route.split('/').skip(2).filter(|segment| !segment.starts_with('{') && !segment.is_empty());
    let name: String = std::iter::once(method.as_str()).chain(words).map(capital).collect();
    let named = names.path.get("FunctionName").map(|name| names::arn_of_any(names.caller, name, None));
    Asked { action: format!("{NODE_VENDOR}:{name}"), resource: named.unwrap_or_else(|| "*".into()) }
}

/// CloudWatch Logs' operations have their name in a header and what they are on in the body.
fn of_logs(caller: &Caller, head: &Parts, body: &Bytes) -> Result<Asked, ApiError> {
    let target = head.headers.get(logs::TARGET).and_then(|target| target.to_str().ok());
    let (action, resource) = logs::action_and_resource(caller, target.unwrap_or_default(), body)?;
    Ok(Asked { action, resource })
}

/// What an operation is, and whatever else it does by what its body names.
async fn of_operation(operation: &str, names: &Names<'_>, body: &Bytes) -> Result<Vec<Asked>, ApiError> {
    let (action, on) = actions::of(operation).ok_or_else(ApiError::unknown_operation)?;
    let mentions = [
        "CreateFunction",
        "UpdateFunctionCode",
        "PublishLayerVersion",
        "UpdateFunctionConfiguration",
        "PutFunctionEventInvokeConfig",
        "UpdateFunctionEventInvokeConfig",
    ];
    let mentioned: Mentioned = if mentions.contains(&operation) {
        requests::parse_upload(body.clone()).await?
    } else {
        Mentioned::default()
    };
    let resource = names.resource(on, &mentioned)?;
    let mut asked = vec![Asked { action: format!("lambda:{action}"), resource: resource.clone() }];
    asked.extend(names.beside(&resource, &mentioned)?);
    Ok(asked)
}

impl<'a> Names<'a> {
    async fn of(caller: &'a Caller, head: &mut Parts) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(head, &()).await;
        let Path(path) = path.map_err(|_| ApiError::invalid_content("The request's path is not valid."))?;
        let query = Query::from_request_parts(head, &()).await;
        let Query(query) =
            query.map_err(|_| ApiError::invalid_content("The request's query is not valid."))?;
        Ok(Self { caller, path, query })
    }

    fn path(&self, name: &str) -> &str {
        self.path.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The last one of that name, as `Call` has it.
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().rfind(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// On what an operation is, as an ARN.
    fn resource(&self, on: On, mentioned: &Mentioned) -> Result<String, ApiError> {
        let function = |name: &str| names::arn_of_any(self.caller, name, None);
        Ok(match on {
            On::Account => "*".into(),
            On::Function => function(self.path("FunctionName")),
            On::Qualified => names::arn_with(self.caller, self.path("FunctionName"), self.query("Qualifier")),
            On::QualifiedByPath => names::arn_with(self.caller, self.path("FunctionName"), None),
            On::NewFunction => function(mentioned.function_name.as_deref().unwrap_or_default()),
            On::Layer => layer_names::arn(&self.layer()?, &self.caller.account_id),
            On::LayerVersion => {
                let number = layer_names::number(self.path("VersionNumber"))?;
                layer_names::version_arn(&self.layer()?, &self.caller.account_id, number)
            }
            On::LayerVersionByArn => {
                let (id, number) = layer_names::resolve_arn(self.caller, self.query("Arn"))?;
                layer_names::version_arn(&id, &self.caller.account_id, number)
            }
            On::Tagged => {
                let arn = self.path("Resource");
                if arn.split(':').nth(5) == Some("function") { function(arn) } else { arn.into() }
            }
            On::Named(segment) => self.path(segment).into(),
        })
    }

    fn layer(&self) -> Result<LayerId, ApiError> {
        layer_names::resolve(self.caller, "GetLayerVersion", self.path("LayerName"))
    }

    /// What a function's settings have the node do for it, now or later: who may not do a thing cannot have it done. AWS asks for the
    /// first three as well; it sees to destinations and logs by the function's role, and a node has no roles.
    fn beside(&self, resource: &str, mentioned: &Mentioned) -> Result<Vec<Asked>, ApiError> {
        let mut asked = Vec::new();
        for arn in mentioned.layers.iter().flatten() {
            let (id, number) = layer_names::resolve_arn(self.caller, Some(arn))?;
            let resource = layer_names::version_arn(&id, &self.caller.account_id, number);
            asked.push(Asked { action: "lambda:GetLayerVersion".into(), resource });
        }
        if mentioned.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
            asked.push(Asked { action: "lambda:TagResource".into(), resource: resource.into() });
        }
        for source in mentioned.code.iter().chain(&mentioned.content).chain([&mentioned.own]) {
            let (Some(bucket), Some(key)) = (&source.bucket, &source.key) else { continue };
            let action = if source.version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
            asked.push(Asked { action: action.into(), resource: format!("arn:aws:s3:::{bucket}/{key}") });
        }
        // Its own group is the function's without asking: nobody else's has that name.
        let own = resource.rsplit_once(":function:").map(|(_, name)| format!("/aws/lambda/{name}"));
        let group = mentioned.logging_config.as_ref().and_then(|config| config.log_group.as_deref());
        if let Some(group) = group.filter(|group| Some(*group) != own.as_deref()) {
            let resource = logs::group_resource(self.caller, group);
            asked.push(Asked { action: "logs:PutLogEvents".into(), resource });
        }
        let destinations = mentioned.destination_config.as_ref();
        let on_success = destinations.and_then(|config| config.on_success.as_ref()?.destination.as_deref());
        let on_failure = destinations.and_then(|config| config.on_failure.as_ref()?.destination.as_deref());
        let dead = mentioned.dead_letter_config.as_ref().and_then(|config| config.target_arn.as_deref());
        for arn in [on_success, on_failure, dead].into_iter().flatten().filter(|arn| !arn.is_empty()) {
            let (action, resource) = match arn.split(':').nth(2) {
                Some("sqs") => ("sqs:SendMessage", arn.into()),
                Some("sns") => ("sns:Publish", arn.into()),
                Some("s3") => ("s3:PutObject", format!("{arn}/*")),
                _ => ("lambda:InvokeFunction", names::arn_with(self.caller, arn, None)),
            };
            asked.push(Asked { action: action.into(), resource });
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_action() {
        let known: Vec<_> = operations::names().collect();
        let listed: Vec<_> = actions::ACTIONS.iter().map(|(operation, ..)| *operation).collect();
        assert_eq!(listed, known);
    }

    #[test]
    fn every_operation_of_the_nodes_has_an_action_by_its_route() {
        let caller = Caller { account_id: "000000000000".into(), region: "us-east-1".into() };
        let check = |method: Method, route: &str, path: &[(&str, &str)]| {
            let path = path.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let Asked { action, resource } =
                of_node(&method, route, &Names { caller: &caller, path, query: Vec::new() });
            format!("{action} {resource}")
        };
        assert_eq!(check(Method::GET, "/tinderbox/node", &[]), "tinderbox:GetNode *");
        assert_eq!(check(Method::HEAD, "/tinderbox/node", &[]), "tinderbox:GetNode *");
        assert_eq!(check(Method::POST, "/tinderbox/chunks/verify", &[]), "tinderbox:PostChunksVerify *");
        assert_eq!(
            check(Method::PUT, "/tinderbox/egress/{FunctionName}", &[("FunctionName", "f:1")]),
            "tinderbox:PutEgress arn:aws:lambda:us-east-1:000000000000:function:f"
        );
    }
}
