package tinderbox.runtime;

import com.fasterxml.jackson.core.Version;
import com.fasterxml.jackson.databind.BeanDescription;
import com.fasterxml.jackson.databind.DeserializationConfig;
import com.fasterxml.jackson.databind.DeserializationContext;
import com.fasterxml.jackson.databind.Module;
import com.fasterxml.jackson.databind.deser.ValueInstantiator;
import com.fasterxml.jackson.databind.deser.ValueInstantiators;
import java.io.IOException;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import sun.misc.Unsafe;

/**
 * Instances of classes that have no constructor for it: AWS's runtime makes them without one, and types for events count on
 * that. And those that are written as a text and read by their own {@code parse}: times, mostly.
 */
final class Instances extends Module {
    @Override
    public String getModuleName() {
        return "instances";
    }

    @Override
    public Version version() {
        return Version.unknownVersion();
    }

    @Override
    public void setupModule(SetupContext context) {
        context.addValueInstantiators(new ValueInstantiators.Base() {
            @Override
            public ValueInstantiator findValueInstantiator(
                    DeserializationConfig config, BeanDescription described, ValueInstantiator found) {
                Class<?> type = described.getBeanClass();
                boolean concrete = !type.isInterface() && !Modifier.isAbstract(type.getModifiers());
                boolean canMake = found.canCreateUsingDefault() || found.canCreateFromObjectWith();
                return concrete && !canMake ? new Unconstructed(type) : found;
            }
        });
    }

    private static final class Unconstructed extends ValueInstantiator.Base {
        private static final Unsafe UNSAFE = unsafe();

        private final Method parse;

        Unconstructed(Class<?> type) {
            super(type);
            parse = parser(type);
        }

        @Override
        public boolean canCreateUsingDefault() {
            return true;
        }

        @Override
        public Object createUsingDefault(DeserializationContext context) throws IOException {
            try {
                return UNSAFE.allocateInstance(getValueClass());
            } catch (InstantiationException e) {
                return context.handleInstantiationProblem(getValueClass(), null, e);
            }
        }

        @Override
        public boolean canCreateFromString() {
            return parse != null;
        }

        @Override
        public Object createFromString(DeserializationContext context, String text) throws IOException {
            try {
                return parse.invoke(null, text);
            } catch (InvocationTargetException e) {
                return context.handleInstantiationProblem(getValueClass(), text, e.getCause());
            } catch (IllegalAccessException e) {
                return context.handleInstantiationProblem(getValueClass(), text, e);
            }
        }

        private static Method parser(Class<?> type) {
            for (Class<?> text : new Class<?>[] {String.class, CharSequence.class}) {
                try {
                    Method found = type.getMethod("parse", text);
                    if (Modifier.isStatic(found.getModifiers()) && type.isAssignableFrom(found.getReturnType())) {
                        return found;
                    }
                } catch (NoSuchMethodException e) {
                    // The next one.
                }
            }
            return null;
        }

        private static Unsafe unsafe() {
            try {
                Field field = Unsafe.class.getDeclaredField("theUnsafe");
                field.setAccessible(true);
                return (Unsafe) field.get(null);
            } catch (ReflectiveOperationException e) {
                throw new AssertionError(e);
            }
        }
    }
}
