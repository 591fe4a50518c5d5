# SPDX-License-Identifier: GPL-2.0-or-later
"""Write an initramfs: a cpio archive in the "newc" form.

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes it. Several of them one after the
other are one initramfs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 4
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory, symbolic link or character device of the guest; all belong to root."""

    path: str
    """Without a leading slash."""
    mode: int
    """File type and permissions, as st_mode has them."""
    content: bytes = b""
    """A link's content is its target."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def directory(path: str) -> Entry:
    """A directory that everybody may look into."""
    return Entry(path, stat.S_IFDIR | 0o755)


def regular(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """A file."""
    return Entry(path, stat.S_IFREG | permissions, content)


def link(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    """A device node."""
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive. Directories that an entry lies in are added before it, once."""
    parts: list[bytes] = []
    for number, entry in enumerate(with_parents(entries), 1):
        parts.append(_record(entry, number))
    parts.append(_record(Entry(TRAILER, 0), 0))
    return b"".join(parts)


def with_parents(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries with every directory before what lies in it; the first of several with one path counts."""
    seen: set[str] = set()
    for entry in entries:
        above = entry.path.split("/")[:-1]
        for depth in range(1, len(above) + 1):
            parent = "/".join(above[:depth])
            if parent not in seen:
                seen.add(parent)
                yield directory(parent)
        if entry.path not in seen:
            seen.add(entry.path)
            yield entry


def _record(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    numbers = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def entries_of(tree: Path, *, below: str = "", skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """What lies in a directory of this machine, in order; ``below`` is where it goes, ``skip`` names what stays out.

    A name in ``skip`` leaves out files and directories of that name, wherever they are.
    """
    for directory_path, names_below, names in os.walk(tree):
        names_below[:] = sorted(set(names_below) - skip)
        here = Path(directory_path)
        links = [name for name in names_below if (here / name).is_symlink()]
        for name in sorted(set(names) - skip) + links:
            path = here / name
            yield _entry(path, str(Path(below) / path.relative_to(tree)))


def _entry(path: Path, name: str) -> Entry:
    if path.is_symlink():
        return link(name, str(path.readlink()))
    return regular(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
