package com.amazonaws.services.lambda.runtime;

import com.amazonaws.services.lambda.runtime.logging.LogLevel;

/** Writes to the function's log. */
public interface LambdaLogger {
    /** One message. */
    void log(String message);

    /** One message, already encoded. */
    void log(byte[] message);

    /** One message of this level. */
    default void log(String message, LogLevel level) {
        log(message);
    }

    /** One message of this level, already encoded. */
    default void log(byte[] message, LogLevel level) {
        log(message);
    }
}
