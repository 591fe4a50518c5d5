# SPDX-License-Identifier: GPL-2.0-or-later
"""MCFG: where the memory-mapped (extended) configuration space of each PCI segment lies.

Source: PCI Firmware Specification 3.3, sec 4.1.2; read by drivers/acpi/pci_mcfg.c.
"""

import struct
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, read_table
from iommud.firmware.overlap import Area, overlaps

_FIRST_ALLOCATION: Final = 44
_ALLOCATION: Final = struct.Struct("<QHBBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class McfgAllocation:
    """One window: buses `first_bus` to `last_bus` of `segment`; `base` is the physical address of bus 0."""

    segment: int
    first_bus: int
    last_bus: int
    base: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcfg:
    """All windows in table order, and what is wrong with the table."""

    allocations: tuple[McfgAllocation, ...]
    problems: tuple[str, ...]


def parse_mcfg(data: bytes) -> Mcfg:
    """Reads an MCFG table; any bytes give a result."""
    table = read_table(data, "MCFG")
    problems = Problems("MCFG")
    whole, stray = divmod(max(0, len(table.data) - _FIRST_ALLOCATION), _ALLOCATION.size)
    if stray:
        problems.add(f"{stray} stray bytes after allocation {whole}")
    offsets = range(_FIRST_ALLOCATION, _FIRST_ALLOCATION + whole * _ALLOCATION.size, _ALLOCATION.size)
    allocations = tuple(_allocation(table.data, offset) for offset in offsets)
    _name_faults(allocations, problems)
    return Mcfg(allocations=allocations, problems=table.problems + problems.listed())


def _name_faults(allocations: tuple[McfgAllocation, ...], problems: Problems) -> None:
    for number, one in enumerate(allocations):
        if one.last_bus < one.first_bus:
            problems.add(f"allocation {number} ends at bus {one.last_bus:#x}, before its first bus {one.first_bus:#x}")
    areas = [Area(one.first_bus, one.last_bus, one.segment, one.segment) for one in allocations]
    for first, second in overlaps(areas):
        problems.add(f"allocations {first} and {second} both hold buses of segment {allocations[first].segment}")


def _allocation(data: bytes, offset: int) -> McfgAllocation:
    base, segment, first_bus, last_bus, _ = _ALLOCATION.unpack_from(data, offset)
    return McfgAllocation(segment=segment, first_bus=first_bus, last_bus=last_bus, base=base)
