# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives of a machine, read into memory as they stream by, and the choice between all kinds of sources.

Nothing is ever written to disk. Which members are kept, ignored or refused is written in ``iommud.members``,
what an archive may cost in ``iommud.tarstream.Limits``.
"""

# ruff: noqa: PTH112, PTH123 - a source is a string that the user typed, not always the name of a file

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from iommud.decompress import decompressed
from iommud.errors import ArchiveError, SourceError
from iommud.files import READ_LIMIT, ConfigFile, LinkedTree, Tree, find_machine
from iommud.members import Collector, Directory, Node, Padded, node_at
from iommud.tarstream import Limits, TarStream
from iommud.tree import DirectoryTree, open_live

__all__ = ["ArchiveTree", "open_source", "read_archive"]


class _MemoryConfig(ConfigFile):
    """A ConfigFile that an archive held."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]

    def close(self) -> None:
        pass


class ArchiveTree(LinkedTree):
    """The files of an archive, held in memory, as ``read_archive`` makes it."""

    live = False

    def __init__(self, name: str, root: Directory) -> None:
        super().__init__()
        self.name = name
        self._root = root
        self._opened: dict[str, Node | None] = {}  # directories without links, to be found in one step

    def below(self, path: str, *, sysfs_only: bool) -> ArchiveTree:
        """The machine whose root, or whose sysfs, is at the path, which ``find_machine`` gave."""
        node = self._at(path)
        assert isinstance(node, dict)  # noqa: S101 - find_machine has listed it
        return ArchiveTree(self.name, {"sys": node} if sysfs_only else node)

    def list(self, path: str) -> list[str] | None:
        """As in ``Tree``."""
        real = self.resolve(path)
        node = None if real is None else self._at(real)
        return sorted(node) if isinstance(node, dict) else None

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """As in ``Tree``."""
        place = self._place(path)
        node = None if place is None else self._at(place)
        if isinstance(node, str):
            real = self.resolve(path)
            node = None if real is None else self._at(real)
        if isinstance(node, Padded):
            return node.head[:limit].ljust(min(limit, node.size), b"\0")
        return node[:limit] if isinstance(node, bytes) else None

    def config(self, path: str) -> ConfigFile | None:
        """As in ``Tree``."""
        content = self.read(path)
        return None if content is None else _MemoryConfig(content)

    def _link_at(self, path: str) -> str | None:
        node = self._at(path)
        if node is None:
            raise FileNotFoundError(path)
        return node if isinstance(node, str) else None

    def _at(self, path: str) -> Node | None:
        """What lies at a path without links in its parents."""
        parent, _, name = path.rpartition("/")
        if not parent:
            return self._root.get(name) if name else self._root
        if parent not in self._opened:
            self._opened[parent] = node_at(self._root, parent.split("/"))
        directory = self._opened[parent]
        return directory.get(name) if isinstance(directory, dict) else None


def read_archive(stream: BinaryIO, name: str, limits: Limits | None = None) -> ArchiveTree:
    """Read a ``.tar``, ``.tar.gz`` or ``.tar.xz``, told apart by their first bytes, to the end of the stream.

    ``name`` is what messages call it. Raises SourceError for an archive that is damaged, hostile or too
    large.
    """
    limits = limits or Limits()
    collector = Collector(limits)
    try:
        members = TarStream(decompressed(_pieces(stream), limits.xz_memory), limits)
        for member in members:
            collector.add(member, members)
    except ArchiveError as error:
        raise SourceError(name, error.problem, path=error.path) from error
    except OSError as error:
        raise SourceError(name, error.strerror or "cannot be read") from error
    return ArchiveTree(name, collector.root)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(1 << 16):
        yield piece


def open_source(
    source: str | None = None,
    *,
    sysfs: str = "/sys",
    procfs: str = "/proc",
    stdin: BinaryIO | None = None,
    limits: Limits | None = None,
) -> Tree:
    """Open what was named: nothing, this machine; ``-``, an archive on ``stdin``; a directory; an archive.

    Of a directory or an archive the machine is found below directories that only wrap it (``find_machine``).
    Raises SourceError if the source cannot be read or holds no PCI bus.
    """
    if not source:
        return open_live(sysfs, procfs)
    if source == "-":
        return _machine_in(read_archive(stdin or sys.stdin.buffer, "-", limits))
    try:
        if os.path.isdir(source):
            return _machine_in(DirectoryTree(source))
        with open(source, "rb") as stream:
            return _machine_in(read_archive(stream, source, limits))
    except OSError as error:
        raise SourceError(source, error.strerror or "cannot be read") from error
    except ValueError as error:
        raise SourceError(source, "no file can have this name") from error


def _machine_in(tree: DirectoryTree | ArchiveTree) -> Tree:
    path, sysfs_only = find_machine(tree)
    if isinstance(tree, ArchiveTree):
        return tree.below(path, sysfs_only=sysfs_only)
    return DirectoryTree(f"{tree.name}/{path}" if path else tree.name, name=tree.name, sysfs_only=sysfs_only)
