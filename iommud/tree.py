# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a machine that runs here, or that was captured into a directory.

With the archives this is the rim: nothing above it opens a file of a machine.
"""

# ruff: noqa: PTH115, PTH208 - pathlib costs more than the system call beneath it; a snapshot makes 100,000 of
# them

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from iommud.credentials import ABSENT_FILE, credentials_of
from iommud.errors import SourceError
from iommud.files import ABSENT, READ_LIMIT, ConfigFile, LinkedTree, Stamp

__all__ = ["DirectoryTree", "LiveTree", "open_live"]

_CHUNK = 4096
"""Bytes asked for at once: kernfs never gives more than a page (kernfs_file_read_iter, fs/kernfs/file.c)."""

_BULK = 1 << 16
"""Bytes asked for at once of a file that need not lie in sysfs."""

_PLAIN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
# A FIFO would block the opener for ever without O_NONBLOCK, and a link at the end could lead out of the root.
_GUARDED = _PLAIN | os.O_NONBLOCK | os.O_NOFOLLOW


class _DescriptorConfig(ConfigFile):
    """A ConfigFile on an open descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError:  # the device has been removed, or its registers cannot be reached
            return b""

    def close(self) -> None:
        os.close(self._descriptor)


def _read_to_end(descriptor: int, limit: int, chunk: int, *, short_is_end: bool) -> bytes:
    pieces = []
    while limit > 0 and (piece := os.read(descriptor, min(chunk, limit))):
        pieces.append(piece)
        limit -= len(piece)
        if short_is_end and len(piece) < chunk:
            break
    return b"".join(pieces)


def _as_text(name: str) -> str:
    """A name from the file system, what is not UTF-8 replaced: lone surrogates cannot be written anywhere."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def _names_in(directory: str) -> list[str] | None:
    try:
        return sorted(name for name in os.listdir(directory) if name.isprintable())
    except ABSENT:
        return None


def _link_target(host_path: str) -> str | None:
    try:
        return _as_text(os.readlink(host_path))
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is there, and no link
            return None
        raise


def _stamp(host_path: str) -> Stamp | None:
    try:
        found = os.lstat(host_path)
    except ABSENT:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    # A file that fills no block is one that the kernel writes as it is read. Its times are those of a cached inode,
    # which may be dropped and made anew at any moment, while its number stays (kernfs_get_inode, fs/kernfs/inode.c).
    times = (found.st_mtime_ns, found.st_ctime_ns) if found.st_blocks else ()
    return (found.st_dev, found.st_ino, found.st_size, *times)


class LiveTree(LinkedTree):
    """The machine that iommud runs on: ``sys/…`` lies in ``sysfs`` and ``proc/…`` in ``procfs``.

    The kernel is trusted, so links are followed by the kernel itself and nothing is looked at before it is
    read. Raises SourceError if ``sysfs`` is no directory that may be listed. A missing ``procfs`` is a
    missing fact.
    """

    live = True

    def __init__(
        self,
        sysfs: str = "/sys",
        procfs: str = "/proc",
        *,
        name: str | None = None,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        """``copies`` says where copies of files lie that may not be readable themselves, by their path in the tree."""
        super().__init__()
        self._copies = copies or {}
        self._sysfs = sysfs
        self._procfs = procfs
        self.name = name or ("this machine" if sysfs == "/sys" else sysfs)
        _require_directory(sysfs, sysfs)

    @property
    def is_here(self) -> bool:
        """Whether its sysfs is that of the kernel that runs here, and not another's or a copy."""
        return self._sysfs == "/sys"

    def _host_path(self, path: str) -> str:
        if path.startswith("sys/"):
            return self._sysfs + path[3:]
        if path.startswith("proc/"):
            return self._procfs + path[4:]
        roots = {"sys": self._sysfs, "proc": self._procfs}
        return roots.get(path, "")  # no file has an empty name, so all else is absent

    def _link_at(self, path: str) -> str | None:
        # sysfs may itself be reached by a link, which is none of the tree.
        return None if path in {"sys", "proc"} else _link_target(self._host_path(path))

    def list(self, path: str) -> list[str] | None:
        """As in ``Tree``."""
        if not path:
            return ["proc", "sys"]
        return _names_in(self._host_path(path))

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """As in ``Tree``."""
        try:
            descriptor = os.open(self._host_path(path), _PLAIN)
            try:
                # In sysfs a short read is the last one; files of procfs may give less than they still have.
                return _read_to_end(descriptor, limit, _CHUNK, short_is_end=path.startswith("sys/"))
            finally:
                os.close(descriptor)
        except ABSENT:
            return self._read_copy(path, limit) if path in self._copies else None

    def _read_copy(self, path: str, limit: int) -> bytes | None:
        try:
            with open(self._copies[path], "rb") as file:  # noqa: PTH123 - a string, as all paths here
                content = file.read(limit)
        except ABSENT:
            return None
        return None if content.strip() == ABSENT_FILE else content

    def link(self, path: str) -> str | None:
        """As in ``Tree``."""
        try:
            return _link_target(self._host_path(path))
        except ABSENT:
            return None

    def config(self, path: str) -> ConfigFile | None:
        """As in ``Tree``."""
        try:
            return _DescriptorConfig(os.open(self._host_path(path), _PLAIN))
        except ABSENT:
            return None

    def stamp(self, path: str) -> Stamp | None:
        """As in ``Tree``."""
        return _stamp(self._host_path(path))


