# SPDX-License-Identifier: GPL-2.0-or-later
"""Where kernels, emulators and the rest of a guest come from, and how a tree of packages becomes something to run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.guest.debian import Apt, Suite, Unavailable, packages_of
from tests.guest.machine import ARM64, Architecture
from tests.guest.modules import ModuleTree


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a kernel comes from."""

    suite: str
    release: str | None = None
    """What its release begins with, where the suite keeps older ones. None: the one that the suite recommends."""


# The name of a kernel is its series. Which release of it a run had is in the results.
KERNELS: Mapping[str, Origin] = {
    "5.10": Origin("bullseye"),
    "6.1": Origin("bookworm"),
    "6.12": Origin("trixie"),
    # The last release in which no function finds its virtio-iommu, and the first of the series that has it mended.
    "6.16.3": Origin("trixie-backports", "6.16.3+"),
    "6.16": Origin("trixie-backports", "6.16."),
    "6.18": Origin("trixie-backports", "6.18."),
    "7.2": Origin("sid"),
    "7.3": Origin("trixie-backports"),
}
QEMUS: Mapping[str, str] = {"7.2": "bookworm", "10": "trixie", "11": "sid"}
QEMU_PACKAGES = ("qemu-system-x86", "qemu-system-arm", "qemu-efi-aarch64", "seabios", "ipxe-qemu")
KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules)\b")
# iommud's oldest Python is Debian 12's.
PYTHON_SUITE = "bookworm"
LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that can be booted."""

    release: str
    """As uname -r says."""
    image: Path
    modules: ModuleTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A QEMU that can be started."""

    version: str
    command: Mapping[Architecture, tuple[str, ...]]
    firmware: tuple[str, ...]
    uefi: str
    modules: Path
    """Where its loadable parts lie: QEMU_MODULE_DIR."""


class Supplies:
    """All that guests need, fetched at first use."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._kernels: dict[tuple[str, Architecture], Kernel] = {}
        self._emulators: dict[str, Emulator] = {}

    def kernel(self, name: str, architecture: Architecture) -> Kernel:
        """A kernel by the name of its series. Raises Unavailable with apt's words."""
        key = name, architecture
        if key not in self._kernels:
            self._kernels[key] = kernel_in(self._kernel_tree(name, architecture))
        return self._kernels[key]

    def emulator(self, name: str) -> Emulator:
        """A QEMU by its series, run on this machine with its own loader. Raises Unavailable with apt's words."""
        if name not in self._emulators:
            tree = Apt(Suite(QEMUS[name], "amd64"), self.cache).unpacked(QEMU_PACKAGES, "qemu")
            self._emulators[name] = emulator_in(tree)
        return self._emulators[name]

    def python(self, architecture: Architecture) -> Path:
        """A tree with Debian's Python and what pyudev loads."""
        return Apt(Suite(PYTHON_SUITE, architecture), self.cache).unpacked(("python3", "libudev1"), "python")

    def busybox(self, architecture: Architecture) -> bytes:
        """The static busybox."""
        tree = Apt(Suite(PYTHON_SUITE, architecture), self.cache).unpacked(("busybox-static",), "busybox")
        return (tree / "bin/busybox").read_bytes()

    def _kernel_tree(self, name: str, architecture: Architecture) -> Path:
        origin = KERNELS[name]
        # Debian 11's last arm64 updates are in the lists of its security archive, and gone from its pool.
        security = not (origin.suite == "bullseye" and architecture is ARM64)
        apt = Apt(Suite(origin.suite, architecture, security), self.cache)
        if origin.release is None:
            return apt.unpacked((f"linux-image-{architecture}",), "linux", wanted=_is_kernel)
        label = f"linux-{name}"
        if (kept := apt.tree(label)) is not None:
            return kept
        newest = apt.named(kernel_pattern("image", origin.release, architecture))[-1]
        release = newest.removeprefix("linux-image-").removesuffix(f"-{architecture}")
        names = apt.named(kernel_pattern("(image|binary|modules)", release, architecture))
        return apt.unpacked(names, label, alone=True)


def kernel_pattern(part: str, release: str, architecture: Architecture) -> str:
    """The names of packages with a part of a kernel, whose release begins like that; no real-time or cloud kernel."""
    return rf"^linux-{part}-{re.escape(release)}[0-9+deb.]*-{architecture}$"


def _is_kernel(package: str) -> bool:
    return bool(KERNEL_PACKAGE.match(package))


def kernel_in(tree: Path) -> Kernel:
    """The kernel of a tree, wherever its suite puts it. Raises Unavailable if there is none."""
    images = sorted([*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")])
    modules = sorted([*tree.glob("lib/modules/*/kernel"), *tree.glob("usr/lib/modules/*/kernel")])
    if not images or not modules:
        raise Unavailable(f"no kernel among {' '.join(packages_of(tree))}")
    return Kernel(release=modules[0].parent.name, image=images[0], modules=ModuleTree(modules[0]))


def emulator_in(tree: Path) -> Emulator:
    """The QEMU of a tree."""
    loader = next(path for path in (tree / "lib64", tree / "usr/lib64") if (path / "ld-linux-x86-64.so.2").exists())
    run = (str(loader / "ld-linux-x86-64.so.2"), "--library-path", library_path(tree))
    binaries = {Architecture.AMD64: "qemu-system-x86_64", Architecture.ARM64: "qemu-system-aarch64"}
    command = {one: (*run, str(tree / "usr/bin" / binary)) for one, binary in binaries.items()}
    return Emulator(
        version=version_of(command[Architecture.AMD64]),
        command=command,
        firmware=tuple(str(tree / path) for path in FIRMWARE),
        uefi=str(tree / "usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        modules=tree / "usr/lib/x86_64-linux-gnu/qemu",
    )


def version_of(command: tuple[str, ...]) -> str:
    """QEMU's version in its own words. Raises Unavailable if it cannot be started here."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout)
    if not found:
        raise Unavailable(f"QEMU does not start: {done.stderr.strip()[-300:]}")
    return found[1]


def library_path(tree: Path) -> str:
    """Where the libraries of a tree lie; some packages keep theirs a directory deeper."""
    found = [tree / path for path in LIBRARIES]
    deeper = {path.parent for one in found for path in one.glob("*/*.so.*")}
    return ":".join(str(path) for path in (*found, *sorted(deeper)))
