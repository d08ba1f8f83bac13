package com.amazonaws.services.lambda.crac;

/** Hooks after a resume failed: what each of them threw is suppressed in it. */
public class RestoreException extends Exception {
    private static final long serialVersionUID = 1;

    public RestoreException() {}
}
