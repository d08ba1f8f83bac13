package org.crac;

/** Resources that are told together. */
public abstract class Context<R extends Resource> implements Resource {
    /** Adds one. */
    public abstract void register(R resource);
}
