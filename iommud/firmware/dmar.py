# SPDX-License-Identifier: GPL-2.0-or-later
"""DMAR: the DMA remapping units of Intel VT-d and the functions in their scope.

Source: Intel Virtualization Technology for Directed I/O, sec 8 (BIOS considerations);
read by the kernel in drivers/iommu/intel/dmar.c.
"""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures

_FIRST_STRUCTURE: Final = 48
_STRUCTURE: Final = struct.Struct("<HH")
_UNIT: Final = struct.Struct("<HHBBHQ")
_RESERVED_REGION: Final = struct.Struct("<HHHHQQ")
_ROOT_PORTS: Final = struct.Struct("<HHBBH")
_NAMESPACE_DEVICE: Final = struct.Struct("<HH3xB")
_SCOPE_HEADER: Final = struct.Struct("<BB")
_SCOPE: Final = struct.Struct("<BBHBB")
_TYPE_UNIT: Final = 0
_TYPE_RESERVED_REGION: Final = 1
_TYPE_ROOT_PORTS: Final = 2
_TYPE_NAMESPACE_DEVICE: Final = 4
_TYPE_CACHED_TRANSLATION: Final = 5
_ADDRESS_WIDTH_AT: Final = 36
_FLAGS_AT: Final = 37
_INCLUDE_PCI_ALL: Final = 0x01
_ALL_PORTS: Final = 0x01
_CACHE_REQUIRED: Final = 0x01
_NAME_ENCODING: Final = "ascii"


class ScopeKind(enum.IntEnum):
    """What a device scope entry names (VT-d, sec 8.3.1)."""

    PCI_ENDPOINT = 1
    PCI_SUB_HIERARCHY = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5


class DmarFlag(enum.IntFlag):
    """What the platform offers or asks for (VT-d, sec 8.1)."""

    INTERRUPT_REMAPPING = 0x1
    X2APIC_OPT_OUT = 0x2
    """Firmware asks the system to leave x2APIC mode off."""
    DMA_CONTROL_OPT_IN = 0x4
    """Firmware keeps DMA to its reserved regions, and asks that it stay under control (dmar_platform_optin())."""


