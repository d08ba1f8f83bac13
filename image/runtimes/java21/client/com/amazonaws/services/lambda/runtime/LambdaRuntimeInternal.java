package com.amazonaws.services.lambda.runtime;

/** What Log4j's appender for Lambda tells the runtime. */
public final class LambdaRuntimeInternal {
    private static volatile boolean useLog4jAppender;

    private LambdaRuntimeInternal() {}

    /** Whether the appender is there. */
    public static boolean getUseLog4jAppender() {
        return useLog4jAppender;
    }

    /** Says that the appender is there. */
    public static void setUseLog4jAppender(boolean used) {
        useLog4jAppender = used;
    }
}
