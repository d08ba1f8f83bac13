//! What IAM calls each operation of Lambda's, and on what it is: AWS's service authorization reference, as data.

/// On what an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// The account: IAM's `*`.
    Account,
    /// The function of the path, whichever version is named with it.
    Function,
    /// The function, version or alias that path and `Qualifier` name.
    Qualified,
    /// The function, version or alias that the path names: no parameter is looked at.
    QualifiedByPath,
    /// The function that the body names.
    NewFunction,
    /// The layer of the path.
    Layer,
    /// The version of a layer, of the path.
    LayerVersion,
    /// The version of a layer that `Arn` names.
    LayerVersionByArn,
    /// What has tags: the ARN in the path.
    Tagged,
    /// Whatever that segment of the path names.
    Named(&'static str),
}

use On::{
    Account, Function, Layer, LayerVersion, LayerVersionByArn, Named, NewFunction, Qualified,
    QualifiedByPath, Tagged,
};

/// Operation, action, and on what. In the order of `api::operations`.
pub(super) const ACTIONS: &[(&str, &str, On)] = &[
    ("AddLayerVersionPermission", "AddLayerVersionPermission", LayerVersion),
    ("AddPermission", "AddPermission", Qualified),
    ("CheckpointDurableExecution", "CheckpointDurableExecution", Named("DurableExecutionArn")),
    ("CreateAlias", "CreateAlias", Function),
    ("CreateCapacityProvider", "CreateCapacityProvider", Account),
    ("CreateCodeSigningConfig", "CreateCodeSigningConfig", Account),
    ("CreateEventSourceMapping", "CreateEventSourceMapping", Account),
    ("CreateFunction", "CreateFunction", NewFunction),
    ("CreateFunctionUrlConfig", "CreateFunctionUrlConfig", Qualified),
    ("DeleteAlias", "DeleteAlias", Function),
    ("DeleteCapacityProvider", "DeleteCapacityProvider", Named("CapacityProviderName")),
    ("DeleteCodeSigningConfig", "DeleteCodeSigningConfig", Named("CodeSigningConfigArn")),
    ("DeleteDurableExecution", "DeleteDurableExecution", Named("DurableExecutionArn")),
    ("DeleteEventSourceMapping", "DeleteEventSourceMapping", Named("UUID")),
    ("DeleteFunction", "DeleteFunction", Qualified),
    ("DeleteFunctionCodeSigningConfig", "DeleteFunctionCodeSigningConfig", Function),
    ("DeleteFunctionConcurrency", "DeleteFunctionConcurrency", Function),
    ("DeleteFunctionEventInvokeConfig", "DeleteFunctionEventInvokeConfig", Qualified),
    ("DeleteFunctionUrlConfig", "DeleteFunctionUrlConfig", Qualified),
    ("DeleteLayerVersion", "DeleteLayerVersion", LayerVersion),
    ("DeleteProvisionedConcurrencyConfig", "DeleteProvisionedConcurrencyConfig", Qualified),
    ("DeleteResourcePolicy", "DeleteResourcePolicy", Named("ResourceArn")),
    ("GetAccountSettings", "GetAccountSettings", Account),
    ("GetAlias", "GetAlias", Function),
    ("GetCapacityProvider", "GetCapacityProvider", Named("CapacityProviderName")),
    ("GetCodeSigningConfig", "GetCodeSigningConfig", Named("CodeSigningConfigArn")),
    ("GetDurableExecution", "GetDurableExecution", Named("DurableExecutionArn")),
    ("GetDurableExecutionHistory", "GetDurableExecutionHistory", Named("DurableExecutionArn")),
    ("GetDurableExecutionState", "GetDurableExecutionState", Named("DurableExecutionArn")),
    ("GetEventSourceMapping", "GetEventSourceMapping", Named("UUID")),
    ("GetFunction", "GetFunction", Qualified),
    ("GetFunctionCodeSigningConfig", "GetFunctionCodeSigningConfig", Function),
    ("GetFunctionConcurrency", "GetFunctionConcurrency", Function),
    ("GetFunctionConfiguration", "GetFunctionConfiguration", Qualified),
    ("GetFunctionEventInvokeConfig", "GetFunctionEventInvokeConfig", Qualified),
    ("GetFunctionRecursionConfig", "GetFunctionRecursionConfig", Function),
    ("GetFunctionScalingConfig", "GetFunctionScalingConfig", Qualified),
    ("GetFunctionUrlConfig", "GetFunctionUrlConfig", Qualified),
    ("GetLayerVersion", "GetLayerVersion", LayerVersion),
    ("GetLayerVersionByArn", "GetLayerVersion", LayerVersionByArn),
    ("GetLayerVersionPolicy", "GetLayerVersionPolicy", LayerVersion),
    ("GetPolicy", "GetPolicy", Qualified),
    ("GetProvisionedConcurrencyConfig", "GetProvisionedConcurrencyConfig", Qualified),
    ("GetResourcePolicy", "GetResourcePolicy", Named("ResourceArn")),
    ("GetRuntimeManagementConfig", "GetRuntimeManagementConfig", Qualified),
    ("Invoke", "InvokeFunction", Qualified),
    ("InvokeAsync", "InvokeAsync", QualifiedByPath),
    ("InvokeWithResponseStream", "InvokeFunction", Qualified),
    ("ListAliases", "ListAliases", Function),
    ("ListCapacityProviders", "ListCapacityProviders", Account),
    ("ListCodeSigningConfigs", "ListCodeSigningConfigs", Account),
    ("ListDurableExecutionsByFunction", "ListDurableExecutionsByFunction", Function),
    ("ListEventSourceMappings", "ListEventSourceMappings", Account),
    ("ListFunctionEventInvokeConfigs", "ListFunctionEventInvokeConfigs", Function),
    ("ListFunctionUrlConfigs", "ListFunctionUrlConfigs", Function),
    (
        "ListFunctionVersionsByCapacityProvider",
        "ListFunctionVersionsByCapacityProvider",
        Named("CapacityProviderName"),
    ),
    ("ListFunctions", "ListFunctions", Account),
    ("ListFunctionsByCodeSigningConfig", "ListFunctionsByCodeSigningConfig", Named("CodeSigningConfigArn")),
    ("ListLayerVersions", "ListLayerVersions", Account),
    ("ListLayers", "ListLayers", Account),
    ("ListProvisionedConcurrencyConfigs", "ListProvisionedConcurrencyConfigs", Function),
    ("ListTags", "ListTags", Tagged),
    ("ListVersionsByFunction", "ListVersionsByFunction", Function),
    ("PauseDurableExecution", "PauseDurableExecution", Named("DurableExecutionArn")),
    ("PublishLayerVersion", "PublishLayerVersion", Layer),
    ("PublishVersion", "PublishVersion", Function),
    ("PutFunctionCodeSigningConfig", "PutFunctionCodeSigningConfig", Function),
    ("PutFunctionConcurrency", "PutFunctionConcurrency", Function),
    ("PutFunctionEventInvokeConfig", "PutFunctionEventInvokeConfig", Qualified),
    ("PutFunctionRecursionConfig", "PutFunctionRecursionConfig", Function),
    ("PutFunctionScalingConfig", "PutFunctionScalingConfig", Qualified),
    ("PutProvisionedConcurrencyConfig", "PutProvisionedConcurrencyConfig", Qualified),
    ("PutResourcePolicy", "PutResourcePolicy", Named("ResourceArn")),
    ("PutRuntimeManagementConfig", "PutRuntimeManagementConfig", Qualified),
    ("RemoveLayerVersionPermission", "RemoveLayerVersionPermission", LayerVersion),
    ("RemovePermission", "RemovePermission", Qualified),
    ("ResumeDurableExecution", "ResumeDurableExecution", Named("DurableExecutionArn")),
    ("SendDurableExecutionCallbackFailure", "SendDurableExecutionCallbackFailure", Named("CallbackId")),
    ("SendDurableExecutionCallbackHeartbeat", "SendDurableExecutionCallbackHeartbeat", Named("CallbackId")),
    ("SendDurableExecutionCallbackSuccess", "SendDurableExecutionCallbackSuccess", Named("CallbackId")),
    ("StopDurableExecution", "StopDurableExecution", Named("DurableExecutionArn")),
    ("TagResource", "TagResource", Tagged),
    ("UntagResource", "UntagResource", Tagged),
    ("UpdateAlias", "UpdateAlias", Function),
    ("UpdateCapacityProvider", "UpdateCapacityProvider", Named("CapacityProviderName")),
    ("UpdateCodeSigningConfig", "UpdateCodeSigningConfig", Named("CodeSigningConfigArn")),
    ("UpdateEventSourceMapping", "UpdateEventSourceMapping", Named("UUID")),
    ("UpdateFunctionCode", "UpdateFunctionCode", Function),
    ("UpdateFunctionConfiguration", "UpdateFunctionConfiguration", Function),
    ("UpdateFunctionEventInvokeConfig", "UpdateFunctionEventInvokeConfig", Qualified),
    ("UpdateFunctionUrlConfig", "UpdateFunctionUrlConfig", Qualified),
];

/// An operation's action and on what it is.
pub(super) fn of(operation: &str) -> Option<(&'static str, On)> {
    ACTIONS.iter().find(|(name, ..)| *name == operation).map(|(_, action, on)| (*action, *on))
}
