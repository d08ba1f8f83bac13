"""Answers with what its event says, after as long as it says."""

import time


def handler(event, context):
    time.sleep(event.get("wait_s", 0))
    return event.get("say")
