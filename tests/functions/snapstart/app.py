"""Tells what happened around its snapshot; misbehaves there as the variable FAULT says."""

import os
import time
import uuid

from snapshot_restore_py import register_after_restore, register_before_snapshot

FAULT = os.environ.get("FAULT")

# Made by the init, so that all clones of one snapshot have it.
INIT = str(uuid.uuid4())
# Made by the hook, so that no two clones have it.
CLONE = []
HOOKS = []


def misbehave(where):
    if FAULT == f"{where} raises":
        raise ValueError("wet tinder")
    if FAULT == f"{where} exits":
        os._exit(3)
    if FAULT == f"{where} hangs":
        time.sleep(3600)


@register_before_snapshot
def before():
    HOOKS.append("before")
    misbehave("before")


@register_after_restore
def after():
    HOOKS.append("after")
    CLONE.append(str(uuid.uuid4()))
    misbehave("after")


def handler(event, context):
    time.sleep(event.get("hold_s", 0))
    return {
        "hooks": HOOKS,
        "init": INIT,
        "clone": CLONE,
        "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
        "version": context.function_version,
        "arn": context.invoked_function_arn,
    }


# While a test looks at what is served meanwhile.
time.sleep(float(os.environ.get("INIT_S", 0)))
misbehave("init")
