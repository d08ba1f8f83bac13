package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.CustomPojoSerializer;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.lang.reflect.Type;
import java.util.Iterator;
import java.util.ServiceConfigurationError;
import java.util.ServiceLoader;

/** Between a function's types and their documents: by the runtime, or by what the function brings for it. */
interface Codec {
    /** A value of a document. */
    Object read(byte[] document, Type type);

    /** The document of a value. */
    byte[] write(Object value);

    /** The function's. */
    static Codec of(ClassLoader loader) throws Failure {
        try {
            Iterator<CustomPojoSerializer> found = ServiceLoader.load(CustomPojoSerializer.class, loader).iterator();
            if (!found.hasNext()) {
                return new OfRuntime();
            }
            CustomPojoSerializer serializer = found.next();
            if (found.hasNext()) {
                throw Failure.ofCode(
                        "Too many serializers provided inside the META-INF/services folder, only one is allowed");
            }
            return new OfFunction(serializer);
        } catch (ServiceConfigurationError broken) {
            throw Failure.ofInit(Failure.message(broken), broken);
        }
    }

    /** {@link Json#FUNCTION}. */
    final class OfRuntime implements Codec {
        @Override
        public Object read(byte[] document, Type type) {
            return Json.FUNCTION.read(document, type);
        }

        @Override
        public byte[] write(Object value) {
            return Json.FUNCTION.write(value);
        }
    }

    /** The service that a function brings. */
    record OfFunction(CustomPojoSerializer serializer) implements Codec {
        @Override
        public Object read(byte[] document, Type type) {
            return serializer.fromJson(new ByteArrayInputStream(document), type);
        }

        @Override
        public byte[] write(Object value) {
            ByteArrayOutputStream output = new ByteArrayOutputStream();
            serializer.toJson(value, output, value == null ? Object.class : value.getClass());
            return output.toByteArray();
        }
    }
}
