package com.amazonaws.services.lambda.runtime;

/** A function of values: the event as an {@code I}, the answer as an {@code O}. */
public interface RequestHandler<I, O> {
    /** Answers one event. */
    O handleRequest(I input, Context context);
}
