"""Takes all that it can of one thing, for as long as its event says."""

import errno
import os
import socket
import time

MIB = 1024 * 1024
PAGE = 4096
# A documentation address (RFC 5737): nobody is there.
NOBODY = ("203.0.113.1", 9)


def cpu():
    while True:
        for _ in range(10_000):
            pass
        yield


def memory():
    taken = bytearray(64 * MIB)
    while True:
        for start in range(0, len(taken), 4 * MIB):
            taken[start : start + 4 * MIB : PAGE] = bytes(4 * MIB // PAGE)
            yield


def disk():
    block = os.urandom(MIB)
    while True:
        with open("/tmp/noise", "wb", buffering=0) as file:
            for _ in range(64):
                file.write(block)
                os.fsync(file.fileno())
                yield


def vsock():
    """What is printed goes to the node over the guest's socket device."""
    line = "x" * 4096
    while True:
        print(line, flush=True)
        yield


def network():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while True:
            try:
                out.sendto(bytes(1400), NOBODY)
            except OSError as error:
                # A queue that is full is no reason to rest. One that has no network makes no noise.
                if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                    raise
            yield


KINDS = {"cpu": cpu, "memory": memory, "disk": disk, "vsock": vsock, "network": network}


def handler(event, context):
    end = time.monotonic() + event["seconds"]
    rounds = 0
    for _ in KINDS[event["kind"]]():
        rounds += 1
        if time.monotonic() >= end:
            return {"rounds": rounds}
