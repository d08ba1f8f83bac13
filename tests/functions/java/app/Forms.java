package app;

import com.amazonaws.services.lambda.runtime.Context;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.List;
import java.util.Map;

/** Methods of every form that a handler may have. */
public class Forms {
    /** Any document. */
    public Map<String, Object> map(Map<String, Object> event) {
        return event;
    }

    /** A list, and no instance. */
    public static int sum(List<Integer> numbers, Context context) {
        return numbers.stream().mapToInt(Integer::intValue).sum();
    }

    /** A text. */
    public String text(String event) {
        return event.toUpperCase();
    }

    /** Bytes. */
    public void bytes(InputStream input, OutputStream output, Context context) throws IOException {
        output.write('[');
        input.transferTo(output);
        output.write(']');
    }

    /** Nothing. */
    public void nothing() {}
}
