# SPDX-License-Identifier: GPL-2.0-or-later
"""What IORT nodes hold beside their ID mappings: registers of SMMUs, and memory that stays mapped.

Source: Arm I/O Remapping Table, DEN 0049E, tables 7, 9 and 15; iort_node_get_rmr_info() in drivers/acpi/arm64/iort.c.
"""

import struct
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure

_NODE_SIZE: Final = 16
_BASE: Final = struct.Struct("<Q")
_RESERVED: Final = struct.Struct("<III")
_DESCRIPTOR: Final = struct.Struct("<QQI")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRange:
    """`size` bytes from physical address `base` on; `remappable`: the mapping may be moved elsewhere."""

    base: int
    size: int
    remappable: bool


def register_base(item: Structure, problems: Problems) -> int | None:
    """Where the registers of an SMMU are: both kinds begin with that address."""
    if len(item.data) < _NODE_SIZE + _BASE.size:
        problems.add(f"SMMU node at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return None
    base: int = _BASE.unpack_from(item.data, _NODE_SIZE)[0]
    return base


def reserved_memory(item: Structure, problems: Problems) -> tuple[MemoryRange, ...]:
    """The memory of an RMR node; descriptors that leave the node are named and left out."""
    if len(item.data) < _NODE_SIZE + _RESERVED.size:
        problems.add(f"RMR node at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return ()
    flags, count, start = _RESERVED.unpack_from(item.data, _NODE_SIZE)
    at_hand = min(count, max(0, (len(item.data) - start) // _DESCRIPTOR.size)) if start else 0
    if at_hand < count:
        problems.add(f"RMR node at {item.offset:#x} announces {count} memory ranges, {at_hand} are there")
    offsets = range(start, start + at_hand * _DESCRIPTOR.size, _DESCRIPTOR.size)
    found = (_DESCRIPTOR.unpack_from(item.data, offset) for offset in offsets)
    return tuple(MemoryRange(base=base, size=size, remappable=bool(flags & 1)) for base, size, _ in found)
