package tinderbox.runtime;

import com.amazonaws.services.lambda.crac.CheckpointException;
import com.amazonaws.services.lambda.crac.Core;
import com.amazonaws.services.lambda.crac.RestoreException;
import java.lang.reflect.Field;
import java.util.Collection;
import java.util.Map;

/**
 * What is done around a snapshot: the function's hooks, and what the JDK keeps that no two clones may share.
 *
 * <p>The JDK's default {@code SecureRandom} reads from the kernel, of which each clone's is another one, but ahead: up to 64 KiB
 * of a block are handed out for 100 ms by the wall clock. What is left of a block is thrown away, before the snapshot and after
 * it, as threads of the function may draw meanwhile. See docs/uniqueness.md.
 */
final class Checkpoint {
    /** The JDK's readers of the kernel's generator: one for {@code SecureRandom} as such, and for each name it can be asked by. */
    private static final String[] READERS = {
        "sun.security.provider.NativePRNG",
        "sun.security.provider.NativePRNG$Blocking",
        "sun.security.provider.NativePRNG$NonBlocking",
    };

    private Checkpoint() {}

    /** The last of this process before a snapshot. */
    static void before() throws CheckpointException, ReflectiveOperationException {
        Core.getGlobalContext().beforeCheckpoint(null);
        forgetNames();
        // A clone's collector would visit, and so load, all of it.
        System.gc();
        forgetRandom();
    }

    /** The first of this process in a clone. */
    static void after() throws RestoreException, ReflectiveOperationException {
        forgetRandom();
        Core.getGlobalContext().afterRestore(null);
    }

    /** Names may have other addresses by now. */
    private static void forgetNames() throws ReflectiveOperationException {
        Class<?> address = Class.forName("java.net.InetAddress");
        ((Map<?, ?>) open(address, "cache").get(null)).clear();
        ((Collection<?>) open(address, "expirySet").get(null)).clear();
    }

    private static void forgetRandom() throws ReflectiveOperationException {
        for (String name : READERS) {
            Object reader = open(Class.forName(name), "INSTANCE").get(null);
            if (reader == null) {
                continue;
            }
            synchronized (open(reader.getClass(), "LOCK_GET_BYTES").get(reader)) {
                open(reader.getClass(), "buffered").setInt(reader, 0);
            }
        }
    }

    /** The runtime's jar has these packages opened to it: {@code build/Build.java}. */
    private static Field open(Class<?> owner, String name) throws ReflectiveOperationException {
        Field field = owner.getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }
}
