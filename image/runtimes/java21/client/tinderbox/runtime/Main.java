package tinderbox.runtime;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOError;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/**
 * The runtime of functions in Java: loads the handler that {@code _HANDLER} names, lets itself be snapshotted when the function
 * is, and answers one event after another. One thread; what the function starts is its own.
 */
public final class Main {
    /** The header that AWS's X-Ray SDK looks for. */
    private static final String TRACE_PROPERTY = "com.amazonaws.xray.traceHeader";

    /** The process could not begin, or is in no state to go on. */
    private static final int EXIT_BROKEN = 1;

    /** Hooks around a snapshot failed, as AWS's client ends then. */
    private static final int EXIT_HOOKS = 64;

    private final RuntimeApi api;

    private Main(RuntimeApi api) {
        this.api = api;
    }

    /** The environment says which function this is; the arguments nothing. */
    public static void main(String[] arguments) throws IOException {
        // The image has no locales, and a log is UTF-8 whatever LANG says.
        System.setOut(stream(FileDescriptor.out));
        System.setErr(stream(FileDescriptor.err));
        Main runtime = new Main(new RuntimeApi(System.getenv("AWS_LAMBDA_RUNTIME_API")));
        Handler handler = runtime.load(System.getenv("_HANDLER"));
        if ("snap-start".equals(System.getenv("AWS_LAMBDA_INITIALIZATION_TYPE"))) {
            runtime.snapshot();
        }
        runtime.serve(handler);
    }

    /** Unbuffered, so that what is printed to both is in its order. */
    private static PrintStream stream(FileDescriptor descriptor) {
        return new PrintStream(new FileOutputStream(descriptor), false, StandardCharsets.UTF_8);
    }

    private Handler load(String name) throws IOException {
        FunctionLoader loader = FunctionLoader.ofEnvironment();
        Thread.currentThread().setContextClassLoader(loader);
        try {
            return HandlerFinder.find(name, loader);
        } catch (Failure failure) {
            if (!failure.isFatal()) {
                // As on AWS: what names no handler is told of by the calls.
                return (event, context) -> {
                    throw failure;
                };
            }
            log(failure);
            api.initError(failure.kind(), failure.document());
            throw end(failure, EXIT_BROKEN);
        }
    }

    private void snapshot() throws IOException {
        try {
            Checkpoint.before();
        } catch (Exception thrown) {
            Failure failure = Failure.of("Runtime.BeforeCheckpointError", thrown);
            log(failure);
            api.initError(failure.kind(), failure.document());
            throw end(failure, EXIT_HOOKS);
        }
        api.awaitRestore();
        try {
            Checkpoint.after();
        } catch (Exception thrown) {
            Failure failure = Failure.of("Runtime.AfterRestoreError", thrown);
            log(failure);
            api.restoreError(failure.kind(), failure.document());
            throw end(failure, EXIT_HOOKS);
        }
    }

    private void serve(Handler handler) throws IOException {
        while (true) {
            Invocation invocation = api.next();
            FunctionLog.OF_PROCESS.requestIs(invocation.requestId());
            if (invocation.traceId() == null) {
                System.clearProperty(TRACE_PROPERTY);
            } else {
                System.setProperty(TRACE_PROPERTY, invocation.traceId());
            }
            byte[] document;
            try {
                document = handler.handle(invocation.event(), new InvocationContext(invocation));
            } catch (Failure failure) {
                fail(invocation, failure);
                continue;
            } catch (Throwable thrown) {
                fail(invocation, Failure.of("Runtime.UserException", thrown));
                continue;
            } finally {
                // A flag that the function has left set is not the next call's.
                Thread.interrupted();
            }
            respond(invocation, document);
        }
    }

    private void respond(Invocation invocation, byte[] document) throws IOException {
        try {
            api.respond(invocation.requestId(), document);
        } catch (RuntimeApi.Refused refused) {
            // It is too long: the caller has been told so.
            FunctionLog.OF_PROCESS.failed(refused.getMessage());
        }
    }

    private void fail(Invocation invocation, Failure failure) throws IOException {
        log(failure);
        api.error(invocation.requestId(), failure.kind(), failure.document());
        if (failure.isFatal()) {
            throw end(failure, EXIT_BROKEN);
        }
    }

    /** Before the Runtime API is told: it may end this process at once. */
    private static void log(Failure failure) {
        FunctionLog.OF_PROCESS.failed(failure.report());
    }

    /** Ends the process; returns for the compiler only. */
    private static IOError end(Failure failure, int status) {
        Runtime.getRuntime().exit(status);
        return new IOError(failure);
    }
}
