# SPDX-License-Identifier: GPL-2.0-or-later
"""DMAR: the DMA remapping units of Intel VT-d and the functions in their scope.

Source: Intel Virtualization Technology for Directed I/O, sec 8 (BIOS considerations);
read by the kernel in drivers/iommu/intel/dmar.c.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures

_FIRST_STRUCTURE: Final = 48
_STRUCTURE: Final = struct.Struct("<HH")
_UNIT: Final = struct.Struct("<HHBBHQ")
_RESERVED_REGION: Final = struct.Struct("<HHHHQQ")
_SCOPE_HEADER: Final = struct.Struct("<BB")
_SCOPE: Final = struct.Struct("<BBHBB")
_TYPE_UNIT: Final = 0
_TYPE_RESERVED_REGION: Final = 1
_INCLUDE_PCI_ALL: Final = 0x01


class ScopeKind(enum.IntEnum):
    """What a device scope entry names (VT-d, sec 8.3.1)."""

    PCI_ENDPOINT = 1
    PCI_SUB_HIERARCHY = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5


_KNOWN_SCOPES: Final = frozenset(ScopeKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceScope:
    """A device by its way down from a root bus: `path` holds (device, function) of each step.

    The last step is the device itself. A sub-hierarchy entry stands for a bridge and all that is below it.
    """

    kind: ScopeKind
    start_bus: int
    path: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DmarUnit:
    """One remapping unit (DRHD).

    With `include_all` it serves every function of its segment that no other unit names.
    """

    segment: int
    register_base: int
    include_all: bool
    scopes: tuple[DeviceScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedRegion:
    """Memory (RMRR) that stays mapped for the named devices: `base` to `limit`, both included."""

    segment: int
    base: int
    limit: int
    scopes: tuple[DeviceScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmar:
    """The table's content in table order.

    `flags`: bit 0 interrupt remapping, bit 1 x2APIC opt-out, bit 2 DMA control platform opt-in
    (VT-d, sec 8.1).
    """

    flags: int
    units: tuple[DmarUnit, ...]
    reserved_regions: tuple[ReservedRegion, ...]
    problems: tuple[str, ...]


def parse_dmar(data: bytes) -> Dmar:
    """Reads a DMAR table; any bytes give a result.

    Structures other than DRHD and RMRR (ATSR, RHSA, ANDD, SATC, SIDP, later ones) do not concern grouping.
    """
    table = read_table(data, "DMAR")
    problems = Problems("DMAR")
    units: dict[tuple[int, int], DmarUnit] = {}
    regions: list[ReservedRegion] = []
    for item in structures(table.data, _FIRST_STRUCTURE, _STRUCTURE, _STRUCTURE.size, problems):
        if item.kind == _TYPE_UNIT:
            _add_unit(units, item, problems)
        elif item.kind == _TYPE_RESERVED_REGION:
            regions.extend(_reserved_region(item, problems))
    flags = table.data[37] if len(table.data) > 37 else 0
    return Dmar(
        flags=flags,
        units=tuple(units.values()),
        reserved_regions=tuple(regions),
        problems=table.problems + problems.listed(),
    )


def _add_unit(units: dict[tuple[int, int], DmarUnit], item: Structure, problems: Problems) -> None:
    if len(item.data) < _UNIT.size:
        problems.add(f"DRHD at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return
    _, _, flags, _, segment, base = _UNIT.unpack_from(item.data)
    if (segment, base) in units:
        # dmar_find_dmaru(): of two units with the same registers only the first counts.
        problems.add(f"DRHD at {item.offset:#x} repeats the unit of segment {segment} at {base:#x}")
        return
    if base == 0:
        problems.add(f"DRHD at {item.offset:#x} has register base 0, the kernel refuses the table")
    units[segment, base] = DmarUnit(
        segment=segment,
        register_base=base,
        include_all=bool(flags & _INCLUDE_PCI_ALL),
        scopes=_scopes(item, _UNIT.size, problems),
    )


def _reserved_region(item: Structure, problems: Problems) -> tuple[ReservedRegion, ...]:
    if len(item.data) < _RESERVED_REGION.size:
        problems.add(f"RMRR at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return ()
    _, _, _, segment, base, limit = _RESERVED_REGION.unpack_from(item.data)
    scopes = _scopes(item, _RESERVED_REGION.size, problems)
    return (ReservedRegion(segment=segment, base=base, limit=limit, scopes=scopes),)


def _scopes(item: Structure, start: int, problems: Problems) -> tuple[DeviceScope, ...]:
    found: list[DeviceScope] = []
    for entry in structures(item.data, start, _SCOPE_HEADER, _SCOPE.size, problems, base=item.offset):
        if len(entry.data) < _SCOPE.size:
            problems.add(f"device scope at {entry.offset:#x} is cut")
        elif entry.kind not in _KNOWN_SCOPES:
            problems.add(f"device scope at {entry.offset:#x} has unknown type {entry.kind}")
        else:
            found.append(_scope(entry.data))
    return tuple(found)


def _scope(data: bytes) -> DeviceScope:
    kind, _, _, _, start_bus = _SCOPE.unpack_from(data)
    steps = data[_SCOPE.size :]
    # An odd last byte is no step: dmar_insert_dev_scope() divides the length by two.
    path = tuple((steps[at], steps[at + 1]) for at in range(0, len(steps) - 1, 2))
    return DeviceScope(kind=ScopeKind(kind), start_bus=start_bus, path=path)
