package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.Context;

/** A function's handler, whatever its form: bytes of an event in, bytes of an answer out. */
interface Handler {
    /** Answers one event; throws what the function threw. */
    byte[] handle(byte[] event, Context context) throws Throwable;
}
