# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of a full guest, as a QEMU command line and an initramfs that hands over to the disk."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.guest.boot import terminated_as_interrupted
from tests.guest.cpio import archive, regular
from tests.guest.debian import Unavailable
from tests.guest.image import init_archive, modules_archive
from tests.guest.machine import ALWAYS, AMD64, BY_ARCHITECTURE
from tests.guest.modules import load_order
from tests.guest.service import agent
from tests.guest.supplies import Emulator, Supplies
from tests.guest.topology import Devices

QEMU = "10"
AGENT = Path(agent.__file__)
INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /target
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in {modules}; do insmod /modules/$module.ko; done
while ! [ -b /dev/vda ]; do sleep 0.2; done
mount -t ext4 /dev/vda /target
cp /agent.py /target/usr/local/lib/agent.py
umount /dev /sys /proc
exec switch_root /target /sbin/init
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A full guest's hardware."""

    kernel: str
    """A name of `tests.guest.supplies.KERNELS`."""
    disks: tuple[Path, ...]
    """Files that become virtio disks, the first of them the root."""
    devices: Devices = ()
    parameters: tuple[str, ...] = ()
    """Words for the kernel command line, beside those that every guest gets."""
    memory: int = 512
    """MiB."""
    port: int | None = None
    """Port of this machine's loopback that leads to 9798 of the guest; None: the guest has no network."""
    keep: bool = True
    """Whether the disks keep what is written."""
    modules: tuple[str, ...] = field(default=("virtio_blk", "crc32c_generic", "ext4"))
    """Drivers in the order in which they are loaded, what they need left out."""


def initramfs(
    supplies: Supplies, kernel: str, modules: Iterable[str], script: Callable[[tuple[str, ...]], str]
) -> bytes:
    """Busybox, modules with what they need, and an init made for them in the order of loading. Raises Unavailable."""
    found = supplies.kernel(kernel, AMD64)
    order = load_order(modules, found.modules.depends_on)
    files = [regular("bin/busybox", supplies.busybox(AMD64), 0o755), regular("agent.py", AGENT.read_bytes())]
    return archive(files) + modules_archive(found, order) + init_archive(script(order))


def booting(supplies: Supplies, machine: Machine) -> bytes:
    """The initramfs that boots a machine from its first disk."""
    return initramfs(supplies, machine.kernel, machine.modules, lambda order: INIT.format(modules=" ".join(order)))


def arguments(emulator: Emulator, kernel: Path, machine: Machine, directory: Path) -> list[str]:
    """The QEMU command line; console, sockets and initramfs lie in ``directory``."""
    firmware = [part for one in emulator.firmware for part in ("-L", one)]
    devices = [part for device in machine.devices for part in ("-device", device.argument())]
    words = (*BY_ARCHITECTURE[AMD64], *ALWAYS, "net.ifnames=0", "systemd.show_status=no", *machine.parameters)
    return [
        *emulator.command[AMD64],
        *firmware,
        *("-machine", "q35", "-cpu", "max,la57=off", "-smp", "2", "-m", str(machine.memory)),
        *("-accel", "tcg,thread=multi,tb-size=128"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"),
        *("-serial", f"file:{directory / 'console.log'}"),
        *("-chardev", f"socket,id=agent,path={directory / 'agent'},server=on,wait=off", "-serial", "chardev:agent"),
        *("-kernel", str(kernel), "-initrd", str(directory / "initramfs"), "-append", " ".join(words)),
        *devices,
        *_disks(machine),
        *_network(machine),
    ]


def _disks(machine: Machine) -> list[str]:
    # Beyond the slots that topologies use. Neither asks for translation, so that the IOMMU under test cannot take the
    # guest's disk and network away; to the kernel they are functions behind it like all others.
    found: list[str] = []
    for number, path in enumerate(machine.disks):
        snapshot = "" if machine.keep else ",snapshot=on"
        found += ["-drive", f"if=none,id=disk{number},format=raw,cache=unsafe,file={path}{snapshot}"]
        found += ["-device", f"virtio-blk-pci,drive=disk{number},addr={0x18 + number:x}{MODERN}"]
    return found


MODERN = ",disable-legacy=on"


def _network(machine: Machine) -> list[str]:
    if machine.port is None:
        return []
    forwarding = f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{machine.port}-:9798"
    return ["-netdev", forwarding, "-device", f"virtio-net-pci,netdev=net0,romfile=,addr=1c{MODERN}"]


def started(supplies: Supplies, machine: Machine, image: bytes, directory: Path) -> subprocess.Popen[bytes]:
    """QEMU, started. Raises Unavailable."""
    emulator, kernel = supplies.emulator(QEMU), supplies.kernel(machine.kernel, AMD64)
    (directory / "initramfs").write_bytes(image)
    command = arguments(emulator, kernel.image, machine, directory)
    with (directory / "qemu.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "QEMU_MODULE_DIR": str(emulator.modules), "TMPDIR": str(directory)},
            start_new_session=True,
        )


def run_to_end(supplies: Supplies, machine: Machine, image: bytes, keep: Path, *, seconds: float) -> str:
    """Run a machine until it powers itself off; what it printed, which ``keep`` holds as well.

    Raises Unavailable when it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as name, terminated_as_interrupted():
        place = Path(name)
        process = started(supplies, machine, image, place)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the guest did not end in {seconds:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            log = place / "console.log"
            console = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            keep.parent.mkdir(parents=True, exist_ok=True)
            keep.write_text(console, encoding="utf-8")
    return console
