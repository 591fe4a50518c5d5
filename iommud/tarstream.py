# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile tar archives as a stream: every size is checked before anything of that size is allocated.

The standard library's tarfile is not used. It reads long names and pax headers whole before it shows a
member, keeps every member it has seen, and takes some 25 microseconds for each, which a capture of 100,000
functions has millions of. Nothing is ever written, so what an archive can do is waste memory and time, and
both have limits here.

The format is POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block", with the GNU extensions of
https://www.gnu.org/software/tar/manual/html_node/Standard.html that other writers use: long names, base-256
numbers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from iommud.errors import ArchiveError

__all__ = ["Kind", "Limits", "Member", "TarStream"]

_BLOCK = 512
_EXTENSION_LIMIT = 1 << 16  # bytes of a GNU long name or a pax header; a path may have 4096 (PATH_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an archive may cost; all sizes in bytes.

    A capture of 100,000 functions, each with 4 KiB of configuration space and twelve attributes, has 2.0
    million members in 2.0 GiB, and takes some 20 seconds and 300 MiB of memory. An archive that reaches a
    limit takes not much more.
    """

    stream: int = 3 << 30
    """The stream after decompression."""
    members: int = 2_500_000
    """Headers of any kind, so that 100 million empty extension headers are no way around it."""
    member: int = 16 << 20
    """One file that iommud reads; the largest is a kernel log."""
    kept: int = 512 << 20
    """All that is kept in memory, with the overhead of each name."""
    path: int = 4096
    """One name (PATH_MAX)."""
    depth: int = 64
    """Directories below each other: PCI allows 256 buses, machines have about ten."""
    xz_memory: int = 128 << 20
    """What the decoder of xz may allocate; ``xz -9`` needs 65 MiB."""


class Kind(enum.Enum):
    """What a member is."""

    FILE = enum.auto()
    DIRECTORY = enum.auto()
    SYMBOLIC_LINK = enum.auto()
    HARD_LINK = enum.auto()
    OTHER = enum.auto()
    """Devices, FIFOs, volume labels: nothing that can be read."""


class Member(NamedTuple):
    """One member: its name as it stands in the archive, with the target if it is a link."""

    kind: Kind
    name: str
    target: str


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMBOLIC_LINK,
    b"5": Kind.DIRECTORY,
}
_WITHOUT_CONTENT = frozenset(b"123456")
"""Types whose size field, if any, counts no blocks that follow."""
_EXTENSIONS = frozenset(b"LKxXg")
_SPLIT = {b"S": "a sparse file", b"M": "a part of a file"}


class TarStream:
    """Iterate over the members of a tar archive; ``content`` gives the bytes of the one that came last.

    ``chunks`` are pieces of the archive in any size. Raises ArchiveError for anything but a whole, sound
    archive.
    """

    def __init__(self, chunks: Iterator[bytes], limits: Limits) -> None:
        self._chunks = chunks
        self._limits = limits
        self._buffer = b""
        self._at = 0
        self._stream_left = limits.stream
        self._begun = False
        self._name = ""  # of the current member
        self._size = 0  # of its content
        self._skip_next = 0  # bytes up to the next header

    def __iter__(self) -> Iterator[Member]:
        pending: dict[str, bytes] = {}  # what extension headers said of the next member
        seen = 0
        while (header := self._header()) is not None:
            seen += 1
            if seen > self._limits.members:
                raise ArchiveError(f"more than {self._limits.members} members")
            if header[156] in _EXTENSIONS:
                pending |= self._extension(header)
            else:
                yield self._member(header, pending)
                pending.clear()
        self._drain()

    def content(self) -> bytes:
        """The content of the last member, once."""
        if self._size > self._limits.member:
            raise ArchiveError(f"{self._size} bytes, more than {self._limits.member}", path=self._name)
        content = self._take(self._size)
        self._skip_next -= self._size
        self._size = 0
        return content

    def _header(self) -> bytes | None:
        """The next header; None: the archive ends here, as it says itself."""
        if self._skip_next:
            self._skip()
        header = self._take(_BLOCK)
        if header[0] == 0 and header.count(0) == _BLOCK:
            if not self._begun:
                raise ArchiveError("an empty archive")
            return None
        # The checksum counts its own eight bytes as spaces.
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != _number(header[148:156]):
            raise ArchiveError("damaged: a header has a wrong checksum" if self._begun else "no tar archive")
        self._begun = True
        return header

    def _member(self, header: bytes, pending: dict[str, bytes]) -> Member:
        kind = header[156:157]
        name = _text(pending["path"]) if "path" in pending else _name(header)
        if kind in _SPLIT or any(key.startswith("GNU.sparse.") for key in pending):
            raise ArchiveError(f"{_SPLIT.get(kind, _SPLIT[b'S'])}, which is not read", path=name)
        self._name = name
        self._size = 0
        if header[156] not in _WITHOUT_CONTENT:
            self._size = _decimal(pending["size"]) if "size" in pending else _size(header)
        self._skip_next = _padded(self._size)
        target = pending["linkpath"] if "linkpath" in pending else _until_nul(header[157:257])
        if kind == b"\0" and name.endswith("/"):  # how archives older than POSIX write a directory
            return Member(Kind.DIRECTORY, name, "")
        return Member(_KINDS.get(kind, Kind.OTHER), name, target.decode("utf-8", "replace"))

    def _extension(self, header: bytes) -> dict[str, bytes]:
        size = _size(header)
        if size > _EXTENSION_LIMIT:
            raise ArchiveError(f"a name or header of {size} bytes, more than {_EXTENSION_LIMIT}")
        content = self._take(size)
        self._skip_next = _padded(size) - size
        match header[156:157]:
            case b"L":
                return {"path": _until_nul(content)}
            case b"K":
                return {"linkpath": _until_nul(content)}
            case b"g":  # says nothing that could hold for every member and matter here
                return {}
            case _:
                return dict(_pax_records(content))

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._buffer):
            self._fill(count)
            end = count
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def _fill(self, count: int) -> None:
        pieces = [self._buffer[self._at :]]
        missing = count - len(pieces[0])
        while missing > 0:
            pieces.append(self._chunk())
            missing -= len(pieces[-1])
        self._buffer = b"".join(pieces)
        self._at = 0

    def _skip(self) -> None:
        left = self._skip_next - (len(self._buffer) - self._at)
        if left <= 0:
            self._at += self._skip_next
        while left > 0:
            self._buffer = self._chunk()
            self._at = min(left, len(self._buffer))
            left -= len(self._buffer)
        self._skip_next = 0

    def _chunk(self) -> bytes:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise ArchiveError("truncated: the archive ends too early" if self._begun else "no tar archive")
        self._count(chunk)
        return chunk

    def _count(self, chunk: bytes) -> None:
        self._stream_left -= len(chunk)
        if self._stream_left < 0:
            raise ArchiveError(f"larger than {self._limits.stream >> 20} MiB when decompressed")

    def _drain(self) -> None:
        # The checksum of a compressed stream is at its end; and whoever writes into a pipe may finish.
        for chunk in self._chunks:
            self._count(chunk)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise ArchiveError("a name that is not UTF-8", path=name.decode("utf-8", "backslashreplace")) from None


def _name(header: bytes) -> str:
    name = _until_nul(header[:100])
    # GNU tar, whose magic is "ustar  ", keeps times where POSIX keeps the prefix.
    if header[257:263] == b"ustar\0" and header[345]:
        name = _until_nul(header[345:500]) + b"/" + name
    return _text(name)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 after a byte 0x80 (GNU tar); -1: neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _until_nul(field).strip()
    return -1 if digits.strip(b"01234567") else int(digits or b"0", 8)


def _size(header: bytes) -> int:
    size = _number(header[124:136])
    if size < 0:
        raise ArchiveError("damaged: a header with a size that is no number")
    return size


def _decimal(value: bytes) -> int:
    if not 0 < len(value) <= 20 or value.strip(b"0123456789"):
        raise ArchiveError("damaged: a pax header with a size that is no number")
    return int(value)


def _pax_records(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The records of a pax header, each ``length keyword=value`` and a newline."""
    at = 0
    while at < len(content):
        length, space, _ = content[at : at + 8].partition(b" ")
        end = at + (_decimal(length) if space else 0)
        record = content[at + len(length) + 1 : end]
        keyword, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or end > len(content):
            raise ArchiveError("damaged: a pax header with a broken record")
        yield keyword.decode("utf-8", "replace"), value
        at = end
