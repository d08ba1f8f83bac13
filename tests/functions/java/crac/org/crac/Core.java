package org.crac;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.util.Map;
import java.util.WeakHashMap;

/**
 * In place of org.crac's library, which no registry of ours has: finds the implementation as that does, in the package that a
 * property names, and hands it proxies, which live as long as the resources behind them.
 */
public final class Core {
    private static final Context<Resource> GLOBAL = new Forwarding(System.getProperty("org.crac.Core.Compat"));

    private Core() {}

    /** The one context. */
    public static Context<Resource> getGlobalContext() {
        return GLOBAL;
    }

    private static final class Forwarding extends Context<Resource> {
        private final Map<Resource, Object> proxies = new WeakHashMap<>();
        private final String implementation;

        private Forwarding(String implementation) {
            this.implementation = implementation;
        }

        @Override
        public void register(Resource resource) {
            InvocationHandler told = (proxy, method, arguments) -> switch (method.getName()) {
                case "beforeCheckpoint" -> {
                    resource.beforeCheckpoint(this);
                    yield null;
                }
                case "afterRestore" -> {
                    resource.afterRestore(this);
                    yield null;
                }
                default -> method.invoke(resource, arguments);
            };
            try {
                Class<?> type = Class.forName(implementation + ".Resource");
                Object global = Class.forName(implementation + ".Core").getMethod("getGlobalContext").invoke(null);
                Object proxy = Proxy.newProxyInstance(Core.class.getClassLoader(), new Class<?>[] {type}, told);
                proxies.put(resource, proxy);
                Class.forName(implementation + ".Context").getMethod("register", type).invoke(global, proxy);
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public void beforeCheckpoint(Context<? extends Resource> context) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void afterRestore(Context<? extends Resource> context) {
            throw new UnsupportedOperationException();
        }
    }
}
