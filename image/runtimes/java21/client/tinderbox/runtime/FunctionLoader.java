package tinderbox.runtime;

import java.io.File;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Loads a function: its own folder, the jars in {@code lib} of it, then those of its layers. Lambda's interfaces come from the
 * runtime even when the function brings them, so that there is one of each; nothing else of the runtime's is visible, its JSON
 * library least of all.
 */
final class FunctionLoader extends URLClassLoader {
    private static final String LAYERS = "/opt/java/lib";

    static {
        registerAsParallelCapable();
    }

    private FunctionLoader(URL[] places) {
        super(places, new Shared());
    }

    /** The one of this process's function. */
    static FunctionLoader ofEnvironment() throws MalformedURLException {
        File root = new File(System.getenv("LAMBDA_TASK_ROOT"));
        List<URL> places = new ArrayList<>();
        places.add(root.toURI().toURL());
        addJars(new File(root, "lib"), places);
        addJars(new File(LAYERS), places);
        return new FunctionLoader(places.toArray(URL[]::new));
    }

    private static void addJars(File folder, List<URL> places) throws MalformedURLException {
        File[] jars = folder.listFiles((parent, name) -> name.endsWith(".jar"));
        if (jars == null) {
            return;
        }
        Arrays.sort(jars);
        for (File jar : jars) {
            places.add(jar.toURI().toURL());
        }
    }

    /** The JDK, and what function and runtime must agree on. */
    private static final class Shared extends ClassLoader {
        private static final String[] PACKAGES = {
            "com.amazonaws.services.lambda.runtime.", "com.amazonaws.services.lambda.crac.",
        };

        static {
            registerAsParallelCapable();
        }

        Shared() {
            super(ClassLoader.getPlatformClassLoader());
        }

        @Override
        protected Class<?> findClass(String name) throws ClassNotFoundException {
            for (String shared : PACKAGES) {
                if (name.startsWith(shared)) {
                    // Events' types have the prefix, too, and are the function's: they are not found here.
                    return getSystemClassLoader().loadClass(name);
                }
            }
            throw new ClassNotFoundException(name);
        }
    }
}
