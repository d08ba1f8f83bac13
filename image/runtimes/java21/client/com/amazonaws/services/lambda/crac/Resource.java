package com.amazonaws.services.lambda.crac;

/** Who is told of a snapshot. */
public interface Resource {
    /** A clone goes on. */
    void afterRestore(Context<? extends Resource> context) throws Exception;

    /** A snapshot is about to be taken. */
    void beforeCheckpoint(Context<? extends Resource> context) throws Exception;
}
