package com.amazonaws.services.lambda.runtime.logging;

import java.util.Locale;

/** How much a message matters. */
public enum LogLevel {
    /** Nobody said. */
    UNDEFINED,
    TRACE,
    DEBUG,
    INFO,
    WARN,
    ERROR,
    FATAL;

    /** Of its name, in any case. */
    public static LogLevel fromString(String name) {
        return valueOf(name.toUpperCase(Locale.ROOT));
    }
}
