"""A function that is root in its guest, with every right and no filter: tries to get out of it, and says what came of each
attempt by the name of its errno, or `done`."""

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import termios
import time

LIBC = ctypes.CDLL(None, use_errno=True)

# linux/vm_sockets.h, linux/fs.h, linux/reboot.h; x86-64.
CIDS = (0, 1, 2, 4, 5, 1000)
PORTS = (0, 1, 22, 80, 1023, 1025, 8080, 9000, 0xFFFFFFFE)
HOST, CONTROL_PORT = 2, 1024
BLKROSET = 0x125D
SYS_IOPL, SYS_INIT_MODULE, SYS_KEXEC_LOAD = 172, 175, 246
# Major number of the first block devices that the kernel gives away: the virtio disks'.
DISKS = 254
SECTOR = 512
FLOOD = 300
# What a snapshot holds and nobody touches before it is asked for.
LARGE = bytes(range(256)) * (32 << 10)


def named(error):
    return errno.errorcode.get(error.errno, str(error.errno))


def reach(cid, port):
    """What a connection brings: an errno, `closed`, or bytes of whoever is there."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        try:
            stream.connect((cid, port))
            stream.sendall(b"hello")
            return "answered" if stream.recv(1) else "closed"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return named(error)


def outcomes(cids, ports):
    return sorted({reach(cid, port) for cid in cids for port in ports})


def flood():
    """Connections to the control port that stay open: how many of them somebody answered."""
    streams, answered = [], 0
    for _ in range(FLOOD):
        stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        stream.setblocking(False)
        stream.connect_ex((HOST, CONTROL_PORT))
        streams.append(stream)
    time.sleep(1)
    for stream in streams:
        try:
            stream.send(b"hello")
        except OSError:
            pass
    time.sleep(1)
    for stream in streams:
        try:
            answered += bool(stream.recv(1))
        except OSError:
            pass
        stream.close()
    return answered


def write_disk(number):
    """Writes the first sector of a disk past the page cache, after taking its read-only flag away."""
    path = f"/tmp/disk-{number}"
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(DISKS, 16 * number))
    try:
        disk = os.open(path, os.O_RDONLY)
        try:
            fcntl.ioctl(disk, BLKROSET, (0).to_bytes(4, "little"))
        finally:
            os.close(disk)
        disk = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, mmap.PAGESIZE) as block:
                block.write(b"x" * SECTOR)
                os.pwrite(disk, memoryview(block)[:SECTOR], 0)
            os.fsync(disk)
        finally:
            os.close(disk)
        return "done"
    except OSError as error:
        return named(error)
    finally:
        os.unlink(path)


def opens(name, major, minor):
    path = f"/tmp/{name}"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open(path, os.O_RDWR))
        return "done"
    except OSError as error:
        return named(error)
    finally:
        os.unlink(path)


def call(number, *arguments):
    if LIBC.syscall(number, *[ctypes.c_long(argument) for argument in arguments]) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def attempts():
    # /tmp has no devices; what root mounts for itself has.
    if LIBC.mount(b"own", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None) < 0:
        return {"mount": errno.errorcode[ctypes.get_errno()]}
    try:
        return {
            "mount": "done",
            "other ports": outcomes((HOST,), PORTS),
            "other machines": outcomes([cid for cid in CIDS if cid != HOST], (CONTROL_PORT, 1025)),
            "the agent again": reach(HOST, CONTROL_PORT),
            "a flood that the agent answers": flood(),
            "write to the runtime's disk": write_disk(0),
            "write to the code's disk": write_disk(1),
            "open /dev/mem": opens("mem", 1, 1),
            "open /dev/port": opens("port", 1, 4),
            "get ports": call(SYS_IOPL, 3),
            "load a module": call(SYS_INIT_MODULE, 0, 0, 0),
            "load a kernel": call(SYS_KEXEC_LOAD, 0, 0, 0, 0),
        }
    finally:
        LIBC.umount2(b"/tmp", 0)


def on_the_serial_port(line):
    """What a hostile guest says to its own VMM, at the moment when nothing of it is buffered any more."""
    LIBC.mount(b"own", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None)
    os.mknod("/tmp/serial", stat.S_IFCHR | 0o600, os.makedev(4, 64))
    with open("/tmp/serial", "w", encoding="utf-8") as port:
        port.write(line + "\n")
        port.flush()
        termios.tcdrain(port)
    LIBC.umount2(b"/tmp", 0)


def panic():
    """Has the kernel panic instead of ending whoever takes too much memory, and takes it."""
    LIBC.mount(b"own", b"/tmp", b"proc", ctypes.c_ulong(0), None)
    with open("/tmp/sys/vm/panic_on_oom", "w", encoding="utf-8") as setting:
        # In any group.
        setting.write("2")
    taken = []
    while True:
        taken.append(b"x" * (1 << 20))


def handler(event, context):
    if "say" in event:
        on_the_serial_port(event["say"])
        # A disk that is read and memory that is not there yet: its I/O thread and its pager serve it.
        return {"sum": sum(LARGE), "programs": len(os.listdir("/usr/bin"))}
    if event.get("end") == "reset":
        # LINUX_REBOOT_CMD_RESTART
        LIBC.syscall(169, ctypes.c_long(0xFEE1DEAD), ctypes.c_long(672274793), ctypes.c_long(0x1234567), 0)
    if event.get("end") == "panic":
        panic()
    return {"user": os.geteuid(), "attempts": attempts()}
