# SPDX-License-Identifier: GPL-2.0-or-later
"""A publication cut into pieces that are compressed once, and put together for each answer without doing it again."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from iommud.daemon.publication import Publication
from iommud.render.age import AGE_TOKEN

EOF = b"# EOF\n"
"""The last line of an OpenMetrics exposition."""
_LEVEL = 6
_WINDOW = -15
"""A raw deflate stream (zlib.h, ``deflateInit2()``)."""
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952, sec 2.3: deflate, no name, no time, unknown system."""


_POLYNOMIAL = 0xEDB88320
"""Of the check value (RFC 1952, sec 8), bit-reversed: the highest bit is the coefficient of 1."""
_ONE = 1 << 31


def _product(one: int, other: int) -> int:
    """The product of two polynomials over GF(2), modulo that of the check value."""
    found = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            found ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return found


def _power_of_x(exponent: int) -> int:
    """A power of x, modulo the polynomial, by repeated squaring."""
    found, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            found = _product(square, found)
        square = _product(square, square)
        exponent >>= 1
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body, with the same part as a deflate stream that refers to nothing before it."""

    plain: bytes
    deflated: bytes
    check: int
    """CRC-32 of the plain part."""
    shift: int
    """What the check value of all that comes before is multiplied with when this part follows."""

    @classmethod
    def of(cls, plain: bytes) -> Piece:
        """Compress a part."""
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW)
        # A full flush ends on a whole byte and without the mark of the last block, so that parts can follow.
        deflated = compressor.compress(plain) + compressor.flush(zlib.Z_FULL_FLUSH)
        return cls(plain, deflated, zlib.crc32(plain), _power_of_x(8 * len(plain)))


_LAST_BLOCK = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW).flush()
"""An empty block marked as the last one."""


def gzipped(pieces: Sequence[Piece]) -> tuple[bytes, ...]:
    """The pieces as one gzip member (RFC 1952), without going through their content again."""
    check, length = 0, 0
    for piece in pieces:
        check = _product(piece.shift, check) ^ piece.check
        length += len(piece.plain)
    tail = check.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
    return (_GZIP_HEAD, *(piece.deflated for piece in pieces), _LAST_BLOCK + tail)


@dataclass(frozen=True, slots=True)
class Edition:
    """A publication made ready to be put together into answers."""

    publication: Publication
    json: Piece
    text: Piece
    metrics: Piece
    openmetrics: Piece
    page_head: Piece
    page_tail: Piece
    policy: str
    """Content security policy of the page: the one style inside it, and nothing else."""
    tags: Mapping[str, str]
    """Digest of each form."""

    @classmethod
    def of(cls, publication: Publication) -> Edition:
        """Compress all forms of a publication and take their digests."""
        page_head, page_tail, policy, tag = _page(publication.page)
        return cls(
            publication=publication,
            json=_seldom_new(publication.json),
            text=_seldom_new(publication.text),
            metrics=_metrics(publication.metrics),
            openmetrics=_metrics(publication.openmetrics.removesuffix(EOF)),
            page_head=page_head,
            page_tail=page_tail,
            policy=policy,
            tags={"json": _tag(publication.json), "text": _tag(publication.text), "page": tag},
        )


_seldom_new = lru_cache(maxsize=2)(Piece.of)
"""JSON and text: most publications have those of the one before."""

_metrics = lru_cache(maxsize=2)(Piece.of)
"""Both formats of the metrics, which stay when the page follows them."""


def _tag(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


@lru_cache(maxsize=1)
def _page(page: bytes) -> tuple[Piece, Piece, str, str]:
    """What comes before the age, what comes after it, policy and digest: most publications have the last page."""
    head, _, tail = page.partition(AGE_TOKEN.encode())
    return Piece.of(head), Piece.of(tail), _policy(page), _tag(page)


def _policy(page: bytes) -> str:
    """What the page may do, by the digest of its own style: it was rendered elsewhere, perhaps by another version."""
    style = page.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
