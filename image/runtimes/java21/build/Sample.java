import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.security.SecureRandom;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** A function as many are: what the runtime loads for it goes into the archive of classes. */
public class Sample implements RequestHandler<Sample.Order, Map<String, Object>> {
    /** An event. */
    public static class Order {
        private String name;
        private int count;
        private double price;
        private boolean last;
        private List<String> tags;
        private Map<String, Object> more;
    }

    /** A part of an answer. */
    public record Line(String name, long count, List<String> tags) {}

    private final SecureRandom random = new SecureRandom();

    @Override
    public Map<String, Object> handleRequest(Order order, Context context) {
        if (order.last) {
            System.exit(0);
        }
        System.out.println("an order of " + order.name + ", " + context.getRemainingTimeInMillis());
        context.getLogger().log(String.format("%d times", order.count));
        Line line = new Line(order.name, order.count + random.nextInt(2), order.tags);
        return Map.of("id", UUID.randomUUID().toString(), "line", line, "more", order.more);
    }
}
