# SPDX-License-Identifier: GPL-2.0-or-later
"""Blanks what identifies a machine or its owner in a flattened device tree, without moving a byte.

People attach captures to public bug reports; a device tree holds serial numbers, network addresses,
the kernel command line and seeds of random generators.
"""

import struct
from typing import Final

from iommud.firmware.fdt import HEADER, Event, FdtError, Layout, Token, events, read_layout

_RESERVATION: Final = struct.Struct(">QQ")
_NAMES: Final = frozenset(
    {
        "bootargs",
        "kaslr-seed",
        "rng-seed",
        # The Raspberry Pi's firmware and the PowerPC bindings name serial numbers in their own ways.
        "linux,serial",
        "host-serial",
        "system-id",
    }
)
_PREFIXES: Final = ("bootargs-",)
_FRAGMENTS: Final = (
    "serial-number",
    "mac-address",
    "bd-address",
    "password",
    "uuid",
    "asset-tag",
)


def redact_fdt(data: bytes) -> bytes:
    """The blob with the values of personal properties, and all bytes outside its blocks, set to zero.

    Size and layout stay. Bytes between and after the blocks go, because edits of a tree leave old values
    there.
    ValueError where the blob cannot be walked to its end: then nothing can be promised about it.
    """
    layout = read_layout(data)
    found = list(events(data, layout))
    redacted = bytearray(len(data))
    for start, end in _kept_spans(data, layout, found[-1]):
        redacted[start:end] = data[start:end]
    for event in found:
        if event.token is Token.PROPERTY and is_personal(event.name):
            redacted[event.start : event.end] = bytes(event.end - event.start)
    return bytes(redacted)


def is_personal(name: str) -> bool:
    """Whether a property of this name is blanked; case does not matter."""
    lower = name.lower()
    return lower in _NAMES or lower.startswith(_PREFIXES) or any(fragment in lower for fragment in _FRAGMENTS)


def _kept_spans(data: bytes, layout: Layout, end_token: Event) -> tuple[tuple[int, int], ...]:
    return (
        (0, HEADER.size),
        (layout.structure_start, end_token.end),
        (layout.strings_start, layout.strings_end),
        (layout.reservations_start, _reservations_end(data, layout)),
    )


def _reservations_end(data: bytes, layout: Layout) -> int:
    offset = layout.reservations_start
    while offset + _RESERVATION.size <= layout.total:
        address, size = _RESERVATION.unpack_from(data, offset)
        offset += _RESERVATION.size
        if address == size == 0:
            return offset
    raise FdtError(f"the memory reservations at {layout.reservations_start:#x} have no end")
