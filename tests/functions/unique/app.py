"""Draws one of everything that must differ between clones, first thing after a resume, and tells it when it is asked.

It lets itself be snapshotted when the guest is as old as `AGE_S` says, in seconds. Samples are taken at three places: by a process that spins on the kernel's generator across the snapshot, by the first
after-restore hook, and by a process that was started before the snapshot and follows the published generation.
"""

import json
import mmap
import os
import random
import secrets
import select
import ssl
import struct
import subprocess
import sys
import time
import uuid

from snapshot_restore_py import register_after_restore, register_before_snapshot

GENERATION = "/run/tinderbox/generation"
SAMPLES = {}
BEFORE = {}

# How many values of the spinner are told: enough that two clones with one state would share most of them.
SPINS = 200

# A snapshot takes longer than this, in seconds, and nothing else sets the clock.
CLOCK_STEP = 0.05


class Generation:
    """The generation page, mapped once."""

    def __init__(self):
        with open(GENERATION, "rb") as file:
            self.page = mmap.mmap(file.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ)

    def counter(self):
        return struct.unpack_from("<Q", self.page, 16)[0]


def text(path):
    with open(path) as file:
        return file.read().strip()


def urandom():
    with open("/dev/urandom", "rb") as file:
        return file.read(16).hex()


def tls_client_random():
    """The 32 bytes after message type, length and version of a ClientHello (RFC 8446 4.1.2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        pass
    record_header, handshake_header = 5, 6
    hello = outgoing.read()
    return hello[record_header + handshake_header :][:32].hex()


def sample():
    return {
        "getrandom": os.getrandom(16).hex(),
        "urandom": urandom(),
        "kernel_uuid": text("/proc/sys/kernel/random/uuid"),
        "boot_id": text("/proc/sys/kernel/random/boot_id"),
        "machine_id": text("/etc/machine-id"),
        "hostname": os.uname().nodename,
        "etc_hostname": text("/etc/hostname"),
        "instance_id": text("/run/tinderbox/instance-id"),
        "generation": Generation().counter(),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "secrets": secrets.token_hex(16),
        "random": random.getrandbits(128),
        "openssl": ssl.RAND_bytes(16).hex(),
        "tls_client_random": tls_client_random(),
    }


def clocks_apart():
    """The wall clock less the monotonic one, which every resume sets anew, even where no generation is published."""
    return time.time() - time.monotonic()


def spin():
    """A process of its own: draws without a pause across the snapshot, and tells what it drew first after the resume."""
    generation = Generation()
    known, apart = generation.counter(), clocks_apart()
    kept = []
    os.write(1, b"!")
    while True:
        before = generation.counter()
        value = os.getrandom(16)
        # As the documentation asks of who must not miss a resume between a draw and its use.
        if generation.counter() != before:
            continue
        if before != known:
            known, apart, kept = before, clocks_apart(), []
        elif abs(clocks_apart() - apart) > CLOCK_STEP:
            # This one may be from before.
            apart, kept = clocks_apart(), []
            continue
        if len(kept) < SPINS:
            kept.append(value.hex())
        if select.select([0], [], [], 0)[0]:
            os.read(0, 1)
            print(json.dumps(kept), flush=True)


def follow():
    """A process of its own with an OpenSSL that was seeded before the snapshot; reseeds when the generation changes."""
    generation = Generation()
    known = generation.counter()
    ssl.RAND_bytes(16)
    os.write(1, b"!")
    while sys.stdin.buffer.read(1):
        if generation.counter() != known:
            known = generation.counter()
            ssl.RAND_add(os.urandom(32), 32.0)
        print(json.dumps(ssl.RAND_bytes(16).hex()), flush=True)


def start(what):
    child = subprocess.Popen(
        [sys.executable, __file__, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    child.stdout.read(1)
    return child


def line(child):
    told = b""
    while not told.endswith(b"\n"):
        told += child.stdout.read(1)
    return json.loads(told)


@register_before_snapshot
def before():
    time.sleep(max(0, float(os.environ.get("AGE_S", 0)) - time.monotonic()))
    # Every generator is seeded, so that a clone that is not made unique repeats it.
    BEFORE.update(sample())


@register_after_restore
def after():
    SAMPLES.update(sample())
    FOLLOWER.stdin.write(b"1")
    SAMPLES["openssl_of_older_process"] = line(FOLLOWER)
    SPINNER.stdin.write(b"1")
    SAMPLES["spinner"] = line(SPINNER)


def handler(event, context):
    return {"after": SAMPLES, "before": BEFORE, "restored": bool(SAMPLES)}


if __name__ == "__main__":
    {"spin": spin, "follow": follow}[sys.argv[1]]()
else:
    SPINNER = start("spin")
    FOLLOWER = start("follow")
