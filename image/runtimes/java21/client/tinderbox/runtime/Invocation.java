package tinderbox.runtime;

/**
 * An event as the Runtime API hands it out.
 *
 * @param deadlineMs Unix time at which the function's timeout ends it, milliseconds.
 * @param traceId null without a trace.
 * @param clientContext JSON; null when the caller said nothing.
 * @param cognitoIdentity JSON; null without one.
 */
record Invocation(
        String requestId,
        long deadlineMs,
        String functionArn,
        String traceId,
        String clientContext,
        String cognitoIdentity,
        byte[] event) {}
