# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels built from Debian's source: all drivers built in, as developers test, and one with a mended fault put back.

The founding thread was written with kernels of 2022 whose drivers were built in. Debian has none such: its drivers are
modules, and its 6.1 received the fix. So the source package of Debian 12 is built twice, once as it is and once
without the fix; sources and build tree are removed again, and what is kept is the image, its release and its
configuration.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.guest.debian import Apt, Suite, Unavailable
from tests.guest.machine import AMD64, ARM64, Architecture
from tests.guest.modules import ModuleTree
from tests.guest.supplies import Kernel, Supplies

SUITE = "bookworm"
SERIES = "6.1"
SOURCE_PACKAGE = f"linux-source-{SERIES}"
JOBS = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One line of the source that is changed."""

    path: str
    present: str
    """What must be there, exactly once."""
    instead: str

    def apply(self, source: Path) -> None:
        """Change the line. Raises Unavailable where it is not there exactly once: the source is another one."""
        file = source / self.path
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        found = text.count(self.present)
        if found != 1:
            raise Unavailable(f"{self.path} has {self.present!r} {found} times, not once: the fix cannot be taken back")
        file.write_text(text.replace(self.present, self.instead), encoding="utf-8")


# 47d26684185d "ACPI: VIOT: Initialize the correct IOMMU fwspec", in mainline 6.4 and in 6.1.30: the aliases of a device
# are written into its own record again, no longer into that of the bridge which takes them.
WITHOUT_VIOT_FIX = Edit(
    path="drivers/acpi/viot.c",
    present="return viot_dev_iommu_init(aliased_dev, ",
    instead="return viot_dev_iommu_init(&pdev->dev, ",
)
# In the order in which they are built from one tree; each keeps the edits of those before it.
KERNELS_FROM_SOURCE: Mapping[str, tuple[Edit, ...]] = {"6.1builtin": (), "6.1bug": (WITHOUT_VIOT_FIX,)}

# What a guest of the lab needs, beginning from a configuration that has nothing (make allnoconfig).
CONFIGURED = """
    64BIT SMP BLK_DEV_INITRD BINFMT_ELF BINFMT_SCRIPT PRINTK BUG MULTIUSER SYSFS PROC_FS PROC_SYSCTL TMPFS SHMEM
    DEVTMPFS FUTEX EPOLL SIGNALFD TIMERFD EVENTFD AIO POSIX_TIMERS HIGH_RES_TIMERS NO_HZ_IDLE TTY NET UNIX INET ACPI
    PCI PCI_MSI PCIEPORTBUS PCIEAER HOTPLUG_PCI HOTPLUG_PCI_SHPC
    IOMMU_SUPPORT VIRTIO_MENU VIRTIO_PCI VIRTIO_IOMMU
    NETDEVICES NET_CORE VIRTIO_NET ETHERNET NET_VENDOR_INTEL E1000
