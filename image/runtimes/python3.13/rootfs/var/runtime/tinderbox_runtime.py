"""What the runtime adds around the unmodified runtime interface client: the search path, and fresh randomness in clones.

The kernel of a resumed clone is unique before any instruction of it runs; generators inside a process are not, unless
somebody reseeds them. Those of Python's standard library are reseeded here, before the function's own after-restore
hooks. See docs/uniqueness.md.
"""

import os
import sys


def reseed():
    """Gives every generator of the standard library that this process has loaded fresh bytes of the kernel's."""
    if random := sys.modules.get("random"):
        random.seed()
    if ssl := sys.modules.get("_ssl"):
        # OpenSSL reseeds its primary generator now, and each thread's before its next use.
        ssl.RAND_add(os.urandom(32), 32.0)
    if uuid := sys.modules.get("uuid"):
        # uuid1's node (a random one: there is no network interface) and clock.
        uuid._node = None
        uuid._last_timestamp = None


def run(program):
    """Runs the client for the function that the environment names. Does not return."""
    runtime_dir = os.environ.get("LAMBDA_RUNTIME_DIR", "/var/runtime")
    # The function's own modules first, then those of layers, then the runtime's, then what Python brings.
    first = [
        os.environ.get("LAMBDA_TASK_ROOT", "/var/task"),
        "/opt/python/lib/python3.13/site-packages",
        "/opt/python",
        runtime_dir,
    ]
    sys.path[:] = first + [path for path in sys.path if path not in first]
    # For Python processes that the function starts.
    os.environ.setdefault("PYTHONPATH", runtime_dir)

    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        from snapshot_restore_py import register_after_restore

        register_after_restore(reseed)

    from awslambdaric.__main__ import main

    main([program, os.environ.get("_HANDLER", "")])
