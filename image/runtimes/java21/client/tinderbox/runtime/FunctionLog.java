package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.LambdaLogger;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The function's log, which is the process's standard output: a message is a line of it at least. */
public final class FunctionLog implements LambdaLogger {
    private final FileOutputStream output = new FileOutputStream(FileDescriptor.out);

    @Override
    public void log(String message) {
        log(String.valueOf(message).getBytes(StandardCharsets.UTF_8));
    }

    @Override
    public void log(byte[] message) {
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
