package com.amazonaws.services.lambda.runtime;

import java.io.InputStream;
import java.io.OutputStream;
import java.lang.reflect.Type;

/** A function's own way between JSON and its types: found as a service of its code, in place of the runtime's. */
public interface CustomPojoSerializer {
    /** A value of a document in UTF-8. */
    <T> T fromJson(InputStream input, Type type);

    /** A value of a document. */
    <T> T fromJson(String input, Type type);

    /** The document of a value, in UTF-8. */
    <T> void toJson(T value, OutputStream output, Type type);
}
