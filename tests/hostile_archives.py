# SPDX-License-Identifier: GPL-2.0-or-later
"""Builders of tar archives, block by block, for those that no library would write."""

import gzip
import itertools
import lzma
import struct
import zlib
from collections.abc import Iterator

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX = b"ustar\x0000"
GNU = b"ustar  \x00"
ZEROS = bytes(64 << 20)
DEVICE = b"sys/devices/pci0000:00/0000:00:01.0"


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    target: bytes = b"",
    prefix: bytes = b"",
    magic: bytes = POSIX,
) -> bytes:
    """One header with a right checksum; a size in bytes is the raw field."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size if size < 8**11 else base_256(size)
    head = struct.pack("100s8s8s8s12s12s", name, b"0000644\0", b"0000000\0", b"0000000\0", field, b"00000000000\0")
    tail = struct.pack("1s100s8s80s155s12x", kind, target, magic, b"", prefix)
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 0x20) + tail


def base_256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def file(name: bytes, content: bytes = b"", **fields: bytes) -> bytes:
    return header(name, size=len(content), **fields) + padded(content)


def directory(name: bytes) -> bytes:
    return header(name, kind=b"5")


def link(name: bytes, target: bytes) -> bytes:
    return header(name, kind=b"2", target=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    return header(name, kind=b"1", target=target)


def gnu_long(kind: bytes, text: bytes) -> bytes:
    """The GNU extension for a long name (L) or a long link target (K) of the next member."""
    return file(b"././@LongLink", text + b"\0", kind=kind, magic=GNU)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header for the next member."""
    return file(b"PaxHeaders/x", records, kind=kind)


def pax_record(keyword: bytes, value: bytes) -> bytes:
    rest = b" " + keyword + b"=" + value + b"\n"
    length = next(n for n in itertools.count(len(rest)) if len(str(n)) + len(rest) == n)
    return str(length).encode() + rest


def machine(*members: bytes) -> bytes:
    """An archive of a machine with one PCI function and these members."""
    return directory(b"sys/bus/pci/devices") + file(DEVICE + b"/vendor", b"0x8086\n") + b"".join(members) + END


def in_pieces(archive: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    return (archive[at : at + size] for at in range(0, len(archive), size))


def many_members(count: int) -> Iterator[bytes]:
    """Links in a directory where every link is kept: the dearest of all members."""
    yield directory(b"sys/bus/pci/devices")
    names = b"sys/bus/pci/devices/%08x"
    template = link(names % 0, b"../../../devices/pci0000:00/0000:00:00.0")
    checksum = sum(template[:148]) + 8 * 0x20 + sum(template[156:])
    at = len(names % 0) - 8
    for first in range(0, count, 1000):
        digits = (b"%08x" % number for number in range(first, min(first + 1000, count)))
        yield b"".join(
            template[:at]
            + name
            + template[at + 8 : 148]
            + b"%06o\0 " % (checksum + sum(name) - 8 * 0x30)
            + template[156:]
            for name in digits
        )
    yield END


def deep_directories(count: int) -> Iterator[bytes]:
    """Files in directories of their own, each 32 levels deep, so that names cost little and their tree much."""
    yield directory(b"sys/bus/pci/devices")
    for number in range(count):
        yield file(b"sys/devices/%x/" % number + b"d/" * 30 + b"class")
    yield END


def gzip_bomb() -> Iterator[bytes]:
    """64 MiB of zeros in 64 KiB, 64 times, as one file of 4 GiB."""
    yield gzip.compress(header(b"bomb", size=4 << 30))
    stream = gzip.compress(ZEROS)
    for _ in range(64):
        yield stream


def xz_bomb() -> Iterator[bytes]:
    yield lzma.compress(header(b"bomb", size=4 << 30))
    stream = lzma.compress(ZEROS, preset=0)
    for _ in range(64):
        yield stream


def extension_bomb(kind: bytes) -> Iterator[bytes]:
    """An extension header of 400 MiB, which a reader would need as a whole to know the next member's name."""
    yield gzip.compress(header(b"././@LongLink", kind=kind, size=400 << 20))
    stream = gzip.compress(ZEROS.replace(b"\0", b"a"))
    for _ in range(7):
        yield stream


def empty_streams(count: int) -> Iterator[bytes]:
    """Compressed streams that hold nothing, so that no limit on what they hold could stop them."""
    stream = gzip.compress(b"") * 1000
    for _ in range(0, count, 1000):
        yield stream


def xz_with_dictionary(archive: bytes, code: int) -> bytes:
    """An xz stream whose block header asks for another dictionary; code 40 is 4 GiB (xz format 5.3.1)."""
    stream = bytearray(lzma.compress(archive))
    block = 12  # after the stream header
    end = block + (stream[block] + 1) * 4 - 4
    stream[block + 4] = code
    stream[end : end + 4] = zlib.crc32(stream[block:end]).to_bytes(4, "little")
    return bytes(stream)
