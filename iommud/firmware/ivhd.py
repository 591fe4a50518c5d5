# SPDX-License-Identifier: GPL-2.0-or-later
"""The device entries of one IVHD block, read in their order.

Source: AMD I/O Virtualization Technology (IOMMU) Specification, sec 5.2.2; init_iommu_from_acpi() in
drivers/iommu/amd/init.c.
"""

import enum
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from iommud.firmware.acpi import Problems, Structure

_SHORT: Final = struct.Struct("<BHB")
_LONG: Final = struct.Struct("<BHBBHB")
_HID_AT: Final = 4
_UID_LENGTH_AT: Final = 21
_HID_ENTRY_LENGTH: Final = 22
_FIRST_VARIABLE_TYPE: Final = 0xF0
HIGHEST_REQUESTER_ID: Final = 0xFFFF
_SPECIAL_VARIETIES: Final = frozenset({1, 2})
"""IOAPIC and HPET."""


class EntryType(enum.IntEnum):
    """The device entry types that the kernel acts on."""

    ALL = 0x01
    SELECT = 0x02
    RANGE_START = 0x03
    RANGE_END = 0x04
    ALIAS = 0x42
    ALIAS_RANGE = 0x43
    EXT_SELECT = 0x46
    EXT_RANGE = 0x47
    SPECIAL = 0x48
    ACPI_HID = 0xF0


