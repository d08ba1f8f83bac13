"""The function `cargo xtask run` creates: answers with a greeting and with where it runs."""

import os
import platform


def handler(event, context):
    print(f"request {context.aws_request_id}")
    with open("/proc/uptime") as uptime:
        seconds_since_boot = float(uptime.read().split()[0])
    return {
        "greeting": f"Hello, {event.get('name', 'world')}!",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "microvm_uptime_s": seconds_since_boot,
        "memory_mb": os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
    }
