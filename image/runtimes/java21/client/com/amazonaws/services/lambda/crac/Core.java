package com.amazonaws.services.lambda.crac;

/**
 * Where {@code org.crac}, which a function brings, finds the implementation: by the property
 * {@code org.crac.Core.Compat}, whose value is this package.
 */
public final class Core {
    private static final Context<Resource> GLOBAL = new GlobalContext();

    private Core() {}

    /** The one context that the runtime tells. */
    public static Context<Resource> getGlobalContext() {
        return GLOBAL;
    }

    /** Snapshots are the node's to take. */
    public static void checkpointRestore() {
        throw new UnsupportedOperationException();
    }
}
