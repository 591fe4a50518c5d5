# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed archives as a stream: no output is longer than asked for, whatever the input promises.

gzip is RFC 1952, xz is https://tukaani.org/xz/xz-file-format.txt; both may hold several streams in a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from iommud.errors import ArchiveError

__all__ = ["decompressed"]

_CHUNK = 1 << 18


class _Decoder(Protocol):
    """What the decoders of gzip and xz have in common, once that of gzip is wrapped."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decoder with the manners of lzma's: what it could not take yet, it keeps."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)  # 15: any window; 16: gzip, whose checksum is verified

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        except zlib.error as error:
            raise ArchiveError("damaged: no sound gzip stream") from error


class _Xz:
    """lzma's decoder, loaded when an archive asks for it: Python can be built without."""

    def __init__(self, memory: int) -> None:
        try:
            import lzma  # noqa: PLC0415 - not every Python has it, and not every start needs it
        except ImportError as error:
            raise ArchiveError("this Python was built without xz") from error
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory)
        self._error = lzma.LZMAError

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            return self._decoder.decompress(data, max_length)
        except self._error as error:
            raise ArchiveError(f"damaged: no sound xz stream ({error})") from error


_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\0"
_FOREIGN_MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"PK\3\4": "zip"}
_STREAM_COUNT_LIMIT = 100_000  # gzip in blocks of 64 KiB (bgzip) needs 65,536 for 4 GiB


def decompressed(chunks: Iterator[bytes], xz_memory: int) -> Iterator[bytes]:
    """The pieces of an archive without its compression, which its first bytes tell: gzip, xz or none.

    ``xz_memory``: bytes that the decoder of xz may allocate. No piece of a compressed archive is longer than
    256 KiB, however well it was compressed. Raises ArchiveError.
    """
    first = _at_least(len(_XZ_MAGIC), b"", chunks)
    if not first:
        raise ArchiveError("an empty file")
    for magic, name in _FOREIGN_MAGIC.items():
        if first.startswith(magic):
            raise ArchiveError(f"{name} is not read, only .tar, .tar.gz and .tar.xz")
    if first.startswith(_GZIP_MAGIC):
        yield from _decoded(_Gzip, _GZIP_MAGIC, first, chunks)
    elif first.startswith(_XZ_MAGIC):
        yield from _decoded(lambda: _Xz(xz_memory), _XZ_MAGIC, first, chunks)
    else:
        yield first
        yield from chunks


def _at_least(count: int, data: bytes, chunks: Iterator[bytes]) -> bytes:
    while len(data) < count and (more := next(chunks, b"")):
        data += more
    return data


def _decoded(
    decoder_for: Callable[[], _Decoder], magic: bytes, data: bytes, chunks: Iterator[bytes]
) -> Iterator[bytes]:
    """Decode stream after stream; what follows the last one is no part of the archive, as for gzip and xz."""
    for _ in range(_STREAM_COUNT_LIMIT):
        decoder = decoder_for()
        yield from _one_stream(decoder, data, chunks)
        data = _at_least(len(magic), decoder.unused_data, chunks)
        if not data.startswith(magic):
            return
    raise ArchiveError(f"more than {_STREAM_COUNT_LIMIT} compressed streams")


def _one_stream(decoder: _Decoder, data: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        piece = decoder.decompress(data, _CHUNK)
        if piece:
            yield piece
        if decoder.eof:
            return
        # With output at the limit there may be more of it before new input is needed.
        data = b"" if piece else next(chunks, b"")
        if not piece and not data:
            raise ArchiveError("truncated: the compressed stream ends too early")
