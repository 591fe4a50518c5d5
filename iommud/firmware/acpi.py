# SPDX-License-Identifier: GPL-2.0-or-later
"""What all ACPI tables share: the header, the checksum, and the walk over variable-length structures.

Source: ACPI 6.5, sec 5.2.6 (system description table header).
Every function here is total: bytes that break the rules give named problems beside whatever could be read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HEADER_LENGTH: Final = 36
"""Bytes of the header that every table starts with (ACPI 6.5, table 5.4)."""

PROBLEM_LIMIT: Final = 64
"""At most so many problems are kept for one table: a hostile one could otherwise name a fault per byte."""

_HEADER: Final = struct.Struct("<4sIBB")


class Problems:
    """Collects the named faults of one table, each once, prefixed with its name and bounded in number."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Keeps a problem; the first one past PROBLEM_LIMIT is replaced by a remark that there are more."""
        if len(self._texts) == PROBLEM_LIMIT:
            text = "more problems than are listed"
        if len(self._texts) <= PROBLEM_LIMIT:
            self._texts.setdefault(f"{self._name}: {text}")

    def listed(self) -> tuple[str, ...]:
        """The problems in the order in which they were met."""
        return tuple(self._texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One ACPI table, cut to the length that its header states.

    `data` holds the table from its first header byte, so that offsets equal those of the specification.
    It is empty where the signature is another table's, because none of its bytes mean what the reader wants.
    """

    signature: str
    revision: int
    data: bytes
    problems: tuple[str, ...]

    @property
    def body(self) -> bytes:
        """The bytes after the 36-byte header."""
        return self.data[HEADER_LENGTH:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One length-prefixed structure: its type number, its offset from the table's start, its bytes."""

    kind: int
    offset: int
    data: bytes


def read_table(data: bytes, signature: str) -> Table:
    """Checks the header of a table that should carry `signature`; every fault is a named problem."""
    problems = Problems(signature)
    if len(data) < HEADER_LENGTH:
        problems.add(f"only {len(data)} bytes, the header alone needs {HEADER_LENGTH}")
        return Table(signature=signature, revision=0, data=b"", problems=problems.listed())
    found, stored, revision, _ = _HEADER.unpack_from(data)
    if found != signature.encode():
        problems.add(f"signature is {found!r}")
        return Table(signature=signature, revision=revision, data=b"", problems=problems.listed())
    kept = _cut(data, stored, problems)
    return Table(signature=signature, revision=revision, data=kept, problems=problems.listed())


def _cut(data: bytes, stored: int, problems: Problems) -> bytes:
    if stored != len(data):
        problems.add(f"the header states {stored} bytes, {len(data)} are at hand")
    if not HEADER_LENGTH <= stored <= len(data):
        return data
    kept = data[:stored]
    # The sum is taken only over a complete table: of a cut one it tells nothing new.
    if sum(kept) & 0xFF:
        problems.add("bad checksum")
    return kept


def structures(
    data: bytes, start: int, layout: struct.Struct, minimum: int, problems: Problems, *, base: int = 0
) -> Iterator[Structure]:
    """Yields the structures that follow each other from `start` to the end of `data`.

    `layout` unpacks to (type, length). A length below `minimum` ends the walk, as nothing after it can be
    found; one that leaves `data` is cut. `base` is where `data` itself starts in the table, for the offsets.
    """
    offset = start
    while offset + layout.size <= len(data):
        kind, length = layout.unpack_from(data, offset)
        if length < minimum:
            problems.add(f"structure at {base + offset:#x} has length {length}")
            return
        if offset + length > len(data):
            problems.add(f"structure at {base + offset:#x} passes the end by {offset + length - len(data)} bytes")
        yield Structure(kind=kind, offset=base + offset, data=data[offset : offset + length])
        offset += length
    if offset < len(data):
        problems.add(f"{len(data) - offset} stray bytes at {base + offset:#x}")
