//! What the node is to have: resources whose properties are evaluated, as typed data in the words of Lambda's API.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{
    assets::Assets,
    names,
    package::Source,
    properties::{Properties, members, tags, text_of, whole_of},
    scope::{Attributes, Place, REF},
    table,
    template::{Members, Resource, shortened},
};

/// Longest name of a function.
const MAX_FUNCTION_NAME: usize = 64;

/// Longest name of a layer.
const MAX_LAYER_NAME: usize = 140;

/// Longest name of a queue.
const MAX_QUEUE_NAME: usize = 80;

/// Where a resource is deployed.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) assets: &'a Assets,
    /// Functions of the template, by their names on the node, with their logical ids.
    pub(crate) functions: &'a BTreeMap<String, String>,
    /// Whether a version is published whenever its function changed.
    pub(crate) is_follower: bool,
}

/// One of the things that a template says are to be there.
#[derive(Debug)]
pub(crate) enum Desired {
    Function(Function),
    Layer(Layer),
    Version(Version),
    Alias(Alias),
    Url(Url),
    Events(Events),
    Permission(Permission),
    Retention {
        group: String,
        days: Option<i64>,
    },
    Queue {
        name: String,
    },
    /// Nothing is made of it.
    Role {
        name: String,
    },
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) code: Code,
    /// Members of CreateFunction and UpdateFunctionConfiguration, with those that have a default.
    pub(crate) settings: Members,
    pub(crate) reserved: Option<i64>,
    pub(crate) tags: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) enum Code {
    Zip(Source),
    Image(String),
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) content: Source,
    /// What is said of it.
    pub(crate) label: Members,
}

#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) function: String,
    pub(crate) description: Option<String>,
    pub(crate) provisioned: Option<i64>,
    pub(crate) is_follower: bool,
}

#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) function: String,
    pub(crate) name: String,
    /// FunctionVersion, Description and RoutingConfig.
    pub(crate) settings: Members,
    pub(crate) provisioned: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Url {
    pub(crate) function: String,
    /// An alias, or nothing.
    pub(crate) qualifier: String,
    /// AuthType, InvokeMode and Cors.
    pub(crate) settings: Members,
}

#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) function: String,
    pub(crate) qualifier: String,
    pub(crate) settings: Members,
}

#[derive(Debug)]
pub(crate) struct Permission {
    pub(crate) function: String,
    pub(crate) qualifier: String,
    pub(crate) sid: String,
    pub(crate) settings: Members,
}

/// Reads a resource whose properties are evaluated.
///
/// # Errors
/// A property that is missing, is not what its type says, or that a node cannot be given.
pub(crate) fn read(
    id: &str,
    kind: &str,
    properties: Members,
    context: Context<'_>,
) -> Result<Desired, String> {
    let mut properties = Properties { kind, members: properties };
    for (name, value) in &properties.members {
        table::members_of(kind, name, value)?;
    }
    let named = |given: Option<String>, longest| {
        given.unwrap_or_else(|| names::physical(context.place.stack, id, longest))
    };
    Ok(match kind {
        "AWS::Lambda::Function" => {
            let name = named(properties.text("FunctionName")?, MAX_FUNCTION_NAME);
            Desired::Function(function(id, name, properties, context)?)
        }
        "AWS::Lambda::LayerVersion" => {
            let name = named(properties.text("LayerName")?, MAX_LAYER_NAME);
            let content = properties.required("Content")?;
            let content = place_of(&content, context.assets)?;
            let label = [
                ("CompatibleArchitectures", json!([])),
                ("CompatibleRuntimes", json!([])),
                ("Description", json!("")),
                ("LicenseInfo", json!("")),
            ];
            let label =
                label.map(|(name, default)| (name.to_owned(), properties.take(name).unwrap_or(default)));
            Desired::Layer(Layer { name, content, label: label.into_iter().collect() })
        }
        "AWS::Lambda::Version" => Desired::Version(Version {
            function: properties.function("FunctionName", context)?.0,
            description: properties.text("Description")?,
            provisioned: properties.provisioned()?,
            is_follower: context.is_follower,
        }),
        "AWS::Lambda::Alias" => Desired::Alias(alias(properties, context)?),
        "AWS::Lambda::Url" => {
            let (function, qualifier) = properties.qualified("TargetFunctionArn", context)?;
            let cors = properties.take("Cors").unwrap_or_else(|| json!({}));
            let mode = properties.take("InvokeMode").unwrap_or_else(|| "BUFFERED".into());
            let auth = properties.required("AuthType")?;
            let settings = members([("AuthType", auth), ("InvokeMode", mode), ("Cors", cors)]);
            Desired::Url(Url { function, qualifier, settings })
        }
        "AWS::Lambda::EventInvokeConfig" => {
            let (function, qualifier) = properties.qualified("FunctionName", context)?;
            properties.whole("MaximumEventAgeInSeconds")?;
            properties.whole("MaximumRetryAttempts")?;
            Desired::Events(Events { function, qualifier, settings: properties.members })
        }
        "AWS::Lambda::Permission" => {
            let (function, qualifier) = properties.function("FunctionName", context)?;
            let (mut settings, content) = (properties.members.clone(), Value::Object(properties.members));
            let sid = names::statement(context.place.stack, id, &format!("{qualifier}{content}"));
            settings.insert("StatementId".to_owned(), sid.as_str().into());
            Desired::Permission(Permission { function, qualifier, sid, settings })
        }
        "AWS::Logs::LogGroup" => Desired::Retention {
            group: named(properties.text("LogGroupName")?, 512),
            days: properties.whole("RetentionInDays")?,
        },
        "AWS::SQS::Queue" => Desired::Queue { name: named(properties.text("QueueName")?, MAX_QUEUE_NAME) },
        "AWS::IAM::Role" => Desired::Role { name: named(None, MAX_FUNCTION_NAME) },
        _ => Desired::Nothing,
    })
}

