package tinderbox.runtime;

import com.fasterxml.jackson.annotation.JsonAutoDetect;
import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.annotation.PropertyAccessor;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JavaType;
import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.deser.std.UntypedObjectDeserializer;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.module.SimpleModule;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.reflect.Type;
import java.nio.charset.StandardCharsets;

/** JSON, by a library that functions do not see. */
final class Json {
    /** For documents of the runtime's own. */
    static final Json OWN =
            new Json(JsonMapper.builder().disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES).build());

    /**
     * Between a function's types and their documents, as AWS's runtime does it: members are a class's fields, whatever their
     * access and without annotations; those of an event that a class does not have are passed over, and those of an answer that
     * are null are left out; a number that goes where any value may is a {@code Double}. Names are compared without their case:
     * fields of the types for events begin with small letters, some events' members do not.
     */
    static final Json FUNCTION = new Json(JsonMapper.builder()
            .enable(MapperFeature.ACCEPT_CASE_INSENSITIVE_PROPERTIES)
            .disable(MapperFeature.USE_ANNOTATIONS)
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .disable(SerializationFeature.FAIL_ON_EMPTY_BEANS)
            .visibility(PropertyAccessor.ALL, JsonAutoDetect.Visibility.NONE)
            .visibility(PropertyAccessor.FIELD, JsonAutoDetect.Visibility.ANY)
            .defaultPropertyInclusion(
                    JsonInclude.Value.construct(JsonInclude.Include.NON_NULL, JsonInclude.Include.NON_NULL))
            .addModule(new SimpleModule()
                    .addDeserializer(Object.class, new AnyValue()))
            .addModule(new Instances())
            .build());

    private final ObjectMapper mapper;

    private Json(ObjectMapper mapper) {
        this.mapper = mapper;
    }

    /** The types that a class gives to the parameters of an interface. */
    static JavaType[] parameters(Class<?> implementation, Class<?> type) {
        return FUNCTION.mapper.getTypeFactory().constructType(implementation).findTypeParameters(type);
    }

    /** A value; null of an empty document. */
    Object read(byte[] document, Type type) {
        try {
            return document.length == 0 ? null : mapper.readValue(document, mapper.constructType(type));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A value of a type that the runtime knows. */
    <T> T read(String document, Class<T> type) {
        return type.cast(read(document.getBytes(StandardCharsets.UTF_8), type));
    }

    /** A document. */
    byte[] write(Object value) {
        try {
            return mapper.writeValueAsBytes(value);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static final class AnyValue extends UntypedObjectDeserializer {
        private static final long serialVersionUID = 1;

        AnyValue() {
            super((JavaType) null, (JavaType) null);
        }

        @Override
        public Object deserialize(JsonParser parser, DeserializationContext context) throws IOException {
            return parser.hasToken(JsonToken.VALUE_NUMBER_INT)
                    ? (Object) parser.getDoubleValue()
                    : super.deserialize(parser, context);
        }
    }
}
