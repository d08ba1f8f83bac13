package app;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestStreamHandler;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/** A handler of bytes by AWS's interface. */
public class Raw implements RequestStreamHandler {
    @Override
    public void handleRequest(InputStream input, OutputStream output, Context context) throws IOException {
        output.write(("{\"id\":\"" + context.getAwsRequestId() + "\",\"event\":").getBytes(StandardCharsets.UTF_8));
        input.transferTo(output);
        output.write('}');
    }
}
