"""Says at which step of its life it is, so that somebody can be killed then."""

import os
import time

from snapshot_restore_py import register_after_restore

# A line takes a moment to whoever waits for it: as long, the function stays where it is.
PAUSE_S = 1


def say(step):
    print(f"step: {step}", flush=True)
    time.sleep(PAUSE_S)


@register_after_restore
def after():
    say("hook")


def handler(event, context):
    say("event")
    return {"version": context.function_version, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}


say("init")
