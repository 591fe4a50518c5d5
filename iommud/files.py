# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine's files look like to iommud, wherever they lie: one interface, and links that stay inside.

All paths are relative to the root of the machine, with ``/`` and without a leading one:
``sys/bus/pci/devices``. Whatever cannot be read is None, because on a live machine a file may vanish between
two calls; why it is absent is not told, since an absent fact has one meaning only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, Self

from iommud.errors import SourceError

__all__ = [
    "ABSENT",
    "LINK_LIMIT",
    "MACHINE_DEPTH",
    "READ_LIMIT",
    "ConfigFile",
    "LinkedTree",
    "Stamp",
    "Tree",
    "find_machine",
]

READ_LIMIT = 2 << 20
"""Bytes that ``read`` gives unless told otherwise: the largest device tree of arm64 (MAX_FDT_SIZE)."""

LINK_LIMIT = 40
"""Links followed on the way to one file, as the kernel does (MAXSYMLINKS, include/linux/namei.h)."""

MACHINE_DEPTH = 3
"""Directories above ``sys`` that a capture may have: ``captures/host-1/root/sys``."""

ABSENT = (OSError, ValueError)
"""What opening an absent file raises; ValueError is a path that no file can have, such as one with a NUL."""

Stamp = tuple[int, ...]
"""Identity of a file, to be compared and nothing else."""

_SEARCH_LIMIT = 4096
"""Directories of one depth in which a machine is looked for."""

_NO_NAMES = frozenset({"", ".", ".."})


class ConfigFile(ABC):
    """Configuration space of one function, opened for reading at positions; a context manager."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that the file claims to hold: 256 or 4096 on a live machine, whatever may be read of them."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes: fewer where the file ends, permission ends or the device vanished."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the open file holds; no read may follow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tree(Protocol):
    """The files of one machine.

    ``list``, ``read``, ``text`` and ``config`` follow links in every component of the path, ``link`` and
    ``exists`` in all but the last; none leaves the tree. A tree stands for one moment: where links lead is
    remembered.
    """

    @property
    def name(self) -> str:
        """What to call the source in a message."""

    @property
    def live(self) -> bool:
        """Whether the machine may change while it is read."""

    def list(self, path: str) -> list[str] | None:
        """Sorted names in a directory; None: absent, not a directory or not readable.

        A name that could not be printed (not UTF-8, or with control characters) belongs to no kernel object
        and is left out. An archive has the names that iommud reads, and may lack others.
        """

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """The first ``limit`` bytes of a regular file; None: absent, no such file or not readable."""

    def text(self, path: str) -> str | None:
        """The file without its last newline, what is not UTF-8 replaced by U+FFFD; None as for ``read``."""

    def link(self, path: str) -> str | None:
        """Target of a symbolic link as it stands there; None: absent, or no link."""

    def resolve(self, path: str) -> str | None:
        """The path without links; None: it ends nowhere, leaves the tree or takes over LINK_LIMIT links."""

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name, be it a link that leads nowhere."""

    def config(self, path: str) -> ConfigFile | None:
        """The ``config`` file of a PCI function, opened; None as for ``read``."""

    def stamp(self, path: str) -> Stamp | None:
        """What stays the same, from one tree of a machine to the next, as long as a regular file does; None: unknown.

        A file of sysfs keeps its stamp until its device goes, whatever reading it gives. A file that lies on disk has
        another one after each change.
        """


class LinkedTree(ABC):
    """What all trees share: following links inside the tree, and remembering where they led."""

    def __init__(self) -> None:
        self._real = {"": ""}  # a path that was asked for -> the same without links

    @abstractmethod
    def _link_at(self, path: str) -> str | None:
        """Target of the link at a path whose parents are no links; None: no link. Absent: raises ABSENT."""

    @abstractmethod
    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """As in ``Tree``."""

    def text(self, path: str) -> str | None:
        """As in ``Tree``."""
        content = self.read(path)
        return None if content is None else content.decode("utf-8", "replace").rstrip("\n")

    def stamp(self, path: str) -> Stamp | None:  # noqa: ARG002 - what cannot tell need not look
        """As in ``Tree``."""
        return None

    def link(self, path: str) -> str | None:
        """As in ``Tree``."""
        place = self._place(path)
        try:
            return None if place is None else self._link_at(place)
        except ABSENT:
            return None

    def exists(self, path: str) -> bool:
        """As in ``Tree``."""
        place = self._place(path)
        if place is None:
            return False
        try:
            self._link_at(place)
        except ABSENT:
            return False
        return True

    def resolve(self, path: str) -> str | None:
        """As in ``Tree``."""
        real = self._real.get(path)
        if real is None and (real := self._follow(path)) is not None:
            self._real[path] = real
        return real

    def _place(self, path: str) -> str | None:
        """The path with the links in all components but the last followed; None: there is no such place."""
        parent, _, name = path.rpartition("/")
        if path and name in _NO_NAMES:
            return None
        real = self.resolve(parent)
        return f"{real}/{name}" if real else name if real == "" else None

    def _follow(self, path: str) -> str | None:
        done: list[str] = []
        todo = path.split("/")[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name in _NO_NAMES:
                if name == ".." and not _ascend(done):
                    return None
                continue
            try:
                target = self._target("/".join((*done, name)))
            except ABSENT:
                return None
            if target is None:
                done.append(name)
            else:
                followed += 1
                if followed > LINK_LIMIT or _leads_nowhere(target):
                    return None
                todo += target.split("/")[::-1]
        return "/".join(done)

    def _target(self, path: str) -> str | None:
        if self._real.get(path) == path:
            return None
        target = self._link_at(path)
        if target is None:
            self._real[path] = path
        return target


def _ascend(directories: list[str]) -> bool:
    """Go up from the innermost directory; False at the root, above which the tree does not reach."""
    if not directories:
        return False
    directories.pop()
    return True


def _leads_nowhere(target: str) -> bool:
    # A captured tree has no root of its own, so an absolute target leads out of it.
    return not target or target.startswith("/")


def find_machine(tree: Tree) -> tuple[str, bool]:
    """Where in a capture the machine lies, at most MACHINE_DEPTH directories deep.

    Gives the path of its root, and whether that is the root of its sysfs alone. Raises SourceError if there
    is no PCI bus, or if several machines lie side by side: which of them is meant would be a guess.
    """
    level = [""]
    for _ in range(MACHINE_DEPTH + 1):
        found = [(path, only) for path in level if (only := _sysfs_only(tree, path)) is not None]
        if len(found) > 1:
            raise SourceError(tree.name, f"more than one machine in it: {found[0][0]}, {found[1][0]}")
        if found:
            return found[0]
        level = [below for path in level for below in _directories(tree, path)][:_SEARCH_LIMIT]
    raise SourceError(tree.name, "no sys/bus/pci in it")


def _sysfs_only(tree: Tree, path: str) -> bool | None:
    """Whether sysfs itself lies at the path; False: a machine with ``sys``; None: neither."""
    prefix = f"{path}/" if path else ""
    if tree.list(f"{prefix}sys/bus/pci") is not None:
        return False
    return True if tree.list(f"{prefix}bus/pci") is not None else None


def _directories(tree: Tree, path: str) -> list[str]:
    prefix = f"{path}/" if path else ""
    below = (f"{prefix}{name}" for name in tree.list(path) or ())
    return [place for place in below if tree.link(place) is None and tree.list(place) is not None]
