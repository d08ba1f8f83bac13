import java.util.Map;

/** The smallest function in Java: {@code Hello::handle}. It needs none of Lambda's interfaces. */
public class Hello {
    public Map<String, Object> handle(Map<String, Object> event) {
        return Map.of("hello", event.getOrDefault("name", "world"), "java", System.getProperty("java.version"));
    }
}
