package tinderbox.runtime;

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;

/**
 * The Lambda Runtime API of this guest, over one connection that stays: it is on the loopback, and survives snapshots. Only as
 * much of HTTP as guest-init speaks (`guest-init/src/runtime_api`), which the JDK's clients would load hundreds of classes for.
 */
final class RuntimeApi {
    private static final String PREFIX = "/2018-06-01/runtime/";

    /** Longest head of an answer. The client context, its longest member, may have 3,583 bytes, identity and trace less. */
    private static final int MAX_HEAD_BYTES = 64 * 1024;

    private final String host;
    private final InputStream input;
    private final OutputStream output;

    /** @param address host and port, by number. */
    RuntimeApi(String address) throws IOException {
        host = address;
        int colon = address.lastIndexOf(':');
        InetAddress name = InetAddress.getByName(address.substring(0, colon));
        Socket socket = new Socket(name, Integer.parseInt(address.substring(colon + 1)));
        socket.setTcpNoDelay(true);
        input = new BufferedInputStream(socket.getInputStream());
        output = socket.getOutputStream();
    }

    /** Waits for an event. */
    Invocation next() throws IOException {
        Answer answer = expect(200, ask("GET", "invocation/next", null, new byte[0]));
        return new Invocation(
                answer.header("aws-request-id"),
                Long.parseLong(answer.header("deadline-ms")),
                answer.header("invoked-function-arn"),
                answer.header("trace-id"),
                answer.header("client-context"),
                answer.header("cognito-identity"),
                answer.body());
    }

    /** Answers an event. */
    void respond(String requestId, byte[] document) throws IOException {
        expect(202, ask("POST", "invocation/" + requestId + "/response", null, document));
    }

    /** Tells that an event has no answer. */
    void error(String requestId, String kind, byte[] document) throws IOException {
        expect(202, ask("POST", "invocation/" + requestId + "/error", kind, document));
    }

    /** Tells that the function cannot begin. */
    void initError(String kind, byte[] document) throws IOException {
        ask("POST", "init/error", kind, document);
    }

    /** Says that a snapshot may be taken; returns in a clone of it. */
    void awaitRestore() throws IOException {
        expect(200, ask("GET", "restore/next", null, new byte[0]));
    }

    /** Tells that a clone cannot go on. */
    void restoreError(String kind, byte[] document) throws IOException {
        ask("POST", "restore/error", kind, document);
    }

    private Answer ask(String method, String path, String kind, byte[] body) throws IOException {
        StringBuilder head = new StringBuilder();
        head.append(method).append(' ').append(PREFIX).append(path).append(" HTTP/1.1\r\n");
        head.append("Host: ").append(host).append("\r\n");
        head.append("Content-Type: application/json\r\nContent-Length: ").append(body.length).append("\r\n");
        if (kind != null) {
            head.append("Lambda-Runtime-Function-Error-Type: ").append(kind).append("\r\n");
        }
        output.write(head.append("\r\n").toString().getBytes(StandardCharsets.UTF_8));
        output.write(body);
        return read();
    }

    private Answer read() throws IOException {
        int room = MAX_HEAD_BYTES;
        String line = line(room);
        int status = Integer.parseInt(line.split(" ", 3)[1]);
        Map<String, String> headers = new HashMap<>();
        while (!(line = line(room)).isEmpty()) {
            room -= line.length();
            int colon = line.indexOf(':');
            headers.put(line.substring(0, colon).toLowerCase(Locale.ROOT), line.substring(colon + 1).strip());
        }
        int length = Integer.parseInt(headers.getOrDefault("content-length", "0"));
        byte[] body = input.readNBytes(length);
        if (body.length < length) {
            throw new EOFException("the Runtime API went away");
        }
        return new Answer(status, headers, body);
    }

    private String line(int room) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int read = input.read(); read != '\n'; read = input.read()) {
            if (read < 0 || line.size() == room) {
                throw new EOFException("no whole answer of the Runtime API");
            }
            line.write(read);
        }
        return line.toString(StandardCharsets.UTF_8).stripTrailing();
    }

    private static Answer expect(int status, Answer answer) throws Refused {
        if (answer.status() != status) {
            throw new Refused(answer);
        }
        return answer;
    }

    private record Answer(int status, Map<String, String> headers, byte[] body) {
        /** One of the Runtime API's own; null when it is not there. */
        String header(String name) {
            return headers.get("lambda-runtime-" + name);
        }
    }

    /** The API did not take a call. */
    static final class Refused extends IOException {
        private static final long serialVersionUID = 1;

        private Refused(Answer answer) {
            super("the Runtime API answers " + answer.status() + ": " + new String(answer.body(), StandardCharsets.UTF_8));
        }
    }
}
