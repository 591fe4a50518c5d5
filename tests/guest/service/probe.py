# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside the guest, as a command of a unit before its own: tries what the unit must not be able to do.

Prints one line, ``PROBE`` and a JSON object: for each attempt ``done``, or the name of the error that ended it.
"""

# ruff: noqa: PTH108, PTH123, PTH207, PTH208 - as close to the system calls as Python goes

from __future__ import annotations

import ctypes
import errno
import glob
import json
import mmap
import os
import socket
import time
from collections.abc import Callable

FINIT_MODULE = 313
MODULE = "/srv/iommud/dummy.ko"
CLONE_NEWNS = 0x00020000
libc = ctypes.CDLL(None, use_errno=True)


def call(result: int) -> None:
    """Raise what a system call says."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def opened(path: str, flags: int) -> None:
    """Open a file and leave it as it is."""
    os.close(os.open(path, flags))


def config_spaces() -> list[str]:
    """The `config` files of all PCI functions."""
    return sorted(glob.glob("/sys/bus/pci/devices/*/config"))


def write_sysfs_mount() -> None:
    """Sysfs is mounted so that nobody can write."""
    if os.statvfs("/sys").f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "")


def load_module() -> None:
    """Load a module from a file."""
    number = os.open(MODULE, os.O_RDONLY)
    try:
        call(libc.syscall(FINIT_MODULE, number, b"", 0))
    finally:
        os.close(number)


def listed(path: str) -> None:
    """See at least one name in a directory."""
    if not os.listdir(path):
        raise OSError(errno.ENOENT, "")


def created(path: str) -> None:
    """Make a file."""
    open(path, "w").close()
    os.unlink(path)


def made_socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    """Make a socket."""
    socket.socket(family, kind).close()


def writable_and_executable() -> None:
    """Memory for code of one's own."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def others_processes() -> None:
    """See the service manager among the processes."""
    opened("/proc/1/status", os.O_RDONLY)


def interfaces() -> None:
    """See a network interface that is not the loopback; sysfs may show those of another network namespace."""
    with open("/proc/self/net/dev", encoding="utf-8") as file:
        names = [line.partition(":")[0].strip() for line in file if ":" in line]
    if names == ["lo"]:
        raise OSError(errno.ENODEV, "")


def long_config() -> None:
    """Read more of config space than the kernel gives to everybody."""
    number = os.open(config_spaces()[0], os.O_RDONLY)
    try:
        if len(os.pread(number, 4096, 0)) <= 64:
            raise OSError(errno.EPERM, "")
    finally:
        os.close(number)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write to sysfs": lambda: opened("/sys/bus/pci/rescan", os.O_WRONLY),
    "mount of sysfs": write_sysfs_mount,
    "write config space": lambda: opened(config_spaces()[0], os.O_RDWR),
    "read all config space": long_config,
    "write /proc/sys": lambda: opened("/proc/sys/kernel/panic", os.O_WRONLY),
    "load a module": load_module,
    "see /home": lambda: listed("/home"),
    "see /root": lambda: listed("/root"),
    "read /etc/shadow": lambda: opened("/etc/shadow", os.O_RDONLY),
    "write /etc": lambda: created("/etc/probe"),
    "write /opt/iommud": lambda: created("/opt/iommud/probe"),
    "write /srv": lambda: created("/srv/probe"),
    "TCP": lambda: made_socket(socket.AF_INET),
    "TCP over IPv6": lambda: made_socket(socket.AF_INET6),
    "raw packets": lambda: made_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink": lambda: made_socket(socket.AF_NETLINK, socket.SOCK_DGRAM),
    "see network interfaces": interfaces,
    "see disks": lambda: opened("/dev/vda", os.O_RDONLY),
    "read the kernel log": lambda: opened("/dev/kmsg", os.O_RDONLY),
    "see other processes": others_processes,
    "signal other processes": lambda: os.kill(1, 0),
    "mount": lambda: call(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
    "make a namespace": lambda: call(libc.unshare(CLONE_NEWNS)),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "set the host's name": lambda: socket.sethostname(socket.gethostname()),
    "memory to write and execute": writable_and_executable,
    "become root": lambda: os.setuid(0),
}


def main() -> None:
    """Try everything and say what came of it."""
    found = {name: outcome(attempt) for name, attempt in ATTEMPTS.items()}
    print("PROBE " + json.dumps(found | {"status": own_status()}), flush=True)


def outcome(attempt: Callable[[], object]) -> str:
    """``done`` or the name of an error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def own_status() -> dict[str, str]:
    """User, capabilities and filters of this process."""
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {name: fields[name] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


if __name__ == "__main__":
    main()
