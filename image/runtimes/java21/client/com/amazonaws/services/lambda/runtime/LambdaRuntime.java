package com.amazonaws.services.lambda.runtime;

import tinderbox.runtime.FunctionLog;

/** The runtime's own logger, for code that has no {@link Context} at hand. */
public final class LambdaRuntime {
    private LambdaRuntime() {}

    /** The logger. */
    public static LambdaLogger getLogger() {
        return FunctionLog.OF_PROCESS;
    }
}