"""
CONFIGURED_FOR: Mapping[Architecture, str] = {
    AMD64: """
        PCI_MMCONFIG HOTPLUG_PCI_ACPI SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_8250_PNP HPET_TIMER
        BLOCK SCSI BLK_DEV_SD ATA SATA_AHCI LPC_ICH I2C I2C_I801
    """,
    ARM64: "PCI_HOST_GENERIC ARM_SMMU_V3 SERIAL_AMBA_PL011 SERIAL_AMBA_PL011_CONSOLE EFI",
}
MAKE_VARIABLES: Mapping[Architecture, tuple[str, ...]] = {
    AMD64: ("ARCH=x86_64",),
    ARM64: ("ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"),
}
IMAGES: Mapping[Architecture, str] = {AMD64: "arch/x86/boot/bzImage", ARM64: "arch/arm64/boot/Image"}

# Of the host: a compiler with its C library is more than can be unpacked beside another one.
HOST_PROGRAMS: Mapping[str, str] = {
    "gcc": "gcc",
    "make": "make",
    "ld": "binutils",
    "perl": "perl",
    "tar": "tar",
    "xz": "xz-utils",
}
TOOL_PACKAGES = ("flex", "bison", "bc", "libelf-dev", "gcc-aarch64-linux-gnu")
# Of all that these depend on, what is not on every machine that has a compiler; no C library.
TOOLS = re.compile(
    r"(flex|bison|m4|bc|lib(elf1|elf-dev|readline8|tinfo6|gmp10|isl23|mpfr6|mpc3|jansson4|binutils|zstd1)"
    r"|zlib1g|zlib1g-dev|binutils-aarch64-linux-gnu|(gcc|cpp)(-12)?-aarch64-linux-gnu|libgcc-12-dev-arm64-cross)$"
)
TOOL_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


class SuppliesWithSource(Supplies):
    """Supplies that build a kernel at its first use where Debian has none such."""

    def __init__(self, cache: Path, say: Say = lambda _: None, jobs: int = JOBS) -> None:
        super().__init__(cache)
        self._say = say
        self._jobs = jobs

    def kernel(self, name: str, architecture: Architecture) -> Kernel:
        """A kernel by its name. Raises Unavailable with the words of apt or of the build."""
        if name not in KERNELS_FROM_SOURCE:
            return super().kernel(name, architecture)
        if not (_kept(self.cache, name, architecture) / "release").exists():
            build(self.cache, architecture, self._say, self._jobs)
        return built_kernel(_kept(self.cache, name, architecture))


def built_kernel(directory: Path) -> Kernel:
    """The kernel that was kept in a directory. It has no modules."""
    release = (directory / "release").read_text(encoding="utf-8").strip()
    return Kernel(release=release, image=directory / "image", modules=ModuleTree(directory))


def _kept(cache: Path, name: str, architecture: Architecture) -> Path:
    return cache / "kernels" / f"{name}-{architecture}"


def build(cache: Path, architecture: Architecture, say: Say, jobs: int = JOBS) -> None:
    """Build the kernels of an architecture, and keep them. Raises Unavailable with the reason."""
    if missing := [package for program, package in HOST_PROGRAMS.items() if shutil.which(program) is None]:
        raise Unavailable(f"building a kernel needs programs of this machine: apt-get install {' '.join(missing)}")
    apt = Apt(Suite(SUITE, AMD64), cache)
    source = apt.unpacked((SOURCE_PACKAGE,), SOURCE_PACKAGE, wanted=lambda name: name == SOURCE_PACKAGE)
    tools = apt.unpacked(TOOL_PACKAGES, "build-tools", wanted=lambda name: bool(TOOLS.match(name)))
    (cache / "kernels").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "kernels", prefix=".building-") as name:
        building = Path(name)
        say(f"unpacking {SOURCE_PACKAGE}")
        _run(["tar", "--extract", "--file", str(next(source.glob("usr/src/*.tar.xz")))], building, dict(os.environ))
        tree = Tree(source=building / SOURCE_PACKAGE, output=building / "output", architecture=architecture, jobs=jobs)
        tree.prepare(tools, building / "tools")
        for kernel, edits in KERNELS_FROM_SOURCE.items():
            say(f"building {kernel} for {architecture}")
            for edit in edits:
                edit.apply(tree.source)
            _keep(tree.build(kernel), _kept(cache, kernel, architecture))


def _keep(made: Path, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    made.rename(directory)


class Tree:
    """An unpacked source, from which kernels of one architecture are built one after the other."""

    def __init__(self, *, source: Path, output: Path, architecture: Architecture, jobs: int) -> None:
        self.source = source
        self.output = output
        self.architecture = architecture
        self.jobs = jobs
        self.environment = dict(os.environ)
        self._variables: tuple[str, ...] = ()

    def prepare(self, tools: Path, wrappers: Path) -> None:
        """Have the tools at hand and write the configuration. Raises Unavailable if the source has not all of it."""
        wrap(tools, wrappers)
        libraries = [tools / path for path in TOOL_LIBRARIES]
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', os.defpath)}:{wrappers}",
            "M4": shutil.which("m4") or str(wrappers / "m4"),
            "KBUILD_BUILD_USER": "iommud",
            "KBUILD_BUILD_HOST": "guest-lab",
            "LC_ALL": "C",
        }
        if shutil.which("bison") is None:
            self.environment["BISON_PKGDATADIR"] = str(tools / "usr/share/bison")
        self._variables = (
            f"O={self.output}",
            *MAKE_VARIABLES[self.architecture],
            f"HOSTCFLAGS=-I{tools / 'usr/include'}",
            "HOSTLDFLAGS=" + " ".join(f"-L{path} -Wl,-rpath,{path}" for path in libraries),
        )
        self._configure(wanted_symbols(self.architecture))

    def _configure(self, symbols: tuple[str, ...]) -> None:
        self.output.mkdir()
        wanted = self.output / "wanted.config"
        wanted.write_text("".join(f"CONFIG_{symbol}=y\n" for symbol in symbols))
        self._make(f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig")
        lines = (self.output / ".config").read_text(encoding="utf-8").splitlines()
        if missing := [symbol for symbol in symbols if f"CONFIG_{symbol}=y" not in lines]:
            raise Unavailable(f"{self.source.name} does not let itself be configured with {' '.join(missing)}")

    def build(self, name: str) -> Path:
        """Build a kernel from the source as it is now: a directory with ``image``, ``config`` and ``release``."""
        self._make(f"-j{self.jobs}", f"LOCALVERSION=-{name.replace('.', '')}", IMAGES[self.architecture].split("/")[-1])
        kept = self.output / f"kept-{name}"
        kept.mkdir()
        shutil.copy(self.output / IMAGES[self.architecture], kept / "image")
        shutil.copy(self.output / ".config", kept / "config")
        shutil.copy(self.output / "include/config/kernel.release", kept / "release")
        return kept

    def _make(self, *arguments: str) -> None:
        _run(["make", "--silent", *self._variables, *arguments], self.source, self.environment)


def wanted_symbols(architecture: Architecture) -> tuple[str, ...]:
    """The configuration of a kernel: what is built in."""
    return tuple(f"{CONFIGURED} {CONFIGURED_FOR[architecture]}".split())


def wrap(tools: Path, wrappers: Path) -> None:
    """Scripts that start what was unpacked with its own libraries; what the machine has itself comes first."""
    wrappers.mkdir()
    libraries = ":".join(str(tools / path) for path in TOOL_LIBRARIES)
    for program in sorted((tools / "usr/bin").iterdir()):
        if shutil.which(program.name) is None:
            script = wrappers / program.name
            start = f"LD_LIBRARY_PATH={shlex.quote(libraries)} exec {shlex.quote(str(program))}"
            script.write_text(f'#!/bin/sh\n{start} "$@"\n')
            script.chmod(0o755)


def _run(command: list[str], directory: Path, environment: Mapping[str, str]) -> None:
    """Run a command to its end; whatever it has started ends with it. Raises Unavailable with its last words."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, errors = process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        words = " ".join(errors.split())[-500:]
        raise Unavailable(f"{command[0]} {command[-1]}: {words or f'ended with {process.returncode}'}")
