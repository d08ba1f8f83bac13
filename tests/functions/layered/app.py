"""Says what it finds of its layers: modules, a library, a program, and what it may do to them."""

import base64
import ctypes
import importlib
import os
import shutil


def module(name):
    """Which layer a module is of, and where it lies; nothing if no layer has it."""
    try:
        found = importlib.import_module(name)
    except ImportError:
        return None
    return {"layer": found.LAYER, "file": found.__file__}


def library():
    """What the loader finds by name alone, as it does for what a module is linked with."""
    try:
        found = ctypes.CDLL("libof_layer.so")
    except OSError as error:
        return str(error)
    found.zlibVersion.restype = ctypes.c_char_p
    return found.zlibVersion().decode()


def write(path):
    """The errno of what must not work, 0 when it does."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write("x")
        return 0
    except OSError as error:
        return error.errno


def owner(path):
    status = os.stat(path)
    return [status.st_uid, status.st_gid, status.st_mode & 0o7777]


def handler(event, context):
    if "read" in event:
        with open(event["read"], "rb") as file:
            return base64.b64encode(file.read()).decode()
    return {
        "modules": {name: module(name) for name in ("first", "second", "both")},
        "library": library(),
        "program": shutil.which("of-layer"),
        "opt": sorted(os.listdir("/opt")),
        "task": sorted(os.listdir("/var/task")),
        "root": sorted(os.listdir("/")),
        "owner": owner("/opt"),
        "writes": [write("/opt/new"), write("/opt/python/both.py"), write("/var/task/new")],
    }