_KNOWN_SCOPES: Final = frozenset(ScopeKind)
_PCI_SCOPES: Final = frozenset({ScopeKind.PCI_ENDPOINT, ScopeKind.PCI_SUB_HIERARCHY})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceScope:
    """A device by its way down from a root bus: `path` holds (device, function) of each step.

    The last step is the device itself. A sub-hierarchy entry stands for a bridge and all that is below it.
    """

    kind: ScopeKind
    start_bus: int
    path: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """The way in the kernel's spelling: 00:1c.0/00.0."""
        steps = "/".join(f"{device:02x}.{function:x}" for device, function in self.path)
        return f"{self.start_bus:02x}:{steps}"


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
class RootPorts:
    """Root ports below which functions may cache translations (ATSR); with `all_ports` every one of the segment."""

    segment: int
    all_ports: bool
    scopes: tuple[DeviceScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTranslation:
    """Integrated functions with a translation cache (SATC); `required`: they do not work without it."""

    segment: int
    required: bool
    scopes: tuple[DeviceScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDevice:
    """A device that is no PCI function (ANDD): the number by which scopes name it, and its ACPI path."""

    number: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmar:
    """The table's content in table order.

    `flags` are the raw ones of the header, see DmarFlag. `address_width` is the number of bits that DMA may address,
    None where the table ends before it.
    """

    flags: int
    address_width: int | None = None
    units: tuple[DmarUnit, ...]
    reserved_regions: tuple[ReservedRegion, ...]
    root_ports: tuple[RootPorts, ...] = ()
    cached_translations: tuple[CachedTranslation, ...] = ()
    namespace_devices: tuple[NamespaceDevice, ...] = ()
    problems: tuple[str, ...]

    def search_order(self) -> Iterator[tuple[int, DmarUnit]]:
        """The units with their places in the table, in the order in which the kernel looks through them.

        dmar_register_drhd_unit() puts each unit at the head of its list, so that the last one comes first, and those
        that take what no other names at the tail.
        """
        placed = list(enumerate(self.units))
        yield from ((place, unit) for place, unit in reversed(placed) if not unit.include_all)
        yield from ((place, unit) for place, unit in placed if unit.include_all)


@dataclass(slots=True)
class _Reader:
    problems: Problems
    units: dict[tuple[int, int], DmarUnit]
    regions: list[ReservedRegion]
    ports: list[RootPorts]
    cached: list[CachedTranslation]
    namespace: list[NamespaceDevice]

    def take(self, item: Structure) -> None:
        if item.kind == _TYPE_UNIT:
            _add_unit(self.units, item, self.problems)
        elif item.kind == _TYPE_RESERVED_REGION:
            self.regions.extend(_reserved_region(item, self.problems))
        elif item.kind == _TYPE_ROOT_PORTS:
            self.ports.extend(_root_ports(item, self.problems))
        elif item.kind == _TYPE_NAMESPACE_DEVICE:
            self.namespace.extend(_namespace_device(item, self.problems))
        elif item.kind == _TYPE_CACHED_TRANSLATION:
            self.cached.extend(_cached_translation(item, self.problems))


def parse_dmar(data: bytes) -> Dmar:
    """Reads a DMAR table; any bytes give a result.

    RHSA (which memory is near) and structures later than SATC say nothing of who serves whom.
    """
    table = read_table(data, "DMAR")
    problems = Problems("DMAR")
    reader = _Reader(problems, {}, [], [], [], [])
    for item in structures(table.data, _FIRST_STRUCTURE, _STRUCTURE, _STRUCTURE.size, problems):
        reader.take(item)
    units = tuple(reader.units.values())
    _name_overlaps(units, problems)
    return Dmar(
        flags=_byte(table.data, _FLAGS_AT) or 0,
        address_width=_address_width(table.data),
        units=units,
        reserved_regions=tuple(reader.regions),
        root_ports=tuple(reader.ports),
        cached_translations=tuple(reader.cached),
        namespace_devices=tuple(reader.namespace),
        problems=table.problems + problems.listed(),
    )


def _byte(data: bytes, offset: int) -> int | None:
    return data[offset] if offset < len(data) else None


def _address_width(data: bytes) -> int | None:
    stored = _byte(data, _ADDRESS_WIDTH_AT)
    # The field holds one less (VT-d, sec 8.1).
    return None if stored is None else stored + 1


def _name_overlaps(units: tuple[DmarUnit, ...], problems: Problems) -> None:
    """Names the scopes that two units claim, and the segments with two units for all the rest."""
    claimed: dict[tuple[int, DeviceScope], int] = {}
    takers: dict[int, int] = {}
    for unit in units:
        if unit.include_all and takers.setdefault(unit.segment, unit.register_base) != unit.register_base:
            problems.add(
                f"DRHDs at {takers[unit.segment]:#x} and {unit.register_base:#x} both take all functions of "
                f"segment {unit.segment} that no other names; the first does"
            )
        for scope in unit.scopes:
            if scope.kind not in _PCI_SCOPES:
                continue
            first = claimed.setdefault((unit.segment, scope), unit.register_base)
            if first != unit.register_base:
                problems.add(
                    f"DRHDs at {first:#x} and {unit.register_base:#x} both name {scope.text} of segment "
                    f"{unit.segment}; the last counts"
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
    if limit < base:
        # rmrr_sanity_check(): the kernel reports such firmware and keeps no region for it.
        problems.add(f"RMRR at {item.offset:#x} ends at {limit:#x}, before its start {base:#x}")
    scopes = _scopes(item, _RESERVED_REGION.size, problems)
    return (ReservedRegion(segment=segment, base=base, limit=limit, scopes=scopes),)


def _root_ports(item: Structure, problems: Problems) -> Iterator[RootPorts]:
    found = _flagged(item, "ATSR", problems)
    if found is not None:
        flags, segment, scopes = found
        yield RootPorts(segment=segment, all_ports=bool(flags & _ALL_PORTS), scopes=scopes)


def _cached_translation(item: Structure, problems: Problems) -> Iterator[CachedTranslation]:
    found = _flagged(item, "SATC", problems)
    if found is not None:
        flags, segment, scopes = found
        yield CachedTranslation(segment=segment, required=bool(flags & _CACHE_REQUIRED), scopes=scopes)


def _flagged(item: Structure, name: str, problems: Problems) -> tuple[int, int, tuple[DeviceScope, ...]] | None:
    """Flags, segment and scopes: ATSR and SATC are laid out alike."""
    if len(item.data) < _ROOT_PORTS.size:
        problems.add(f"{name} at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return None
    _, _, flags, _, segment = _ROOT_PORTS.unpack_from(item.data)
    return flags, segment, _scopes(item, _ROOT_PORTS.size, problems)


def _namespace_device(item: Structure, problems: Problems) -> Iterator[NamespaceDevice]:
    if len(item.data) < _NAMESPACE_DEVICE.size:
        problems.add(f"ANDD at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return
    name, end, _ = item.data[_NAMESPACE_DEVICE.size :].partition(b"\0")
    if not end:
        # dmar_parse_one_andd() refuses the table.
        problems.add(f"ANDD at {item.offset:#x} has a name without an end, the kernel refuses the table")
    yield NamespaceDevice(
        number=_NAMESPACE_DEVICE.unpack_from(item.data)[2], name=name.decode(_NAME_ENCODING, "replace")
    )


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
