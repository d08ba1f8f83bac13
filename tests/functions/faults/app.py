"""Misbehaves as its event says."""

import os
import time

MIB = 1024 * 1024


def fork_bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass


def fill_tmp():
    """Writes to /tmp until it is full; the errno and how much fitted."""
    block = b"\xa5" * MIB
    written = 0
    with open("/tmp/filler", "wb", buffering=0) as file:
        while True:
            try:
                written += file.write(block)
            except OSError as error:
                return {"errno": error.errno, "written": written}


def eat_memory():
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1)) * (4 * MIB))


def close_descriptors():
    os.closerange(0, 4096)


def run_out_of_time():
    while True:
        time.sleep(1)


def exit_with(status):
    os._exit(status)


FAULTS = {
    "fork_bomb": fork_bomb,
    "fill_tmp": fill_tmp,
    "eat_memory": eat_memory,
    "close_descriptors": close_descriptors,
    "run_out_of_time": run_out_of_time,
    "exit_0": lambda: exit_with(0),
    "exit_3": lambda: exit_with(3),
    "well": lambda: "well",
}


def handler(event, context):
    print("about to", event["fault"])
    return FAULTS[event["fault"]]()