fn function(
    id: &str,
    name: String,
    mut properties: Properties<'_>,
    context: Context<'_>,
) -> Result<Function, String> {
    let architectures = properties.take("Architectures");
    if architectures.is_some_and(|given| given != json!(["x86_64"])) {
        return Err("Architectures: a node is x86_64".to_owned());
    }
    let code = properties.required("Code")?;
    let is_image = match properties.text("PackageType")?.as_deref() {
        None => code.get("ImageUri").is_some(),
        Some("Image") => true,
        Some("Zip") => false,
        Some(other) => return Err(format!("PackageType {other} is not known")),
    };
    let code = match code.get("ImageUri").and_then(Value::as_str) {
        Some(uri) if is_image => Code::Image(uri.to_owned()),
        None if !is_image => Code::Zip(code_of(&code, properties.peek("Runtime"), context.assets)?),
        _ => return Err("an image is named by ImageUri, and nothing else is".to_owned()),
    };
    let reserved = properties.whole("ReservedConcurrentExecutions")?;
    properties.take("ReservedConcurrentExecutions");
    let mut tags = tags(properties.take("Tags"))?;
    tags.insert(names::STACK.to_owned(), context.place.stack.to_owned());
    tags.insert(names::LOGICAL_ID.to_owned(), names::tag_value(id).to_owned());
    properties.whole("MemorySize")?;
    properties.whole("Timeout")?;
    let logs = json!({ "LogFormat": "Text", "LogGroup": format!("/aws/lambda/{name}") });
    let mut defaults = members([
        ("DeadLetterConfig", json!({ "TargetArn": "" })),
        ("Description", json!("")),
        ("Environment", json!({ "Variables": {} })),
        ("EphemeralStorage", json!({ "Size": 512 })),
        ("LoggingConfig", logs),
        ("MemorySize", json!(128)),
        ("SnapStart", json!({ "ApplyOn": "None" })),
        ("Timeout", json!(3)),
        ("TracingConfig", json!({ "Mode": "PassThrough" })),
    ]);
    if is_image {
        let instead = json!({ "Command": [], "EntryPoint": [], "WorkingDirectory": "" });
        defaults.insert("ImageConfig".to_owned(), instead);
    } else {
        defaults.insert("Layers".to_owned(), json!([]));
        for name in ["Handler", "Runtime"] {
            properties.peek(name).ok_or_else(|| format!("{name} is missing"))?;
        }
    }
    let settings = filled(defaults, properties.members)?;
    Ok(Function { name, code, settings, reserved, tags })
}

/// Settings over defaults, structure by structure; what a structure has no default of it keeps.
fn filled(defaults: Members, given: Members) -> Result<Members, String> {
    let mut settings = defaults;
    for (name, value) in given {
        match (settings.get_mut(&name), value) {
            (Some(Value::Object(default)), Value::Object(given)) => default.extend(given),
            (Some(Value::Object(_)), other) => {
                return Err(format!("{name} {} is no structure", shortened(&other)));
            }
            (_, value) => drop(settings.insert(name, value)),
        }
    }
    if let Some(variables) = settings.get_mut("Environment").and_then(|all| all.get_mut("Variables")) {
        let variables = variables.as_object_mut().ok_or("Environment.Variables is no mapping")?;
        for (name, value) in variables.iter_mut() {
            *value = text_of(value).ok_or_else(|| format!("the variable {name} is no text"))?.into();
        }
    }
    if let Some(logging) = settings.get_mut("LoggingConfig").filter(|logging| logging["LogFormat"] == "JSON")
    {
        for level in ["ApplicationLogLevel", "SystemLogLevel"] {
            if logging.get(level).is_none() {
                logging[level] = "INFO".into();
            }
        }
    }
    if let Some(size) = settings.get_mut("EphemeralStorage").and_then(|storage| storage.get_mut("Size")) {
        *size = whole_of(size).ok_or("EphemeralStorage.Size is no whole number")?.into();
    }
    Ok(settings)
}

