# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware tables built from their fields, so that a test shows the bytes that matter to it."""

import struct
from pathlib import Path

from hypothesis import strategies as st

FIXTURES = Path(__file__).parent.parent / "fixtures" / "firmware"


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def acpi(signature: str, body: bytes, *, revision: int = 1) -> bytes:
    """A table with a right length and checksum."""
    head = struct.pack("<4sIBB", signature.encode(), 36 + len(body), revision, 0)
    table = head + b"TESTOEMTESTTBL" + bytes(12) + body
    return table[:9] + bytes([-sum(table) & 0xFF]) + table[10:]


def fdt_property(name_offset: int, value: bytes) -> bytes:
    return struct.pack(">III", 3, len(value), name_offset) + value + bytes(-len(value) % 4)


def fdt_node(name: str, *content: bytes) -> bytes:
    text = name.encode() + b"\0"
    return struct.pack(">I", 1) + text + bytes(-len(text) % 4) + b"".join(content) + struct.pack(">I", 2)


class Strings:
    """The strings block of a device tree, filled as properties are named."""

    def __init__(self) -> None:
        self.block = b""

    def prop(self, name: str, value: bytes | str | int | tuple[int, ...]) -> bytes:
        match value:
            case str():
                raw = value.encode() + b"\0"
            case int():
                raw = struct.pack(">I", value)
            case tuple():
                raw = struct.pack(f">{len(value)}I", *value)
            case _:
                raw = value
        offset = len(self.block)
        self.block += name.encode() + b"\0"
        return fdt_property(offset, raw)


def fdt(structure: bytes, strings: bytes = b"", *, version: int = 17, end: bool = True, slack: bytes = b"") -> bytes:
    """A blob: header, no reservations, structure block (with END unless `end` is false), strings, slack."""
    if end:
        structure += struct.pack(">I", 9)
    at, strings_at = 56, 56 + len(structure)
    total = strings_at + len(strings) + len(slack)
    words = (0xD00DFEED, total, at, strings_at, 40, version, 16, 0, len(strings), len(structure))
    return struct.pack(">10I", *words) + bytes(16) + structure + strings + slack


def damaged(original: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a real table after a few hits: bytes overwritten, and perhaps the end cut off."""
    hit = st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255))

    def apply(hits: list[tuple[int, int]], length: int) -> bytes:
        data = bytearray(original)
        for place, value in hits:
            data[place] = value
        return bytes(data[:length])

    return st.builds(apply, st.lists(hit, max_size=8), st.integers(0, len(original)))
