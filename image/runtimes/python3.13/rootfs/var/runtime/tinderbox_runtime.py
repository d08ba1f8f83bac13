"""What the runtime adds around the unmodified runtime interface client: the search path, and what snapshots need.

The kernel of a resumed clone is unique before any instruction of it runs; generators inside a process are not, unless
somebody reseeds them. Those of Python's standard library are reseeded here, before the function's own after-restore
hooks. See docs/uniqueness.md. What every clone would otherwise do again is done here once, before the snapshot.
"""

import gc
import os
import re
import sys

# At a connection that nobody takes: ten seconds, which is what a restore has.
ATTEMPTS = 10


def settle():
    """Does what the next event would do first, and lets the collector forget what is there: the last of this process
    before a snapshot."""
    # What reseeding and the client need.
    import _ssl
    import http.client  # noqa: F401

    # OpenSSL makes its generators with the first byte asked of them. Each clone reseeds them.
    _ssl.RAND_bytes(1)
    # A collection visits every object it knows: in a clone, some 1,300 pages of memory that nothing else asks for.
    gc.collect()
    gc.freeze()


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


def layer_folders(named):
    """Where modules of layers lie, for a function whose `AWS_EXECUTION_ENV` is this: those for this Python before those for
    the one that the function names, which it stands in for. What is compiled runs in the former alone."""
    versions = [f"python{sys.version_info.major}.{sys.version_info.minor}"]
    if asked := re.fullmatch(r"AWS_Lambda_(python3\.[0-9]{1,2})", named):
        versions.append(asked[1])
    folders = [f"/opt/python/lib/{version}/site-packages" for version in versions]
    return [*dict.fromkeys(folders), "/opt/python"]


def ask_again(client, error, ask=None, use_backoff=False):
    """The client's `handle_exception`, which ends the process when it has no event: it gives a connection one second, and a
    clone may need longer for its first one, as what it touches is fetched meanwhile. Each attempt finds more of it there."""
    for _ in range(ATTEMPTS if ask else 0):
        try:
            return ask()
        except RuntimeError as latest:
            error = latest
    raise error


def run(program):
    """Runs the client for the function that the environment names. Does not return."""
    runtime_dir = os.environ.get("LAMBDA_RUNTIME_DIR", "/var/runtime")
    # The function's own modules first, then those of layers, then the runtime's, then what Python brings.
    first = [
        os.environ.get("LAMBDA_TASK_ROOT", "/var/task"),
        *layer_folders(os.environ.get("AWS_EXECUTION_ENV", "")),
        runtime_dir,
    ]
    sys.path[:] = first + [path for path in sys.path if path not in first]
    # For Python processes that the function starts.
    os.environ.setdefault("PYTHONPATH", runtime_dir)

    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        from snapshot_restore_py import register_after_restore, register_before_snapshot

        # Hooks before a snapshot run in reverse order: the first to be registered comes last.
        register_before_snapshot(settle)
        register_after_restore(reseed)

    from awslambdaric.__main__ import main
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    LambdaRuntimeClient.handle_exception = ask_again
    main([program, os.environ.get("_HANDLER", "")])
