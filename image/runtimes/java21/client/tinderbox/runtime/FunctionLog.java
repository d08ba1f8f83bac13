package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.LambdaLogger;
import com.amazonaws.services.lambda.runtime.logging.LogFormat;
import com.amazonaws.services.lambda.runtime.logging.LogLevel;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The function's log, which is the process's standard output: a message is a line of it at least, in the format and from the
 * level on that the function's configuration says. What is encoded already, is written as it is.
 */
public final class FunctionLog implements LambdaLogger {
    /** As the environment says. */
    public static final FunctionLog OF_PROCESS = new FunctionLog(
            new FileOutputStream(FileDescriptor.out),
            System.getenv("AWS_LAMBDA_LOG_FORMAT"),
            System.getenv("AWS_LAMBDA_LOG_LEVEL"),
            Clock.systemUTC());

    private static final DateTimeFormatter TIME =
            DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'").withZone(ZoneOffset.UTC);

    private final OutputStream output;
    private final LogFormat format;
    private final LogLevel least;
    private final Clock clock;
    private volatile String requestId;

    FunctionLog(OutputStream output, String format, String least, Clock clock) {
        this.output = output;
        this.format = "JSON".equals(format) ? LogFormat.JSON : LogFormat.TEXT;
        this.least = level(least);
        this.clock = clock;
    }

    /** Of a name that is none, everything. */
    private static LogLevel level(String name) {
        try {
            return name == null ? LogLevel.UNDEFINED : LogLevel.fromString(name);
        } catch (IllegalArgumentException none) {
            return LogLevel.UNDEFINED;
        }
    }

    /** Which event messages are of from here on. */
    void requestIs(String id) {
        requestId = id;
    }

    /** Writes what went wrong, a message of its own level where there are levels. */
    void failed(String report) {
        log(report, format == LogFormat.JSON ? LogLevel.ERROR : LogLevel.UNDEFINED);
    }

    @Override
    public void log(String message) {
        log(message, LogLevel.UNDEFINED);
    }

    @Override
    public void log(byte[] message) {
        log(message, LogLevel.UNDEFINED);
    }

    @Override
    public void log(String message, LogLevel level) {
        if (isWritten(level)) {
            write(format == LogFormat.JSON ? structured(message, level) : text(message, level));
        }
    }

    @Override
    public void log(byte[] message, LogLevel level) {
        if (isWritten(level)) {
            write(message);
        }
    }

    /** A message without a level always is. */
    private boolean isWritten(LogLevel level) {
        return level == LogLevel.UNDEFINED || level.compareTo(least) >= 0;
    }

    private static byte[] text(String message, LogLevel level) {
        String head = level == LogLevel.UNDEFINED ? "" : "[" + level + "] ";
        return (head + message).getBytes(StandardCharsets.UTF_8);
    }

    private byte[] structured(String message, LogLevel level) {
        Map<String, Object> members = new LinkedHashMap<>();
        members.put("timestamp", TIME.format(clock.instant()));
        members.put("message", message);
        if (level != LogLevel.UNDEFINED) {
            members.put("level", level);
        }
        if (requestId != null) {
            members.put("AWSRequestId", requestId);
        }
        return Json.OWN.write(members);
    }

    private void write(byte[] message) {
        byte[] line = message;
        if (message.length == 0 || message[message.length - 1] != '\n') {
            line = Arrays.copyOf(message, message.length + 1);
            line[message.length] = '\n';
        }
        try {
            output.write(line);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
