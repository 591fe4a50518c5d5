# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules as they lie in a package: which file holds one, what it needs first, its decompressed bytes.

A package has no modules.dep (depmod writes it at installation), so what a module needs is read from the module:
``depends=`` in its .modinfo section (scripts/mod/modpost.c).
"""

from __future__ import annotations

import lzma
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

SUFFIX = re.compile(r"\.ko(\.xz|\.zst|\.gz)?$")
XZ_MAGIC = b"\xfd7zXZ\0"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def module_name(path: str) -> str:
    """The name by which other modules know the one in a file: without suffix, with ``_`` for ``-``."""
    return SUFFIX.sub("", path.rsplit("/", 1)[-1]).replace("-", "_")


def depends(module: bytes) -> tuple[str, ...]:
    """The modules that a module needs, from its own bytes; none where it says nothing."""
    found = re.search(rb"(?:^|\0)depends=([\w,-]*)\0", module)
    return tuple(name.replace("-", "_") for name in found[1].decode().split(",") if name) if found else ()


def load_order(wanted: Iterable[str], depends_on: Callable[[str], Iterable[str] | None]) -> tuple[str, ...]:
    """The wanted modules and all that they need, each after what it needs.

    ``depends_on`` gives None for a module that there is not: it is built in, or this kernel has none, and is left out.
    """
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        needs = None if name in seen else depends_on(name)
        seen.add(name)
        if needs is not None:
            for need in needs:
                visit(need)
            order.append(name)

    for name in wanted:
        visit(name)
    return tuple(order)


class ModuleTree:
    """The modules of one kernel."""

    def __init__(self, directory: Path) -> None:
        files = (path for path in directory.rglob("*.ko*") if SUFFIX.search(path.name))
        self._files: Mapping[str, Path] = {module_name(path.name): path for path in files}
        self._read: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """The decompressed module, or None where there is no such module."""
        if name not in self._files:
            return None
        if name not in self._read:
            self._read[name] = decompressed(self._files[name].read_bytes())
        return self._read[name]

    def depends_on(self, name: str) -> tuple[str, ...] | None:
        """What a module needs, or None where there is no such module."""
        module = self.read(name)
        return None if module is None else depends(module)


def decompressed(data: bytes) -> bytes:
    """The bytes of a module, whichever way the distribution compressed it."""
    if data.startswith(XZ_MAGIC):
        return lzma.decompress(data)
    if data.startswith(ZSTD_MAGIC):
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    return data
