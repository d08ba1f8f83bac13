"""Says which machine it is in and draws from every generator, in its init: the first of its instructions that run."""

import mmap
import os
import random
import secrets
import ssl
import struct
import uuid


def text(path):
    with open(path) as file:
        return file.read().strip()


def generation():
    with open("/run/tinderbox/generation", "rb") as file:
        return struct.unpack_from("<Q", mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ), 16)[0]


# What no two sandboxes may have in common.
UNIQUE = {
    "boot_id": text("/proc/sys/kernel/random/boot_id"),
    "machine_id": text("/etc/machine-id"),
    "hostname": os.uname().nodename,
    "etc_hostname": text("/etc/hostname"),
    "instance_id": text("/run/tinderbox/instance-id"),
    "generation": generation(),
    "getrandom": os.getrandom(16).hex(),
    "kernel_uuid": text("/proc/sys/kernel/random/uuid"),
    "uuid4": str(uuid.uuid4()),
    "uuid1": str(uuid.uuid1()),
    "secrets": secrets.token_hex(16),
    "random": random.getrandbits(128),
    "openssl": ssl.RAND_bytes(16).hex(),
}


def handler(event, context):
    return {
        "unique": UNIQUE,
        "function_name": context.function_name,
        "environment": dict(os.environ),
        "tmp_bytes": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
    }
