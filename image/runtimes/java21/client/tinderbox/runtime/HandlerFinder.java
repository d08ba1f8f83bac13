package tinderbox.runtime;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import com.amazonaws.services.lambda.runtime.RequestStreamHandler;
import com.fasterxml.jackson.databind.JavaType;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.lang.reflect.Type;
import java.lang.reflect.TypeVariable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;

/** Finds what {@code package.Class::method} or {@code package.Class} names, with AWS's preferences and words. */
final class HandlerFinder {
    private static final String SEPARATOR = "::";

    /** As AWS prefers them: no bridges, then the most parameters, where a context at the end counts twice. */
    private static final Comparator<Method> PREFERENCE = Comparator.comparing(Method::isBridge)
            .thenComparing(method -> -(method.getParameterCount() + (endsWithContext(method) ? 1 : 0)));

    private HandlerFinder() {}

    /** The handler; makes the instance that it is a method of. */
    static Handler find(String name, ClassLoader loader) throws Failure {
        String[] parts = name.split(SEPARATOR, -1);
        if (parts.length > 2 || Arrays.asList(parts).contains("")) {
            throw Failure.ofCode("Invalid handler: `" + name + "'");
        }
        Class<?> type = load(parts[0], loader);
        Codec codec = Codec.of(loader);
        return parts.length == 2 ? ofMethod(type, parts[1], codec) : ofInterface(type, codec);
    }

    private static Class<?> load(String name, ClassLoader loader) throws Failure {
        try {
            return Class.forName(name, true, loader);
        } catch (ClassNotFoundException missing) {
            throw Failure.ofCode("Class not found: " + name, missing);
        } catch (NoClassDefFoundError missing) {
            throw Failure.ofCode("Error loading class " + name + ": " + missing.getMessage(), missing);
        } catch (Throwable thrown) {
            String why = thrown.getMessage() == null ? "" : ": " + thrown.getMessage();
            throw Failure.ofInit("Error loading class " + name + why, thrown);
        }
    }

    private static Handler ofInterface(Class<?> type, Codec codec) throws Failure {
        if (RequestStreamHandler.class.isAssignableFrom(type)) {
            RequestStreamHandler handler = (RequestStreamHandler) instance(type);
            return ofStreams((input, output, context) -> handler.handleRequest(input, output, context));
        }
        if (RequestHandler.class.isAssignableFrom(type)) {
            @SuppressWarnings("unchecked")
            RequestHandler<Object, Object> handler = (RequestHandler<Object, Object>) instance(type);
            return ofValues(codec, eventType(type), handler::handleRequest);
        }
        throw Failure.ofCode("Class does not implement an appropriate handler interface: " + type.getName());
    }

    /** As it is written, where it is written: a function's own serializer may want its parameters. */
    private static Type eventType(Class<?> type) {
        JavaType resolved = Json.parameters(type, RequestHandler.class)[0];
        for (Method method : type.getMethods()) {
            boolean isIt = method.getName().equals("handleRequest") && method.getParameterCount() == 2;
            if (isIt && !method.isBridge() && method.getParameterTypes()[0] == resolved.getRawClass()) {
                Type written = method.getGenericParameterTypes()[0];
                return written instanceof TypeVariable ? resolved.getRawClass() : written;
            }
        }
        return resolved.getRawClass();
    }

