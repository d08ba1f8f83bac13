//! What is read of a template, type by type and property by property. Everything else is refused; `docs/deploy.md` shows this table.

use serde_json::Value;

use super::{
    skip::{SKIPPED, Skip},
    template::{Members, Refusal, shortened},
};

/// What becomes of resources of a type.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What they are on a node.
    pub(crate) becomes: &'static str,
    /// Properties that are read, and what is read of each: nothing is said of one that is read whole.
    pub(crate) read: &'static [(&'static str, &'static [&'static str])],
    /// Properties that mean nothing on a node, and why.
    pub(crate) left_out: &'static [(&'static str, &'static str)],
    /// Whether nothing at all is made of them.
    pub(crate) is_left_out: bool,
}

/// Members of structures that several types have.
const CODE: &[&str] = &["ImageUri", "S3Bucket", "S3Key", "ZipFile"];
const CORS: &[&str] =
    &["AllowCredentials", "AllowHeaders", "AllowMethods", "AllowOrigins", "ExposeHeaders", "MaxAge"];
const DESTINATIONS: &[&str] = &["OnFailure", "OnSuccess"];
const IMAGE: &[&str] = &["Command", "EntryPoint", "WorkingDirectory"];
const LOGGING: &[&str] = &["ApplicationLogLevel", "LogFormat", "LogGroup", "SystemLogLevel"];
const PROVISIONED: &[&str] = &["ProvisionedConcurrentExecutions"];

const NO_ROLES: &str = "a node has no roles";