fn alias(mut properties: Properties<'_>, context: Context<'_>) -> Result<Alias, String> {
    let function = properties.function("FunctionName", context)?.0;
    let name = properties.text("Name")?.ok_or("Name is missing")?;
    if name.len() > names::MAX_ALIAS_LEN {
        return Err(format!("Name: {} characters are more than {}", name.len(), names::MAX_ALIAS_LEN));
    }
    let version = properties.text("FunctionVersion")?.ok_or("FunctionVersion is missing")?;
    let mut weights = Members::new();
    if let Some(routing) = properties.take("RoutingConfig") {
        for weight in routing["AdditionalVersionWeights"].as_array().into_iter().flatten() {
            let version =
                text_of(&weight["FunctionVersion"]).ok_or("RoutingConfig: a FunctionVersion is missing")?;
            weights.insert(version, weight["FunctionWeight"].clone());
        }
    }
    let description = properties.text("Description")?.unwrap_or_default();
    let settings = members([
        ("FunctionVersion", version.into()),
        ("Description", description.into()),
        ("RoutingConfig", json!({ "AdditionalVersionWeights": weights })),
    ]);
    Ok(Alias { function, name, settings, provisioned: properties.provisioned()? })
}

/// What code or content is made of, when it is no image.
fn code_of(code: &Value, runtime: Option<&Value>, assets: &Assets) -> Result<Source, String> {
    let Some(text) = code.get("ZipFile") else { return place_of(code, assets) };
    let text = text.as_str().ok_or("Code.ZipFile is no text")?.to_owned();
    let runtime = runtime.and_then(Value::as_str).unwrap_or_default();
    let name = match runtime {
        _ if runtime.starts_with("python") => "index.py",
        _ if runtime.starts_with("nodejs") => "index.js",
        other => return Err(format!("code in a template is for Python and Node.js, not `{other}`")),
    };
    Ok(Source::Inline { name, text })
}

fn place_of(code: &Value, assets: &Assets) -> Result<Source, String> {
    if let Some(path) = code.as_str() {
        return Ok(Source::Path(assets.folder().join(Path::new(path))));
    }
    let (Some(bucket), Some(key)) = (code["S3Bucket"].as_str(), code["S3Key"].as_str()) else {
        return Err(format!("code {} is neither a local path nor an asset", shortened(code)));
    };
    let path = assets.find(key)?;
    path.map(Source::Path).ok_or_else(|| format!("code in a bucket is not fetched: s3://{bucket}/{key}"))
}

impl Desired {
    /// What is known of it before it is there: what `Ref` and `Fn::GetAtt` give. The rest `apply` finds out.
    pub(crate) fn attributes(&self, id: &str, place: Place<'_>, known: &mut Attributes) {
        let Place { region, account, .. } = place;
        let mut put = |attribute: &str, value: String| {
            known.insert((id.to_owned(), attribute.to_owned()), value.into());
        };
        let function = |name: &str| format!("arn:aws:lambda:{region}:{account}:function:{name}");
        match self {
            Self::Function(Function { name, .. }) => {
                put(REF, name.clone());
                put("Arn", function(name));
            }
            Self::Alias(Alias { function: of, name, .. }) => put(REF, format!("{}:{name}", function(of))),
            Self::Url(Url { function: of, .. }) => {
                put(REF, function(of));
                put("FunctionArn", function(of));
            }
            Self::Permission(Permission { sid, .. }) => put(REF, sid.clone()),
            Self::Events(Events { function: of, qualifier, .. }) => put(REF, format!("{of}|{qualifier}")),
            Self::Retention { group, .. } => {
                put(REF, group.clone());
                put("Arn", format!("arn:aws:logs:{region}:{account}:log-group:{group}:*"));
            }
            Self::Queue { name } => {
                put("Arn", format!("arn:aws:sqs:{region}:{account}:{name}"));
                put("QueueName", name.clone());
            }
            Self::Role { name } => {
                put(REF, name.clone());
                put("Arn", format!("arn:aws:iam::{account}:role/{name}"));
            }
            Self::Layer(_) | Self::Version(_) | Self::Nothing => {}
        }
    }
}

/// Whether keeping a resource when it is removed is what is done anyway.
pub(crate) fn may_be_retained(resource: &Resource) -> bool {
    matches!(
        resource.kind.as_str(),
        "AWS::Lambda::LayerVersion" | "AWS::Lambda::Version" | "AWS::Logs::LogGroup" | "AWS::SQS::Queue"
    ) || table::kind(&resource.kind).is_some_and(|kind| kind.is_left_out)
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
