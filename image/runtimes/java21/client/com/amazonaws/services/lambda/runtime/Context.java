package com.amazonaws.services.lambda.runtime;

/** What a handler is told beside its event. */
public interface Context {
    /** The invocation; the same when it is tried again. */
    String getAwsRequestId();

    /** Log group of the sandbox; null in one that came of a snapshot. */
    String getLogGroupName();

    /** Log stream of the sandbox; null in one that came of a snapshot. */
    String getLogStreamName();

    /** The function. */
    String getFunctionName();

    /** Its version, or {@code $LATEST}. */
    String getFunctionVersion();

    /** What was called, with the qualifier that was used. */
    String getInvokedFunctionArn();

    /** Whom the caller is known as; may be null. */
    CognitoIdentity getIdentity();

    /** What the caller said of itself; may be null. */
    ClientContext getClientContext();

    /** Milliseconds until the function's timeout. */
    int getRemainingTimeInMillis();

    /** MiB that the function is configured with. */
    int getMemoryLimitInMB();

    /** Writes to the function's log. */
    LambdaLogger getLogger();

    /** The tenant of a function that is isolated by tenants. No node has any. */
    default String getTenantId() {
        return null;
    }

    /** The header of the call's trace; may be null. */
    default String getXrayTraceId() {
        return null;
    }
}
