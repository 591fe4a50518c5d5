# SPDX-License-Identifier: GPL-2.0-or-later
"""Blanks what identifies a device in its configuration space, without changing how that decodes.

Two structures name a single device. The Device Serial Number capability (extended id 0003h, PCIe r3.1, sec 7.12)
holds eight bytes at +4; that of a network card is its MAC address. The Vital Product Data capability (id 03h, PCI
r3.0, appendix I) holds the address at +2 and the data at +4 of what was read last.

A list that cannot be followed to its end may hide such a structure where nobody finds it. Then only what decoding
reads is kept: the standard header, the headers of the structures that can be reached, their ACS registers. All other
bytes behind the standard header, or in the extended space, are zeroed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iommud.pci import (
    CAPABILITY_ID_PCIE,
    CONVENTIONAL_CONFIG_SIZE,
    EXTENDED_CAPABILITY_ID_ACS,
    EXTENDED_CONFIG_SIZE,
    HEADER_TYPE_CARDBUS,
    MPC_REGISTER,
    STANDARD_HEADER_SIZE,
    STATUS_CAPABILITY_LIST,
    PortType,
)

__all__ = ["RedactedConfig", "redact_config"]

_CAPABILITY_ID_VPD = 0x03
_EXTENDED_CAPABILITY_ID_DSN = 0x0003
_INTEL = 0x8086
_ACS_REGISTERS_END = 12  # the wide form of Sunrise Point root ports, drivers/pci/quirks.c


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactedConfig:
    """A config space without what identifies the device, and what that was."""

    content: bytes
    """As long as the original, and decoded to the same facts."""
    serial_numbers: int
    """Device Serial Number capabilities found."""
    vital_data: int
    """Vital Product Data capabilities found."""
    cut: bool
    """Whether bytes were zeroed because a list that should tell what they are could not be followed."""


@dataclass(frozen=True, slots=True)
class _List:
    """A capability list as far as it can be followed."""

    structures: tuple[tuple[int, int], ...]
    """Position and capability ID of each structure, in the order of the list."""
    whole: bool
    """Whether it ends as lists should, so that there is no other structure."""

    def positions(self, capability_id: int) -> list[int]:
        return [position for position, found in self.structures if found == capability_id]


def redact_config(content: bytes) -> RedactedConfig:
    """Blank the serial number and the vital product data in a config space of any length.

    ``decode_config()`` gives the same for the result as for the original.
    """
    if content.count(0xFF) == len(content):  # the function did not answer, and that is a fact to keep
        return RedactedConfig(content=content, serial_numbers=0, vital_data=0, cut=False)
    conventional = _conventional_list(content)
    extended = _extended_list(content)
    vital = _spans(conventional.positions(_CAPABILITY_ID_VPD), 2, 8)
    serials = _spans(extended.positions(_EXTENDED_CAPABILITY_ID_DSN), 4, 12)
    needed = frozenset((*_read_of_conventional(content, conventional), *_read_of_extended(extended)))
    result = bytearray(content)
    _blank(result, [*vital, *serials], needed)
    before = bytes(result)
    if not conventional.whole or _collide(vital, needed):
        _blank(result, [range(STANDARD_HEADER_SIZE, CONVENTIONAL_CONFIG_SIZE)], needed)
    if not extended.whole or _collide(serials, needed):
        _blank(result, [range(CONVENTIONAL_CONFIG_SIZE, EXTENDED_CONFIG_SIZE)], needed)
    return RedactedConfig(
        content=bytes(result), serial_numbers=len(serials), vital_data=len(vital), cut=before != result
    )


def _spans(positions: list[int], start: int, end: int) -> list[range]:
    return [range(position + start, position + end) for position in positions]


def _blank(content: bytearray, spans: list[range], needed: frozenset[int]) -> None:
    for span in spans:
        for index in range(span.start, min(span.stop, len(content))):
            if index not in needed:
                content[index] = 0


def _collide(spans: list[range], needed: frozenset[int]) -> bool:
    """Whether structures overlap, which only a broken or hostile list can claim."""
    return any(not needed.isdisjoint(span) for span in spans)


def _conventional_list(content: bytes) -> _List:
    """All capabilities; ``_walk_capabilities()`` of iommud.pci stops at the PCI Express one."""
    space = content[:CONVENTIONAL_CONFIG_SIZE].ljust(CONVENTIONAL_CONFIG_SIZE, b"\0")
    if not space[0x06] & STATUS_CAPABILITY_LIST:
        return _List((), whole=True)
    is_cardbus = space[0x0E] & 0x7F == HEADER_TYPE_CARDBUS
    position = space[0x14 if is_cardbus else 0x34] & 0xFC
    found: dict[int, int] = {}
    while position >= STANDARD_HEADER_SIZE and position not in found and space[position] != 0xFF:
        found[position] = space[position]
        position = space[position + 1] & 0xFC
    return _List(tuple(found.items()), whole=position == 0)


def _extended_list(content: bytes) -> _List:
    """All extended capabilities; without any, what the extended space holds is not known."""
    found: dict[int, int] = {}
    position = CONVENTIONAL_CONFIG_SIZE
    while position >= CONVENTIONAL_CONFIG_SIZE and position not in found and position + 4 <= len(content):
        header = int.from_bytes(content[position : position + 4], "little")
        if header in (0, 0xFFFFFFFF):
            found[position] = 0
            break
        found[position] = header & 0xFFFF
        position = header >> 20 & 0xFFC
    return _List(tuple(found.items()), whole=position == 0)


def _read_of_conventional(content: bytes, capabilities: _List) -> Iterator[int]:
    """The bytes that decoding may read of the conventional space."""
    yield from range(STANDARD_HEADER_SIZE)
    for position, _ in capabilities.structures:
        yield from (position, position + 1)
    for position in capabilities.positions(CAPABILITY_ID_PCIE):
        yield from (position + 2, position + 3)
        if _is_intel_root_port(content, position):
            yield from range(MPC_REGISTER, MPC_REGISTER + 4)


def _is_intel_root_port(content: bytes, pcie: int) -> bool:
    vendor = int.from_bytes(content[0:2], "little")
    return vendor == _INTEL and content[pcie + 2 : pcie + 3] != b"" and content[pcie + 2] >> 4 == PortType.ROOT_PORT


def _read_of_extended(capabilities: _List) -> Iterator[int]:
    """The bytes that decoding may read of the extended space."""
    for position, capability_id in capabilities.structures:
        end = _ACS_REGISTERS_END if capability_id == EXTENDED_CAPABILITY_ID_ACS else 4
        yield from range(position, position + end)