/// All types that anything is known of, by their names.
pub(crate) const KINDS: &[Kind] = &[
    nothing("AWS::CDK::Metadata", "left out: it tells AWS who uses CDK"),
    nothing("AWS::IAM::ManagedPolicy", "left out: a node has no roles"),
    nothing("AWS::IAM::Policy", "left out: a node has no roles"),
    nothing(
        "AWS::IAM::Role",
        "left out: a node has no roles. Functions are given its ARN, and may do what the node's policies let their callers do",
    ),
    nothing("AWS::IAM::RolePolicy", "left out: a node has no roles"),
    Kind {
        name: "AWS::Lambda::Alias",
        becomes: "an alias",
        read: &[
            ("Description", &[]),
            ("FunctionName", &[]),
            ("FunctionVersion", &[]),
            ("Name", &[]),
            ("ProvisionedConcurrencyConfig", PROVISIONED),
            ("RoutingConfig", &["AdditionalVersionWeights"]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::EventInvokeConfig",
        becomes: "how asynchronous calls of a function or an alias are handled",
        read: &[
            ("DestinationConfig", DESTINATIONS),
            ("FunctionName", &[]),
            ("MaximumEventAgeInSeconds", &[]),
            ("MaximumRetryAttempts", &[]),
            ("Qualifier", &[]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::Function",
        becomes: "a function. `Code` may be a local folder, zip or jar, as `sam build` writes it, or an asset of CDK's",
        read: &[
            ("Architectures", &[]),
            ("Code", CODE),
            ("DeadLetterConfig", &["TargetArn"]),
            ("Description", &[]),
            ("Environment", &["Variables"]),
            ("EphemeralStorage", &["Size"]),
            ("FunctionName", &[]),
            ("Handler", &[]),
            ("ImageConfig", IMAGE),
            ("Layers", &[]),
            ("LoggingConfig", LOGGING),
            ("MemorySize", &[]),
            ("PackageType", &[]),
            ("ReservedConcurrentExecutions", &[]),
            ("Role", &[]),
            ("Runtime", &[]),
            ("SnapStart", &["ApplyOn"]),
            ("Tags", &[]),
            ("Timeout", &[]),
            ("TracingConfig", &["Mode"]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::LayerVersion",
        becomes: "a version of a layer, published when its content or what is said of it is another one; earlier ones stay",
        read: &[
            ("CompatibleArchitectures", &[]),
            ("CompatibleRuntimes", &[]),
            ("Content", &["S3Bucket", "S3Key"]),
            ("Description", &[]),
            ("LayerName", &[]),
            ("LicenseInfo", &[]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::Permission",
        becomes: "a statement of the policy of a function or an alias",
        read: &[
            ("Action", &[]),
            ("EventSourceToken", &[]),
            ("FunctionName", &[]),
            ("FunctionUrlAuthType", &[]),
            ("InvokedViaFunctionUrl", &[]),
            ("Principal", &[]),
            ("PrincipalOrgID", &[]),
            ("SourceAccount", &[]),
            ("SourceArn", &[]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::Url",
        becomes: "a URL of a function or an alias",
        read: &[
            ("AuthType", &[]),
            ("Cors", CORS),
            ("InvokeMode", &[]),
            ("Qualifier", &[]),
            ("TargetFunctionArn", &[]),
        ],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Lambda::Version",
        becomes: "a version, published once for each logical id, as CloudFormation does; earlier ones stay",
        read: &[("Description", &[]), ("FunctionName", &[]), ("ProvisionedConcurrencyConfig", PROVISIONED)],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Logs::LogGroup",
        becomes: "how long the node keeps a log group. The group begins with its first line: until then a deployment says `later`, and another \
                  one is needed. It stays",
        read: &[("LogGroupName", &[]), ("RetentionInDays", &[])],
        left_out: &[("Tags", "log groups of a node have no tags")],
        is_left_out: false,
    },
    Kind {
        name: "AWS::SQS::Queue",
        becomes: "the name of a queue of the node's, for destinations and dead letters; it begins with its first message",
        read: &[("QueueName", &[])],
        left_out: &[],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Serverless::Function",
        becomes: "a function; with `AutoPublishAlias` a version, published whenever anything of the function changed, and an alias; \
                  with `FunctionUrlConfig` a URL, and what lets everybody use it if `AuthType` is `NONE`",
        read: &[
            ("Architectures", &[]),
            ("AutoPublishAlias", &[]),
            ("CodeUri", &["Bucket", "Key"]),
            ("DeadLetterQueue", &["TargetArn", "Type"]),
            ("Description", &[]),
            ("Environment", &["Variables"]),
            ("EphemeralStorage", &["Size"]),
            ("EventInvokeConfig", &["DestinationConfig", "MaximumEventAgeInSeconds", "MaximumRetryAttempts"]),
            ("FunctionName", &[]),
            ("FunctionUrlConfig", &["AuthType", "Cors", "InvokeMode"]),
            ("Handler", &[]),
            ("ImageConfig", IMAGE),
            ("ImageUri", &[]),
            ("InlineCode", &[]),
            ("Layers", &[]),
            ("LoggingConfig", LOGGING),
            ("MemorySize", &[]),
            ("PackageType", &[]),
            ("ProvisionedConcurrencyConfig", PROVISIONED),
            ("ReservedConcurrentExecutions", &[]),
            ("Role", &[]),
            ("Runtime", &[]),
            ("SnapStart", &["ApplyOn"]),
            ("Tags", &[]),
            ("Timeout", &[]),
            ("Tracing", &[]),
            ("VersionDescription", &[]),
        ],
        left_out: &[
            ("AssumeRolePolicyDocument", NO_ROLES),
            ("AutoPublishAliasAllProperties", "every change is published"),
            ("PermissionsBoundary", NO_ROLES),
            ("Policies", NO_ROLES),
            ("RolePath", NO_ROLES),
        ],
        is_left_out: false,
    },
    Kind {
        name: "AWS::Serverless::LayerVersion",
        becomes: "as `AWS::Lambda::LayerVersion`",
        read: &[
            ("CompatibleArchitectures", &[]),
            ("CompatibleRuntimes", &[]),
            ("ContentUri", &["Bucket", "Key"]),
            ("Description", &[]),
            ("LayerName", &[]),
            ("LicenseInfo", &[]),
            ("RetentionPolicy", &[]),
        ],
        left_out: &[],
        is_left_out: false,
    },
];

const fn nothing(name: &'static str, becomes: &'static str) -> Kind {
    Kind { name, becomes, read: &[], left_out: &[], is_left_out: true }
}

/// What is known of a type.
pub(crate) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl Kind {
    /// Takes out of the properties of a resource what is left out, and tells of that; refuses what nothing is known of.
    pub(crate) fn sift(
        &self,
        id: &str,
        properties: &mut Members,
        skip: &Skip,
        refusals: &mut Vec<Refusal>,
    ) -> Vec<(String, &'static str)> {
        let mut left_out = Vec::new();
        if self.is_left_out {
            properties.clear();
            return left_out;
        }
        properties.retain(|name, value| {
            if skip.property(id, self.name, name) {
                left_out.push((name.clone(), SKIPPED));
                return false;
            }
            if let Some((_, why)) = self.left_out.iter().find(|(known, _)| known == name) {
                left_out.push((name.clone(), *why));
                return false;
            }
            match self.read.iter().find(|(known, _)| known == name) {
                None => {
                    refusals.push(Refusal::new(id, format!("{name} {} is not supported", shortened(value))));
                }
                Some((_, [])) => {}
                Some((_, known)) => {
                    for member in value.as_object().into_iter().flat_map(Members::keys) {
                        if !known.contains(&member.as_str()) && !is_function(member) {
                            refusals.push(Refusal::new(id, format!("{name}.{member} is not supported")));
                        }
                    }
                }
            }
            true
        });
        left_out
    }
}

/// What a structure is made by instead of its members.
fn is_function(member: &str) -> bool {
    member == "Ref" || member.starts_with("Fn::")
}

/// Members that a structure may have, once its functions are evaluated.
pub(crate) fn members_of(kind: &str, property: &str, value: &Value) -> Result<(), String> {
    let known = self::kind(kind).and_then(|kind| kind.read.iter().find(|(known, _)| *known == property));
    let known = known.map_or(&[][..], |(_, members)| members);
    let unknown = value.as_object().into_iter().flat_map(Members::keys);
    match unknown.filter(|_| !known.is_empty()).find(|member| !known.contains(&member.as_str())) {
        Some(member) => Err(format!("{property}.{member} is not supported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What stands before and after the table in the document.
    const BEGIN: &str = "<!-- table: written by `TINDERBOX_WRITE_DOCS=1 cargo test -p cli table` -->\n";
    const END: &str = "<!-- end of table -->";

    #[test]
    fn types_and_properties_are_in_order_and_named_once() {
        assert!(KINDS.is_sorted_by(|one, next| one.name < next.name));
        for kind in KINDS {
            assert!(kind.read.is_sorted_by(|(one, _), (next, _)| one < next), "{}", kind.name);
            assert!(kind.left_out.iter().all(|(name, _)| kind.read.iter().all(|(read, _)| read != name)));
        }
    }

    #[test]
    fn what_nothing_is_known_of_is_refused_and_what_means_nothing_is_left_out() {
        let mut properties = json!({ "Handler": "h", "Policies": ["P"], "Events": { "E": {} }, "SnapStart": { "ApplyOn": "None",
            "Other": 1 }, "Environment": { "Fn::If": ["C", {}, {}] } });
        let Value::Object(properties) = &mut properties else { panic!("an object") };
        let mut refusals = Vec::new();
        let left_out =
            kind("AWS::Serverless::Function").unwrap().sift("F", properties, &Skip::default(), &mut refusals);
        assert_eq!(left_out, [("Policies".to_owned(), NO_ROLES)]);
        assert!(!properties.contains_key("Policies") && properties.contains_key("Handler"));
        let said: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["F: Events {\"E\":{}} is not supported", "F: SnapStart.Other is not supported"]);
        let made = json!({ "ApplyOn": "None", "Other": 1 });
        assert!(members_of("AWS::Lambda::Function", "SnapStart", &made).is_err());
        assert!(members_of("AWS::Lambda::Function", "Layers", &json!([1])).is_ok());
    }

    #[test]
    fn the_document_shows_the_table() {
        let property = |(name, members): &(&str, &[&str])| match *members {
            [] => format!("`{name}`"),
            members => format!("`{name}` ({})", members.join(", ")),
        };
        let row = |kind: &Kind| {
            let read: Vec<_> = kind.read.iter().map(property).collect();
            let left_out = kind.left_out.iter().map(|(name, why)| format!("`{name}`: {why}"));
            format!(
                "| `{}` | {} | {} | {} |\n",
                kind.name,
                kind.becomes,
                read.join(", "),
                left_out.collect::<Vec<_>>().join("; ")
            )
        };
        let rows: String = KINDS.iter().map(row).collect();
        let table = format!(
            "\n| type | becomes | properties that are read | that are left out, and said |\n|---|---|---|---|\n{rows}\n"
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deploy.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (before, rest) = document.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("TINDERBOX_WRITE_DOCS").is_some() {
            std::fs::write(path, [before, BEGIN, &table, END, after].concat()).unwrap();
        } else {
            assert_eq!(found, table, "the table of docs/deploy.md is not the code's");
        }
    }
}
