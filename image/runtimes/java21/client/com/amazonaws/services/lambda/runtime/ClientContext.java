package com.amazonaws.services.lambda.runtime;

import java.util.Map;

/** What a caller said of itself with the call. */
public interface ClientContext {
    /** The application that called. */
    Client getClient();

    /** Values of the caller's own. */
    Map<String, String> getCustom();

    /** Where the application runs. */
    Map<String, String> getEnvironment();
}