_COUNTED: Final = frozenset({EntryType.SELECT, EntryType.RANGE_END, EntryType.ALIAS, EntryType.EXT_SELECT})
"""Entries whose device ID raises the highest one (find_last_devid_from_ivhd()); special devices do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RidRange:
    """Requester IDs `first` to `last`, both included, of `segment`."""

    segment: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRange:
    """Every requester ID from `first` to `last` of `segment` issues its requests as `alias`."""

    segment: int
    first: int
    last: int
    alias: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IvhdEntries:
    """What the entries of a block say together; ranges stay ranges."""

    covered: tuple[RidRange, ...]
    aliases: tuple[AliasRange, ...]
    highest_rid: int | None


@dataclass(slots=True, kw_only=True)
class _Reader:
    segment: int
    hid_allowed: bool
    problems: Problems
    covered: list[RidRange] = field(default_factory=list)
    aliases: list[AliasRange] = field(default_factory=list)
    highest_rid: int | None = None
    # Like the kernel's variables these outlive a range: an end without a start begins at the last start.
    range_start: int = 0
    range_alias: int | None = None
    range_open: bool = False

    def cover(self, first: int, last: int) -> None:
        if first <= last:
            self.covered.append(RidRange(segment=self.segment, first=first, last=last))

    def cover_one(self, entry: Structure) -> None:
        rid = _device_id(entry)
        self.cover(rid, rid)

    def cover_all(self, _entry: Structure) -> None:
        # The kernel covers up to the highest ID of the segment, which this very entry makes 0xffff.
        self.cover(0, HIGHEST_REQUESTER_ID)

    def alias_one(self, entry: Structure) -> None:
        rid, alias = _device_id(entry), _second_device_id(entry)
        self.cover(rid, rid)
        self.cover(alias, alias)
        self.aliases.append(AliasRange(segment=self.segment, first=rid, last=rid, alias=alias))

    def open_range(self, entry: Structure) -> None:
        if self.range_open:
            self.problems.add(f"IVHD range that starts before {entry.offset:#x} has no end")
        self.range_start, self.range_open = _device_id(entry), True
        self.range_alias = _second_device_id(entry) if entry.kind == EntryType.ALIAS_RANGE else None

    def close_range(self, entry: Structure) -> None:
        last = _device_id(entry)
        if not self.range_open:
            self.problems.add(f"IVHD range end at {entry.offset:#x} has no start")
        if last < self.range_start:
            self.problems.add(f"IVHD range end at {entry.offset:#x} lies below its start, the range is empty")
        self._take_range(last)
        self.range_open = False

    def _take_range(self, last: int) -> None:
        first, alias = self.range_start, self.range_alias
        if alias is not None:
            self.cover(alias, alias)
            if first <= last:
                self.aliases.append(AliasRange(segment=self.segment, first=first, last=last, alias=alias))
        self.cover(first, last)

    def special(self, entry: Structure) -> None:
        variety = entry.data[7]
        if variety not in _SPECIAL_VARIETIES:
            self.problems.add(f"special device at {entry.offset:#x} has unknown variety {variety}")
            return
        rid = _second_device_id(entry)
        self.cover(rid, rid)

    def acpi_hid(self, entry: Structure) -> None:
        if not self.hid_allowed or entry.data[_HID_AT] == 0:
            self.problems.add(f"ACPI HID entry at {entry.offset:#x} is not valid, the kernel passes over it")
            return
        self.cover_one(entry)

    def count(self, entry: Structure) -> None:
        if entry.kind == EntryType.ALL:
            self.highest_rid = HIGHEST_REQUESTER_ID
        elif entry.kind in _COUNTED:
            self.highest_rid = max(self.highest_rid or 0, _device_id(entry))


_ACTIONS: Final[dict[int, Callable[[_Reader, Structure], None]]] = {
    EntryType.ALL: _Reader.cover_all,
    EntryType.SELECT: _Reader.cover_one,
    EntryType.RANGE_START: _Reader.open_range,
    EntryType.RANGE_END: _Reader.close_range,
    EntryType.ALIAS: _Reader.alias_one,
    EntryType.ALIAS_RANGE: _Reader.open_range,
    EntryType.EXT_SELECT: _Reader.cover_one,
    EntryType.EXT_RANGE: _Reader.open_range,
    EntryType.SPECIAL: _Reader.special,
    EntryType.ACPI_HID: _Reader.acpi_hid,
}


def read_entries(block: Structure, start: int, segment: int, problems: Problems) -> IvhdEntries:
    """Reads the entries of `block` that begin `start` bytes into it."""
    reader = _Reader(segment=segment, hid_allowed=block.kind == 0x40, problems=problems)
    for entry in _entries(block, start, problems):
        action = _ACTIONS.get(entry.kind)
        if action is not None:
            action(reader, entry)
        reader.count(entry)
    if reader.range_open:
        problems.add(f"IVHD at {block.offset:#x} ends within a range")
    return IvhdEntries(covered=tuple(reader.covered), aliases=tuple(reader.aliases), highest_rid=reader.highest_rid)


def _entries(block: Structure, start: int, problems: Problems) -> Iterator[Structure]:
    offset = start
    while offset < len(block.data):
        length = _entry_length(block.data, offset)
        where = block.offset + offset
        if length is None:
            problems.add(f"device entry at {where:#x} has type {block.data[offset]:#x} of unknown length")
            return
        if offset + length > len(block.data):
            problems.add(f"device entry at {where:#x} passes the end of its block")
            return
        yield Structure(kind=block.data[offset], offset=where, data=block.data[offset : offset + length])
        offset += length


def _entry_length(data: bytes, offset: int) -> int | None:
    kind = data[offset]
    if kind < _FIRST_VARIABLE_TYPE:
        # ivhd_entry_length() follows the specification's rule below 0x80 only, and does not advance above.
        return 4 << (kind >> 6)
    if kind != EntryType.ACPI_HID:
        return None
    uid = data[offset + _UID_LENGTH_AT : offset + _HID_ENTRY_LENGTH]
    # One byte, or none where the entry is cut; the shortest length then lets the caller say so.
    return _HID_ENTRY_LENGTH + sum(uid)


def _device_id(entry: Structure) -> int:
    rid: int = _SHORT.unpack_from(entry.data)[1]
    return rid


def _second_device_id(entry: Structure) -> int:
    rid: int = _LONG.unpack_from(entry.data)[4]
    return rid