    private static Handler ofMethod(Class<?> type, String name, Codec codec) throws Failure {
        List<Method> methods = new ArrayList<>();
        try {
            for (Method method : type.getMethods()) {
                if (method.getName().equals(name)) {
                    methods.add(method);
                }
            }
        } catch (NoClassDefFoundError missing) {
            throw Failure.ofCode("Error loading method " + name + " on class " + type.getName(), missing);
        }
        methods.sort(PREFERENCE);
        for (Method method : methods) {
            List<Class<?>> left = new ArrayList<>(Arrays.asList(method.getParameterTypes()));
            boolean takesContext = endsWithContext(method);
            if (takesContext) {
                left.remove(left.size() - 1);
            }
            if (left.contains(InputStream.class) || left.contains(OutputStream.class)) {
                boolean fits = List.of(InputStream.class, OutputStream.class).equals(left) || left.size() == 1;
                if (fits) {
                    return streams(method, left, takesContext, target(type, method));
                }
            } else if (left.size() <= 1 && !left.contains(Context.class)) {
                return values(method, left, takesContext, target(type, method), codec);
            }
        }
        throw Failure.ofCode("No public method named " + name + " with appropriate method signature found on class "
                + type.getName());
    }

    private static boolean endsWithContext(Method method) {
        Class<?>[] parameters = method.getParameterTypes();
        return parameters.length > 0 && parameters[parameters.length - 1] == Context.class;
    }

    private static Handler streams(Method method, List<Class<?>> left, boolean takesContext, Object target) {
        return ofStreams((input, output, context) -> {
            List<Object> arguments = new ArrayList<>();
            for (Class<?> parameter : left) {
                arguments.add(parameter == InputStream.class ? input : output);
            }
            if (takesContext) {
                arguments.add(context);
            }
            invoke(method, target, arguments);
        });
    }

    private static Handler values(Method method, List<Class<?>> left, boolean takesContext, Object target, Codec codec) {
        Type event = left.isEmpty() ? null : method.getGenericParameterTypes()[0];
        return ofValues(codec, event, (input, context) -> {
            List<Object> arguments = new ArrayList<>();
            if (event != null) {
                arguments.add(input);
            }
            if (takesContext) {
                arguments.add(context);
            }
            return invoke(method, target, arguments);
        });
    }

    private static Object invoke(Method method, Object target, List<Object> arguments) throws Throwable {
        try {
            return method.invoke(target, arguments.toArray());
        } catch (InvocationTargetException thrown) {
            throw thrown.getCause();
        }
    }

    /** What the method is called on; null of a static one. */
    private static Object target(Class<?> type, Method method) throws Failure {
        return Modifier.isStatic(method.getModifiers()) ? null : instance(type);
    }

    private static Object instance(Class<?> type) throws Failure {
        try {
            return type.getConstructor().newInstance();
        } catch (NoSuchMethodException missing) {
            boolean inner = type.getEnclosingClass() != null && !Modifier.isStatic(type.getModifiers());
            String why = inner
                    ? " cannot be instantiated because it is a non-static inner class"
                    : " has no public zero-argument constructor";
            throw Failure.ofCode("Class " + type.getName() + why, missing);
        } catch (InvocationTargetException thrown) {
            throw Failure.ofInit(Failure.message(thrown.getCause()), thrown.getCause());
        } catch (ReflectiveOperationException thrown) {
            throw Failure.ofCode(Failure.message(thrown), thrown);
        }
    }

    /** A function of values. An event's type is null when it takes none. */
    private static Handler ofValues(Codec codec, Type event, Values function) {
        return (document, context) -> {
            Object input;
            try {
                input = event == null ? null : codec.read(document, event);
            } catch (RuntimeException thrown) {
                throw new RuntimeException("An error occurred during JSON parsing", thrown);
            }
            Object output = function.apply(input, context);
            try {
                return codec.write(output);
            } catch (RuntimeException thrown) {
                throw new RuntimeException("An error occurred during JSON serialization of response", thrown);
            }
        };
    }

    private static Handler ofStreams(Streams function) {
        return (document, context) -> {
            ByteArrayOutputStream output = new ByteArrayOutputStream();
            function.apply(new ByteArrayInputStream(document), output, context);
            return output.toByteArray();
        };
    }

    private interface Values {
        Object apply(Object input, Context context) throws Throwable;
    }

    private interface Streams {
        void apply(InputStream input, OutputStream output, Context context) throws Throwable;
    }
}
