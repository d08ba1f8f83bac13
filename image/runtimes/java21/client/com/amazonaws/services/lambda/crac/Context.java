package com.amazonaws.services.lambda.crac;

/** Resources that are told together. */
public abstract class Context<R extends Resource> implements Resource {
    protected Context() {}

    @Override
    public abstract void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException;

    @Override
    public abstract void afterRestore(Context<? extends Resource> context) throws RestoreException;

    /** Adds one. It is not kept alive. */
    public abstract void register(R resource);
}
