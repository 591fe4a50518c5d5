# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk with Debian and systemd, made from packages without root: a guest installs them, as debootstrap would.

The packages of one suite and all that they depend on are fetched, and unpacked into one archive; a guest of a minute
or two unpacks that onto an empty file system and lets dpkg install and configure each package. The disk is made once.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.guest.debian import Apt, Suite, Unavailable, fingerprint
from tests.guest.service.machine import Machine, initramfs, run_to_end
from tests.guest.supplies import Supplies, library_path

# What docs/install.md wants, systemd, and what the checks use.
PACKAGES = (
    "?essential",
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "procps", "mount", "ca-certificates"),
    *("python3", "python3-venv", "curl"),
)
DISK_MIB = 2048
BUILD_SECONDS = 1800
READY = ":iommud: the root is ready"
# With a merged /usr these are links into it, whether the packages of the suite know that or not.
MERGED = ("bin", "sbin", "lib", "lib64")

# What costs an emulated guest seconds at every boot and has no bearing on the service.
MASKED = (
    *("getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service", "systemd-timesyncd.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount"),
    *("modprobe@.service", "systemd-binfmt.service", "systemd-random-seed.service", "systemd-pstore.service"),
    *("systemd-update-utmp.service", "systemd-journal-catalog-update.service", "systemd-hwdb-update.service"),
    *("ldconfig.service", "systemd-update-done.service", "systemd-remount-fs.service"),
)
AGENT_UNIT = """\
[Unit]
Description=Runs what the host asks for
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/agent.py
Restart=always
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
"""
NETWORK_UNIT = """\
[Unit]
Description=The way to the host
ConditionPathExists=/sys/class/net/eth0
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link set lo up && ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0'
[Install]
WantedBy=multi-user.target
"""
FILES = {
    "etc/machine-id": "2f1c1c3a5d1e4f7f9a5b3c8d7e6f5a4b\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost guest\n",
    "etc/fstab": "/dev/vda / ext4 rw 0 0\n",
    "etc/systemd/system/agent.service": AGENT_UNIT,
    "etc/systemd/system/guest-network.service": NETWORK_UNIT,
}
ENABLED = ("agent.service", "guest-network.service")

# The order is debootstrap's: what configures the others comes first.
SECOND_STAGE = """\
#!/bin/sh
set -e
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C HOME=/root
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd /var/cache/packages
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
touch /var/lib/dpkg/status /var/lib/dpkg/available
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
install="dpkg --force-depends --force-unsafe-io --install"
for package in base-passwd base-files libc6 perl-base mawk debconf; do
    $install ${package}_*.deb
done
dpkg --force-depends --force-unsafe-io --force-confnew --unpack *.deb
dpkg --force-unsafe-io --force-confnew --configure -a
dpkg --audit
test -z "$(dpkg --audit)"
rm -rf /var/cache/packages /second-stage
"""
INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /target
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec >/dev/console 2>&1
for module in {modules}; do insmod /modules/$module.ko; done
while ! [ -b /dev/vdb ]; do sleep 1; done
mount -t ext4 /dev/vda /target && tar -x -f /dev/vdb -C /target && echo unpacked
for each in proc sys dev; do mkdir -p /target/$each; mount --bind /$each /target/$each; done
chroot /target /bin/sh /second-stage && echo "{ready}"
umount /target/proc /target/sys /target/dev
umount /target
poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Base:
    """A disk with a whole Debian."""

    disk: Path
    suite: str
    digest: str
    """What it was made of, in a few digits."""


