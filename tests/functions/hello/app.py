"""Answers with its event and with what the platform told it."""

import os
import time


def sandbox():
    """Names this sandbox: two answers with the same name came from the same one, be it booted or a clone."""
    with open("/run/tinderbox/instance-id") as file:
        return file.read().strip()


def handler(event, context):
    print("hello from", context.function_name)
    if event.get("raise"):
        raise KeyError(event["raise"])
    if event.get("hold_s"):
        time.sleep(event["hold_s"])
    if event.get("answer_bytes"):
        return "x" * event["answer_bytes"]
    client_context = context.client_context
    return {
        "event": event,
        "variable": os.environ.get("VARIABLE"),
        "sandbox": sandbox(),
        "function_name": context.function_name,
        "function_version": context.function_version,
        "invoked_function_arn": context.invoked_function_arn,
        "memory_limit_in_mb": context.memory_limit_in_mb,
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "custom": client_context.custom if client_context else None,
    }