class DirectoryTree(LinkedTree):
    """A directory that holds a machine, such as an unpacked capture: hostile until proven otherwise.

    No link is followed out of ``root``, and nothing but regular files is read. ``sysfs_only``: ``root`` is
    the sysfs of the machine, which then has no procfs. Raises SourceError if ``root`` is no directory that
    may be listed.
    """

    live = False

    def __init__(self, root: str, *, name: str | None = None, sysfs_only: bool = False) -> None:
        super().__init__()
        self._root = root
        self._sysfs_only = sysfs_only
        self.name = name or root
        _require_directory(self.name, root)

    def _host_path(self, path: str) -> str:
        if not self._sysfs_only:
            return f"{self._root}/{path}"
        if path == "sys" or path.startswith("sys/"):
            return self._root + path[3:]
        return ""  # no file has an empty name, so all else is absent

    def _link_at(self, path: str) -> str | None:
        # The user chose the root, which may be reached by a link.
        return None if path == "sys" and self._sysfs_only else _link_target(self._host_path(path))

    def list(self, path: str) -> list[str] | None:
        """As in ``Tree``."""
        if not path and self._sysfs_only:
            return ["sys"]
        real = self.resolve(path)
        return None if real is None else _names_in(self._host_path(real))

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """As in ``Tree``."""
        descriptor = self._open_regular(path)
        if descriptor is None:
            return None
        try:
            return _read_to_end(descriptor, limit, _BULK, short_is_end=False)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def config(self, path: str) -> ConfigFile | None:
        """As in ``Tree``."""
        descriptor = self._open_regular(path)
        return None if descriptor is None else _DescriptorConfig(descriptor)

    def stamp(self, path: str) -> Stamp | None:
        """As in ``Tree``."""
        place = self._place(path)
        return None if place is None else _stamp(self._host_path(place))

    def _open_regular(self, path: str) -> int | None:
        place = self._place(path)
        try:
            return None if place is None else _open_guarded(self._host_path(place))
        except OSError as error:
            if error.errno != errno.ELOOP:
                return None
        except ValueError:
            return None
        return self._open_linked(path)

    def _open_linked(self, path: str) -> int | None:
        real = self.resolve(path)
        try:
            return None if real is None else _open_guarded(self._host_path(real))
        except ABSENT:
            return None


def _open_guarded(host_path: str) -> int | None:
    descriptor = os.open(host_path, _GUARDED)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def open_live(sysfs: str = "/sys", procfs: str = "/proc") -> LiveTree:
    """The machine that iommud runs on. Raises SourceError if its sysfs cannot be listed or holds no PCI bus."""
    here = (sysfs, procfs) == ("/sys", "/proc")
    tree = LiveTree(sysfs, procfs, copies=credentials_of(os.environ) if here else None)
    if tree.list("sys/bus/pci") is None:
        raise SourceError(tree.name, "no bus/pci in it")
    return tree


def _require_directory(name: str, root: str) -> None:
    try:
        os.scandir(root).close()
    except OSError as error:
        raise SourceError(name, error.strerror or "cannot be listed") from error
    except ValueError as error:
        raise SourceError(name, "no file can have this name") from error