def base_disk(supplies: Supplies, suite: str, kernel: str) -> Base:
    """The disk of a suite, made if there is none. Raises Unavailable with the words of whoever refused."""
    wanted = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8]
    packages = Apt(Suite(suite, "amd64"), supplies.cache).archives(PACKAGES, f"root-{wanted}")
    digest = hashlib.sha256(
        "\0".join((fingerprint(packages), SECOND_STAGE, INIT, *MASKED, *FILES, *FILES.values())).encode()
    ).hexdigest()[:12]
    disk = supplies.cache / "service" / f"{suite}-{digest}.raw"
    if not disk.exists():
        disk.parent.mkdir(parents=True, exist_ok=True)
        for old in disk.parent.glob(f"{suite}-*"):
            old.unlink()
        with tempfile.TemporaryDirectory(dir=disk.parent, prefix=".making-") as making:
            console = supplies.cache / "results" / f"service-{suite}" / "debian.log"
            _make(supplies, packages, kernel, Path(making), console)
            Path(making, "disk").rename(disk)
    return Base(disk, suite, digest)


def _make(supplies: Supplies, packages: Path, kernel: str, directory: Path, keep: Path) -> None:
    disk, archive = directory / "disk", directory / "archive"
    empty_disk(supplies, disk)
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as whole:
        for member, content in members(packages):
            whole.addfile(member, content)
    modules = ("virtio_blk", "crc32c_generic", "ext4")
    image = initramfs(supplies, kernel, modules, lambda order: INIT.format(modules=" ".join(order), ready=READY))
    machine = Machine(kernel=kernel, disks=(disk, archive), memory=1024)
    console = run_to_end(supplies, machine, image, keep, seconds=BUILD_SECONDS)
    if READY not in console:
        raise Unavailable(f"Debian did not install itself: {' | '.join(console.splitlines()[-5:])}")


def empty_disk(supplies: Supplies, path: Path) -> None:
    """An empty ext4, by Debian's own e2fsprogs."""
    tree = Apt(Suite("trixie", "amd64"), supplies.cache).unpacked(("e2fsprogs",), "e2fsprogs")
    loader = next(one for one in (tree / "lib64", tree / "usr/lib64") if (one / "ld-linux-x86-64.so.2").exists())
    program = next(one for one in (tree / "sbin/mke2fs", tree / "usr/sbin/mke2fs") if one.exists())
    run = (str(loader / "ld-linux-x86-64.so.2"), "--library-path", library_path(tree), str(program))
    options = ("-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0")
    done = subprocess.run(
        [*run, *options, str(path), f"{DISK_MIB}M"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Unavailable(f"mke2fs: {done.stderr.strip()}")


Members = Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]


def members(packages: Path) -> Members:
    """All that the guest unpacks: the files of the packages, the packages themselves, and our own files."""
    for name in MERGED:
        yield _link(name, f"usr/{name}"), None
    seen: set[str] = set()
    for package in sorted(packages.glob("*.deb")):
        yield from _files_of(package, seen)
        yield from _file(f"var/cache/packages/{package.name}", package.read_bytes())
    for path, text in FILES.items():
        yield from _file(path, text.encode())
    for unit in MASKED:
        yield _link(f"etc/systemd/system/{unit}", "/dev/null"), None
    for unit in ENABLED:
        yield _link(f"etc/systemd/system/multi-user.target.wants/{unit}", f"/etc/systemd/system/{unit}"), None
    yield from _file("second-stage", SECOND_STAGE.encode())


def _files_of(package: Path, seen: set[str]) -> Members:
    """The files of a package, each directory once, with the owners that the package names, which needs no root."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(f"{package.name}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        for member in files:
            name = merged(member.name)
            if name in MERGED or name in seen:
                continue
            seen.add(name)
            member.name = name
            if member.islnk():
                member.linkname = merged(member.linkname)
            yield member, files.extractfile(member) if member.isreg() else None


def merged(path: str) -> str:
    """A path of a package in a root whose /bin, /sbin and /lib are links into /usr."""
    path = path.removeprefix("./").rstrip("/") or "."
    top, _, rest = path.partition("/")
    return f"usr/{path}" if top in MERGED and rest else path


def _link(path: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def _file(path: str, content: bytes) -> Members:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o644
    yield member, io.BytesIO(content)


def python_of(suite: str) -> str:
    """The version of Python in a suite, as pip names it."""
    return {"bookworm": "3.11", "trixie": "3.13"}[suite]
