package com.amazonaws.services.lambda.runtime;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/** A function of bytes. */
public interface RequestStreamHandler {
    /** Reads one event and writes its answer. */
    void handleRequest(InputStream input, OutputStream output, Context context) throws IOException;
}
