package app;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import com.amazonaws.services.lambda.runtime.logging.LogLevel;
import java.lang.reflect.Field;
import java.security.NoSuchAlgorithmException;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.crac.Core;
import org.crac.Resource;

/** Answers values of its own types, fails when it is told to, and tells what its hooks saw and what its generators drew. */
public class Handler implements RequestHandler<Handler.Order, Handler.Answer> {
    /** An event. */
    public static class Order {
        private String name;
        private int count;
        private String fail;
        private long holdMs;
    }

    /** An answer; what is null is left out of it. */
    public record Answer(
            String greeting,
            int count,
            String version,
            String type,
            boolean inTime,
            List<String> hooks,
            String drawnInInit,
            Map<String, String> drawn,
            List<Integer> buffered,
            String nothing) {}

    /** What it fails with. */
    public static class WetTinder extends RuntimeException {
        private WetTinder(String message, Throwable cause) {
            super(message, cause);
        }
    }

    private static final SecureRandom RANDOM = new SecureRandom();

    private final List<String> hooks = Collections.synchronizedList(new ArrayList<>());
    private final List<Integer> buffered = Collections.synchronizedList(new ArrayList<>());
    private final Map<String, String> drawn = new TreeMap<>();
    private final String drawnInInit = UUID.randomUUID().toString();
    private final Resource first = new Hook("first");
    private final Resource second = new Hook("second");

    public Handler() {
        Core.getGlobalContext().register(first);
        Core.getGlobalContext().register(second);
    }

    @Override
    public Answer handleRequest(Order order, Context context) {
        if (order.fail != null) {
            throw new WetTinder(order.fail, new IllegalStateException("rain"));
        }
        System.out.println("printed for " + order.name);
        context.getLogger().log("logged for " + context.getAwsRequestId());
        context.getLogger().log("damp", LogLevel.WARN);
        context.getLogger().log("drip", LogLevel.DEBUG);
        if (drawn.isEmpty()) {
            draw();
        }
        hold(order.holdMs);
        int left = context.getRemainingTimeInMillis();
        return new Answer(
                "hello, " + order.name, order.count + 1, context.getFunctionVersion(),
                System.getenv("AWS_LAMBDA_INITIALIZATION_TYPE"), left > 0, hooks, drawnInInit, drawn, buffered, null);
    }

    private static void hold(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    /** One of each generator that the JDK takes from the kernel. */
    private void draw() {
        try {
            drawn.put("uuid", UUID.randomUUID().toString());
            drawn.put("older", Long.toHexString(RANDOM.nextLong()));
            drawn.put("newer", Long.toHexString(new SecureRandom().nextLong()));
            drawn.put("strong", Long.toHexString(SecureRandom.getInstanceStrong().nextLong()));
            for (String name : List.of("NativePRNG", "NativePRNGBlocking", "NativePRNGNonBlocking")) {
                drawn.put(name, Long.toHexString(SecureRandom.getInstance(name).nextLong()));
            }
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private final class Hook implements Resource {
        private final String name;

        private Hook(String name) {
            this.name = name;
        }

        @Override
        public void beforeCheckpoint(org.crac.Context<? extends Resource> context) throws Exception {
            hooks.add("before " + name);
            if ("before".equals(System.getenv("FAULT"))) {
                throw new WetTinder("damp", null);
            }
            RANDOM.nextLong();
            buffered.add(bufferedBytes());
        }

        @Override
        public void afterRestore(org.crac.Context<? extends Resource> context) throws Exception {
            hooks.add("after " + name);
            if ("after".equals(System.getenv("FAULT"))) {
                throw new WetTinder("damp", null);
            }
            buffered.add(bufferedBytes());
            if (drawn.isEmpty()) {
                draw();
            }
        }
    }

    /** How much of what it has read of the kernel's generator the JDK would still hand out. */
    private static int bufferedBytes() throws ReflectiveOperationException {
        Field instance = Class.forName("sun.security.provider.NativePRNG").getDeclaredField("INSTANCE");
        instance.setAccessible(true);
        Object reader = instance.get(null);
        Field buffered = reader.getClass().getDeclaredField("buffered");
        buffered.setAccessible(true);
        return buffered.getInt(reader);
    }
}
