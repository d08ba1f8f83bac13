"""Looks at the machine from inside a function: what kernel, what processes, what devices, what rights."""

import os


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        return f"errno {error.errno}"


def processes():
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    return {pid: read(f"/proc/{pid}/comm") for pid in pids}


def disks():
    names = sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else []
    return {name: {"serial": read(f"/sys/block/{name}/serial"), "ro": read(f"/sys/block/{name}/ro")} for name in names}


def attempt(action):
    """The errno of what must not work, 0 when it does."""
    try:
        action()
        return 0
    except OSError as error:
        return error.errno


def write(path):
    with open(path, "w", encoding="utf-8") as file:
        file.write("x")


def handler(event, context):
    uname = os.uname()
    return {
        "uname": {"sysname": uname.sysname, "release": uname.release, "version": uname.version},
        "cmdline": read("/proc/cmdline"),
        "pid_1": read("/proc/1/comm"),
        "cpuinfo": read("/proc/cpuinfo"),
        "meminfo": read("/proc/meminfo"),
        "cpus": os.cpu_count(),
        "mounts": read("/proc/self/mounts"),
        "status": read("/proc/self/status"),
        "modules": read("/proc/modules"),
        "processes": processes(),
        "disks": disks(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "network": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else [],
        "write_task": attempt(lambda: write("/var/task/new")),
        "write_root": attempt(lambda: write("/new")),
        "write_tmp": attempt(lambda: write("/tmp/new")),
        "open_memory": attempt(lambda: open("/dev/mem", "rb")),
        "open_kmsg": attempt(lambda: open("/dev/kmsg", "rb")),
        "become_root": attempt(lambda: os.setuid(0)),
        "shells": [path for path in ("/bin/sh", "/bin/bash", "/bin/dash", "/bin/busybox") if os.path.exists(path)],
        "tmp_bytes": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
    }
