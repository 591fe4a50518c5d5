# SPDX-License-Identifier: GPL-2.0-or-later
"""Record what iommud reads of a machine, so that a program that does nothing else can read the same.

usage: python -m tools.bench.record SYSFS PROCFS > PLAN
"""

from __future__ import annotations

import sys

from iommud.files import READ_LIMIT, ConfigFile
from iommud.sysfs import take_snapshot
from iommud.tree import LiveTree


class _Config(ConfigFile):
    """A ConfigFile that notes which dwords are read."""

    def __init__(self, inner: ConfigFile, offsets: list[int]) -> None:
        self._inner = inner
        self._offsets = offsets

    @property
    def size(self) -> int:
        return self._inner.size

    def read(self, offset: int, length: int) -> bytes:
        self._offsets.append(offset)
        return self._inner.read(offset, length)

    def close(self) -> None:
        self._inner.close()


class RecordingTree(LiveTree):
    """A live machine that notes each file, link and directory that it gave; what is absent is not noted."""

    def __init__(self, sysfs: str, procfs: str) -> None:
        super().__init__(sysfs, procfs)
        self.files: list[str] = []
        self.links: list[str] = []
        self.directories: list[str] = []
        self.configs: list[tuple[str, list[int]]] = []

    def list(self, path: str) -> list[str] | None:
        """As in ``Tree``."""
        found = super().list(path)
        if found is not None:
            self.directories.append(self._host_path(path))
        return found

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """As in ``Tree``."""
        found = super().read(path, limit)
        if found is not None:
            self.files.append(self._host_path(path))
        return found

    def link(self, path: str) -> str | None:
        """As in ``Tree``."""
        found = super().link(path)
        if found is not None:
            self.links.append(self._host_path(path))
        return found

    def config(self, path: str) -> ConfigFile | None:
        """As in ``Tree``."""
        found = super().config(path)
        if found is None:
            return None
        self.configs.append((self._host_path(path), []))
        return _Config(found, self.configs[-1][1])


def plan(sysfs: str, procfs: str) -> str:
    """What a check reads: one line for each kind of access, in the form that ``bare.py`` takes."""
    tree = RecordingTree(sysfs, procfs)
    take_snapshot(tree)
    configs = (f"{path} {' '.join(str(offset) for offset in offsets)}" for path, offsets in tree.configs)
    return "\n".join("\t".join(kind) for kind in (tree.directories, tree.links, tree.files, configs))


if __name__ == "__main__":
    sys.stdout.write(plan(sys.argv[1], sys.argv[2]))
