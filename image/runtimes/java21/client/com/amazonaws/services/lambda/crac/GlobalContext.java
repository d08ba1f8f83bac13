package com.amazonaws.services.lambda.crac;

import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/** Tells its resources in the reverse order of their registration before a snapshot, and in that order after it. */
final class GlobalContext extends Context<Resource> {
    /** Weak, as CRaC has it: who registers a resource keeps it. */
    private final List<WeakReference<Resource>> registered = new ArrayList<>();

    @Override
    public synchronized void register(Resource resource) {
        registered.add(new WeakReference<>(Objects.requireNonNull(resource)));
    }

    @Override
    public void beforeCheckpoint(Context<? extends Resource> context) throws CheckpointException {
        List<Resource> resources = alive();
        Collections.reverse(resources);
        CheckpointException failed = new CheckpointException();
        for (Resource resource : resources) {
            try {
                resource.beforeCheckpoint(this);
            } catch (CheckpointException nested) {
                gather(failed, nested);
            } catch (Exception thrown) {
                failed.addSuppressed(thrown);
            }
        }
        if (failed.getSuppressed().length > 0) {
            throw failed;
        }
    }

    @Override
    public void afterRestore(Context<? extends Resource> context) throws RestoreException {
        RestoreException failed = new RestoreException();
        for (Resource resource : alive()) {
            try {
                resource.afterRestore(this);
            } catch (RestoreException nested) {
                gather(failed, nested);
            } catch (Exception thrown) {
                failed.addSuppressed(thrown);
            }
        }
        if (failed.getSuppressed().length > 0) {
            throw failed;
        }
    }

    /** Not while hooks run: one may register another. */
    private synchronized List<Resource> alive() {
        List<Resource> resources = new ArrayList<>();
        for (WeakReference<Resource> reference : registered) {
            Resource resource = reference.get();
            if (resource != null) {
                resources.add(resource);
            }
        }
        return resources;
    }

    /** What a context within this one has gathered, or that exception itself when somebody else threw it. */
    private static void gather(Exception failed, Exception nested) {
        Throwable[] gathered = nested.getSuppressed();
        for (Throwable thrown : gathered.length > 0 ? gathered : new Throwable[] {nested}) {
            failed.addSuppressed(thrown);
        }
    }
}
