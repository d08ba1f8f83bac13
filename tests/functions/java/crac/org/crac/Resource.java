package org.crac;

/** Who is told of a snapshot. */
public interface Resource {
    /** A snapshot is about to be taken. */
    void beforeCheckpoint(Context<? extends Resource> context) throws Exception;

    /** A clone goes on. */
    void afterRestore(Context<? extends Resource> context) throws Exception;
}
