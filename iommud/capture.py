# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes captures: reproducible archives of what ``check`` reads of a machine. The same state gives the same bytes.

The archive is a POSIX.1-2017 pax archive, whose members are sorted and have no times and no owners. Directories are
members only where nothing lies in them.
"""

# ruff: noqa: PTH123 - an output is a string that the user typed, not always the name of a file

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, TypeAlias, cast

from iommud.capture_note import CaptureSummary
from iommud.errors import SourceError
from iommud.files import Tree
from iommud.gather import gather
from iommud.kernel_log import read_kernel_log
from iommud.members import Directory, Node, Padded

__all__ = ["CaptureSummary", "Compression", "capture_to_path", "compression_of", "write_capture"]

Compression: TypeAlias = Literal["gz", "xz"] | None
"""How an archive is compressed; None: not at all."""

_PIECE = 1 << 16
_END = bytes(2 * tarfile.BLOCKSIZE)


def write_capture(
    tree: Tree,
    stream: BinaryIO,
    *,
    compression: Compression = "gz",
    wake: bool = False,
    log: Iterable[str] | None = None,
) -> CaptureSummary:
    """Write a capture of a machine to a stream, and tell what is in it.

    ``wake`` reads the config space of sleeping functions too. ``log`` is the kernel log, of which the relevant lines
    are kept (``read_kernel_log``); None: it could not be read. Raises OSError where the stream takes no more.
    """
    root, summary = gather(tree, wake=wake, log=log)
    with _compressed(stream, compression) as output:
        buffer = bytearray()
        for piece in _archive(root):
            buffer += piece
            if len(buffer) >= _PIECE:
                output.write(buffer)
                buffer.clear()
        output.write(buffer)
    stream.flush()
    return summary


def capture_to_path(tree: Tree, path: str, *, wake: bool = False, compression: Compression = "gz") -> CaptureSummary:
    """Write a capture to a file, compressed as its name says (``compression_of``), or to standard output (``-``).

    ``compression`` is for names that say nothing. A file appears under its name when it is whole: what fails leaves
    nothing behind. Raises SourceError, which names the output, if it cannot be written or is a terminal; a pipe that
    was closed raises BrokenPipeError.
    """
    if path == "-" and sys.stdout.isatty():
        raise SourceError(path, "an archive is not for a terminal: name a file, or send it through a pipe")
    log = read_kernel_log(tree)
    try:
        if path == "-":
            return write_capture(tree, sys.stdout.buffer, compression=compression, wake=wake, log=log)
        with _output(path) as stream:
            return write_capture(tree, stream, compression=compression_of(path, compression), wake=wake, log=log)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SourceError(path, f"cannot be written: {error.strerror or error}") from error
    except ValueError as error:
        raise SourceError(path, "cannot be written: no file can have this name") from error


def compression_of(path: str, default: Compression = "gz") -> Compression:
    """The compression that the name of an archive stands for."""
    endings: dict[str, Compression] = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".txz": "xz", ".tar": None}
    return endings.get(os.path.splitext(path)[1].lower(), default)  # noqa: PTH122 - as above


@contextlib.contextmanager
def _output(path: str) -> Iterator[BinaryIO]:
    """A stream that becomes the file of that name once it is whole; a device or a pipe is written as it stands."""
    if _is_special(path):
        # Not by its real path: that of /dev/stdout before a pipe is no name of a file.
        with open(path, "wb") as stream:
            yield cast("BinaryIO", stream)
        return
    target = os.path.realpath(path)
    partial = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{os.getpid()}")  # noqa: PTH118, PTH119, PTH120
    with open(partial, "xb") as stream:
        try:
            yield cast("BinaryIO", stream)
            stream.close()  # some file systems tell only now that there was no room
            os.replace(partial, target)  # noqa: PTH105 - as above
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)  # noqa: PTH108 - as above
            raise


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - as above
    except OSError:
        return False


@contextlib.contextmanager
def _compressed(stream: BinaryIO, compression: Compression) -> Iterator[BinaryIO]:
    """The stream, compressed without the time and the name that gzip would add."""
    if compression == "gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed:
            yield cast("BinaryIO", packed)
    elif compression == "xz":
        with lzma.LZMAFile(stream, "wb") as packed_better:
            yield cast("BinaryIO", packed_better)
    else:
        yield stream


def _archive(root: Directory) -> Iterator[bytes]:
    size = 0
    for name, node in _members("", root):
        for piece in _member(name, node):
            size += len(piece)
            yield piece
    yield _END
    yield bytes(-(size + len(_END)) % tarfile.RECORDSIZE)


def _members(prefix: str, directory: Directory) -> Iterator[tuple[str, Node]]:
    """The members in the order of their names, component by component."""
    for name in sorted(directory):
        node = directory[name]
        if isinstance(node, dict) and node:
            yield from _members(f"{prefix}{name}/", node)
        else:
            yield prefix + name, node


def _member(name: str, node: Node) -> Iterator[bytes]:
    header = tarfile.TarInfo(name)  # of the time 0 and the owner 0
    if isinstance(node, dict):
        header.type, header.mode = tarfile.DIRTYPE, 0o755
        yield _encoded(header)
    elif isinstance(node, str):
        header.type, header.mode, header.linkname = tarfile.SYMTYPE, 0o777, node
        yield _encoded(header)
    else:
        content = node.head.ljust(node.size, b"\0") if isinstance(node, Padded) else node
        header.size = len(content)
        yield _encoded(header)
        yield content
        yield bytes(-len(content) % tarfile.BLOCKSIZE)


def _encoded(header: tarfile.TarInfo) -> bytes:
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "replace")
