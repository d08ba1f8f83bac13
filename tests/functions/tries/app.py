"""A hostile guest user: tries what a function must not get, each in turn, and says what came of it by the name of its errno."""

import ctypes
import errno
import os
import socket
import stat
import time

LIBC = ctypes.CDLL(None, use_errno=True)

# x86-64; linux/ptrace.h, linux/sched.h, linux/mount.h, sys/syslog.h.
PTRACE_ATTACH = 16
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x10000000, 0x20000, 0x40000000, 0x20000000
SYSLOG_READ_ALL = 3
SYS = {
    "ptrace": 101,
    "syslog": 103,
    "pivot_root": 155,
    "chroot": 161,
    "swapon": 167,
    "reboot": 169,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "kexec_load": 246,
    "unshare": 272,
    "setns": 308,
    "process_vm_readv": 310,
    "finit_module": 313,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
}


def call(name, *arguments):
    if LIBC.syscall(SYS[name], *[ctypes.c_long(argument) for argument in arguments]) < 0:
        raise OSError(ctypes.get_errno(), name)


def opens(path, flags=os.O_RDONLY):
    return lambda: os.close(os.open(path, flags))


def lists(path):
    return lambda: os.listdir(path)


def makes(family, kind, protocol=0):
    return lambda: socket.socket(family, kind, protocol).close()


def sets_uid_bit():
    """A program of root's would need the bit on a file of root's; one of our own changes nobody, and must not run as another."""
    os.chown("/tmp/mine", 0, 0)


def writes_memory_of_init():
    with open("/proc/1/mem", "r+b", buffering=0) as memory:
        memory.seek(0x400000)
        memory.write(b"x")


def mounts_memory():
    if LIBC.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")


ATTEMPTS = {
    "read the kernel's log": lambda: call("syslog", SYSLOG_READ_ALL, 0, 0),
    "open /dev/kmsg": opens("/dev/kmsg"),
    "open /proc/kmsg": opens("/proc/kmsg"),
    "open /dev/mem": opens("/dev/mem"),
    "open /dev/port": opens("/dev/port"),
    "open /proc/kcore": opens("/proc/kcore"),
    "open /dev/vsock": opens("/dev/vsock", os.O_RDWR),
    "open a disk": opens("/dev/vda"),
    "open the console": opens("/dev/console", os.O_RDWR),
    "make a device": lambda: os.mknod("/tmp/vda", stat.S_IFBLK | 0o600, os.makedev(254, 0)),
    "make a vsock socket": makes(socket.AF_VSOCK, socket.SOCK_STREAM),
    "make a raw socket": makes(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "make a packet socket": makes(socket.AF_PACKET, socket.SOCK_RAW),
    "make a crypto socket": makes(38, socket.SOCK_SEQPACKET),
    "see what guest-init came from": opens("/init"),
    "see the memory map of process 1": opens("/proc/1/maps"),
    "write to the system": opens("/etc/passwd", os.O_WRONLY),
    "write to a control group": opens("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY),
    "change a sysctl": opens("/proc/sys/kernel/hostname", os.O_WRONLY),
    "ask for a reset": opens("/proc/sysrq-trigger", os.O_WRONLY),
    "trace guest-init": lambda: call("ptrace", PTRACE_ATTACH, os.getppid() or 1, 0, 0),
    "read memory of process 1": lambda: call("process_vm_readv", 1, 0, 0, 0, 0, 0),
    "write memory of process 1": writes_memory_of_init,
    "see the environment of process 1": opens("/proc/1/environ"),
    "see the root of process 1": lists("/proc/1/root"),
    "see what process 1 has open": lists("/proc/1/fd"),
    "signal process 1": lambda: os.kill(1, 0),
    "become root": lambda: os.setuid(0),
    "become another group": lambda: os.setgid(0),
    "give a file to root": sets_uid_bit,
    "make a user namespace": lambda: call("unshare", CLONE_NEWUSER),
    "make a mount namespace": lambda: call("unshare", CLONE_NEWNS),
    "make a network namespace": lambda: call("unshare", CLONE_NEWNET),
    "make a process namespace": lambda: call("unshare", CLONE_NEWPID),
    "mount": mounts_memory,
    "chroot": lambda: os.chroot("/tmp"),
    "pivot_root": lambda: call("pivot_root", 0, 0),
    "load a module": lambda: call("init_module", 0, 0, 0),
    "load a module from a file": lambda: call("finit_module", 0, 0, 0),
    "load a kernel": lambda: call("kexec_load", 0, 0, 0, 0),
    "load a BPF program": lambda: call("bpf", 5, 0, 0),
    "make a ring": lambda: call("io_uring_setup", 1, 0),
    "handle page faults": lambda: call("userfaultfd", 0),
    "get ports": lambda: call("iopl", 3),
    "get some ports": lambda: call("ioperm", 0x3F8, 8, 1),
    "power off": lambda: call("reboot", 0xFEE1DEAD, 672274793, 0x4321FEDC, 0),
    "swap": lambda: call("swapon", 0, 0),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
}


def outcome(attempt):
    try:
        attempt()
        return "done"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def set_id_files():
    """Files that would run as somebody else, anywhere in sight."""
    found = []
    for folder, _, names in os.walk("/", onerror=None):
        if folder.startswith(("/proc", "/sys")):
            continue
        for name in names:
            try:
                mode = os.lstat(os.path.join(folder, name)).st_mode
            except OSError:
                continue
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(os.path.join(folder, name))
    return found


def mounts():
    """File system and options of each place."""
    with open("/proc/self/mounts", encoding="utf-8") as table:
        rows = [line.split() for line in table]
    return {row[1]: {"kind": row[2], "options": row[3].split(",")} for row in rows}


def handler(event, context):
    with open("/tmp/mine", "w", encoding="utf-8") as file:
        file.write("#!/var/lang/bin/python3\n")
    os.chmod("/tmp/mine", 0o6755)
    with open("/proc/self/cgroup", encoding="utf-8") as group:
        own = group.read().strip()
    return {
        "outcomes": {name: outcome(attempt) for name, attempt in ATTEMPTS.items()},
        "set_id_files": [path for path in set_id_files() if path != "/tmp/mine"],
        "mounts": mounts(),
        "cgroup": own,
    }
