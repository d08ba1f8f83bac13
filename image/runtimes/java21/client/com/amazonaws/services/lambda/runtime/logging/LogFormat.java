package com.amazonaws.services.lambda.runtime.logging;

import java.util.Locale;

/** How a log is written. */
public enum LogFormat {
    JSON,
    TEXT;

    /** Of its name, in any case. */
    public static LogFormat fromString(String name) {
        return valueOf(name.toUpperCase(Locale.ROOT));
    }
}
