package com.amazonaws.services.lambda.crac;

/** Hooks before a snapshot failed: what each of them threw is suppressed in it. */
public class CheckpointException extends Exception {
    private static final long serialVersionUID = 1;

    public CheckpointException() {}
}
