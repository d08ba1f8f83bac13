package tinderbox.runtime;

import java.io.IOError;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Why there is no answer, as callers and the log are told of it. */
final class Failure extends Exception {
    private static final long serialVersionUID = 1;

    /** Causes that are told of, from the outermost. A longer chain has a circle or a mistake in it. */
    private static final int MAX_CAUSES = 16;

    private static final String OURS = Failure.class.getPackageName() + ".";

    private final transient Map<String, Object> document;
    private final String kind;
    private final String report;
    private final boolean fatal;

    private Failure(String kind, Map<String, Object> document, String report, boolean fatal) {
        super((String) document.get("errorMessage"));
        this.kind = kind;
        this.document = document;
        this.report = report;
        this.fatal = fatal;
    }

    /** What the function threw. */
    static Failure of(String kind, Throwable thrown) {
        hideRuntime(thrown, Collections.newSetFromMap(new IdentityHashMap<>()));
        boolean fatal = thrown instanceof VirtualMachineError || thrown instanceof IOError;
        return new Failure(kind, describe(thrown, MAX_CAUSES), message(thrown) + ": " + trace(thrown), fatal);
    }

    /** The function's code is not what its settings say: calls fail, one by one. */
    static Failure ofCode(String message) {
        return new Failure("Runtime.BadFunctionCode", Map.of("errorMessage", message), message, false);
    }

    /** The same, of what the JDK says about it. */
    static Failure ofCode(String message, Throwable thrown) {
        return broken(message, thrown, false);
    }

    /** The function's code fails before there is a handler: so does its init. */
    static Failure ofInit(String message, Throwable thrown) {
        return broken(message, thrown, true);
    }

    private static Failure broken(String message, Throwable thrown, boolean fatal) {
        hideRuntime(thrown, Collections.newSetFromMap(new IdentityHashMap<>()));
        Map<String, Object> document = new LinkedHashMap<>(describe(thrown, MAX_CAUSES));
        document.put("errorMessage", message);
        return new Failure("Runtime.BadFunctionCode", document, message + ": " + trace(thrown), fatal);
    }

    /** What the Runtime API is told that it is. */
    String kind() {
        return kind;
    }

    /** The document for the caller. */
    byte[] document() {
        return Json.OWN.write(document);
    }

    /** For the log. */
    String report() {
        return report;
    }

    /** Whether this process is in no state to go on. */
    boolean isFatal() {
        return fatal;
    }

    private static Map<String, Object> describe(Throwable thrown, int causes) {
        Map<String, Object> document = new LinkedHashMap<>();
        document.put("errorMessage", message(thrown));
        document.put("errorType", thrown.getClass().getName());
        document.put("stackTrace", Arrays.stream(thrown.getStackTrace()).map(StackTraceElement::toString).toList());
        Throwable cause = thrown.getCause();
        // Hooks throw what they gathered as suppressed, and nothing else says what went wrong.
        if (cause == null && thrown.getMessage() == null && thrown.getSuppressed().length > 0) {
            cause = thrown.getSuppressed()[0];
        }
        if (cause != null && causes > 0) {
            document.put("cause", describe(cause, causes - 1));
        }
        return document;
    }

    /** What it says of itself, or else what it is. */
    static String message(Throwable thrown) {
        String message = thrown.getLocalizedMessage();
        return message == null ? thrown.getClass().getName() : message;
    }

    private static String trace(Throwable thrown) {
        StringWriter text = new StringWriter();
        thrown.printStackTrace(new PrintWriter(text));
        return text.toString();
    }

    /** Ends each trace where the runtime's own frames begin. */
    private static void hideRuntime(Throwable thrown, Set<Throwable> seen) {
        if (thrown == null || !seen.add(thrown)) {
            return;
        }
        List<StackTraceElement> theirs = new ArrayList<>();
        for (StackTraceElement frame : thrown.getStackTrace()) {
            if (frame.getClassName().startsWith(OURS)) {
                break;
            }
            theirs.add(frame);
        }
        thrown.setStackTrace(theirs.toArray(StackTraceElement[]::new));
        hideRuntime(thrown.getCause(), seen);
        for (Throwable suppressed : thrown.getSuppressed()) {
            hideRuntime(suppressed, seen);
        }
    }
}
