# SPDX-License-Identifier: GPL-2.0-or-later
"""IVRS: the AMD IOMMUs, the requester IDs that each translates, and the aliases that firmware declares.

Source: AMD I/O Virtualization Technology (IOMMU) Specification, sec 5; read by the kernel in
drivers/iommu/amd/init.c. Kernels before 6.0 take no notice of the segment.
"""

import dataclasses
import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures
from iommud.firmware.ivhd import HIGHEST_REQUESTER_ID, AliasRange, IvhdEntries, RidRange, read_entries
from iommud.firmware.overlap import Area, joined, overlaps

_FIRST_BLOCK: Final = 48
_BLOCK: Final = struct.Struct("<BxH")
_IVHD: Final = struct.Struct("<BBHHHQH")
_DEVICE_ID_AT: Final = 4
_HIGHEST_SUPPORTED_TYPE: Final = 0x40
_HEADER_SIZES: Final = {0x10: 24, 0x11: 40, 0x40: 40}
"""Bytes before the first device entry, by IVHD type (get_ivhd_header_size())."""
_IVINFO: Final = struct.Struct("<I")
_IVINFO_AT: Final = 36
_MEMORY: Final = struct.Struct("<BBHHHH6xQQ")
_TYPE_MEMORY_ALL: Final = 0x20
_TYPE_MEMORY_ONE: Final = 0x21
_TYPE_MEMORY_RANGE: Final = 0x22
_MEMORY_TYPES: Final = frozenset({_TYPE_MEMORY_ALL, _TYPE_MEMORY_ONE, _TYPE_MEMORY_RANGE})


class IvInfo(enum.IntFlag):
    """Flags of the table's IVinfo field that the kernel looks at (AMD IOMMU Specification, sec 5.1)."""

    FEATURES_GIVEN = 0x1
    """IVHD blocks of later types repeat the IOMMU's feature register."""
    DMA_REMAP = 0x2
    """The IOMMU guards memory from before the system is started (IOMMU_CAP_PRE_BOOT_PROTECTION)."""


class MemoryFlag(enum.IntFlag):
    """Flags of an IVMD block (AMD IOMMU Specification, sec 5.2.3)."""

    UNITY = 0x1
    READ = 0x2
    WRITE = 0x4
    EXCLUSION = 0x8


@dataclass(frozen=True, slots=True, kw_only=True)
class IvhdBlock:
    """One description of one IOMMU: block type 0x10, 0x11 or 0x40.

    `device_id` is the requester ID of the IOMMU's own function; `highest_rid` is the highest requester ID
    that the kernel's first pass meets in the block, None where it names none.
    """

    type: int
    flags: int
    offset: int
    segment: int
    device_id: int
    register_base: int
    covered: tuple[RidRange, ...]
    aliases: tuple[AliasRange, ...]
    highest_rid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBlock:
    """Memory (IVMD) that requester IDs `first` to `last` of a segment reach untranslated: `size` bytes from `base`.

    Without the flags UNITY and EXCLUSION the kernel takes no notice of it (init_memory_definitions()).
    """

    segment: int
    first: int
    last: int
    flags: MemoryFlag
    base: int
    size: int

    @property
    def counts(self) -> bool:
        """Whether the kernel acts on it."""
        return bool(self.flags & (MemoryFlag.UNITY | MemoryFlag.EXCLUSION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ivrs:
    """All IVHD and IVMD blocks in table order.

    `used_type` is the IVHD type that the kernel reads (None: it reads none), `info` the raw IVinfo field, see IvInfo.
    """

    blocks: tuple[IvhdBlock, ...]
    memory: tuple[MemoryBlock, ...] = ()
    info: int = 0
    used_type: int | None
    problems: tuple[str, ...]

    def blocks_used(self) -> tuple[IvhdBlock, ...]:
        """The blocks that count: firmware repeats an IOMMU in several types for older and newer readers."""
        return tuple(block for block in self.blocks if block.type == self.used_type)

    def highest_rid(self, segment: int) -> int | None:
        """The highest requester ID of a segment that the kernel makes room for; None: no block names one."""
        named = [block.highest_rid for block in self.blocks_used() if block.segment == segment]
        return max((rid for rid in named if rid is not None), default=None)

    def covers(self, segment: int, rid: int) -> bool:
        """Whether an IOMMU serves a requester ID (check_device(), drivers/iommu/amd/iommu.c)."""
        highest = self.highest_rid(segment)
        blocks = [block for block in self.blocks_used() if block.segment == segment]
        # init_iommu_one_late(): an IOMMU never translates itself, whatever the table says.
        if highest is None or rid > highest or rid in {block.device_id for block in blocks}:
            return False
        return any(item.first <= rid <= item.last for block in blocks for item in block.covered)

    def server(self, segment: int, rid: int) -> IvhdBlock | None:
        """The block of the IOMMU that serves a requester ID; None: none does.

        set_dev_entry_from_acpi() overwrites what an earlier block said, so the last one that names the ID counts.
        """
        if not self.covers(segment, rid):
            return None
        blocks = [block for block in self.blocks_used() if block.segment == segment]
        named = [block for block in blocks if any(item.first <= rid <= item.last for item in block.covered)]
        return named[-1]

    def alias_of(self, segment: int, rid: int) -> int | None:
        """The alias that the table gives a requester ID; None: its own. The last entry that names it wins."""
        blocks = [block for block in self.blocks_used() if block.segment == segment]
        named = [item.alias for block in blocks for item in block.aliases if item.first <= rid <= item.last]
        return named[-1] if named else None


def parse_ivrs(data: bytes) -> Ivrs:
    """Reads an IVRS table; any bytes give a result."""
    table = read_table(data, "IVRS")
    problems = Problems("IVRS")
    found = list(structures(table.data, _FIRST_BLOCK, _BLOCK, _BLOCK.size, problems))
    blocks = [_block(item, problems) for item in found if item.kind in _HEADER_SIZES]
    memory = tuple(block for item in found if item.kind in _MEMORY_TYPES for block in _memory(item, problems))
    read = Ivrs(
        blocks=tuple(block for block in blocks if block is not None),
        memory=memory,
        info=_info(table.data),
        used_type=_used_type(found, problems),
        problems=(),
    )
    _name_overlaps(read.blocks_used(), problems)
    return dataclasses.replace(read, problems=table.problems + problems.listed())


def _info(data: bytes) -> int:
    if len(data) < _IVINFO_AT + _IVINFO.size:
        return 0
    info: int = _IVINFO.unpack_from(data, _IVINFO_AT)[0]
    return info


def _memory(item: Structure, problems: Problems) -> Iterator[MemoryBlock]:
    if len(item.data) < _MEMORY.size:
        problems.add(f"IVMD at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return
    kind, flags, _, rid, auxiliary, segment, base, size = _MEMORY.unpack_from(item.data)
    first, last = rid, rid
    if kind == _TYPE_MEMORY_ALL:
        first, last = 0, HIGHEST_REQUESTER_ID
    elif kind == _TYPE_MEMORY_RANGE:
        last = auxiliary
        if last < first:
            problems.add(f"IVMD at {item.offset:#x} ends at {last:#x}, before its start {first:#x}")
    yield MemoryBlock(segment=segment, first=first, last=last, flags=MemoryFlag(flags), base=base, size=size)


def _name_overlaps(blocks: tuple[IvhdBlock, ...], problems: Problems) -> None:
    """Names the blocks of different IOMMUs that claim the same requester IDs."""
    owned = [
        (block, Area(first, last, block.segment, block.segment))
        for block in blocks
        for first, last in joined((item.first, item.last) for item in block.covered)
    ]
    for first, second in overlaps([area for _, area in owned]):
        one, other = owned[first], owned[second]
        rid = max(one[1].left, other[1].left)
        problems.add(
            f"IVHDs at {one[0].offset:#x} and {other[0].offset:#x} both name requester ID {rid:#06x}; the last counts"
        )


def _used_type(found: list[Structure], problems: Problems) -> int | None:
    """The type of the last block of the table's first IOMMU (get_highest_supported_ivhd_type())."""
    chosen: int | None = None
    for item in found:
        # The kernel ends its search at the first later type, and compares with the first block only.
        if item.kind > _HIGHEST_SUPPORTED_TYPE:
            break
        if chosen is None or _device_id(item) == _device_id(found[0]):
            chosen = item.kind
    if chosen is not None and chosen not in _HEADER_SIZES:
        problems.add(f"the kernel chooses block type {chosen:#x}, which describes no IOMMU")
        return None
    return chosen


def _device_id(item: Structure) -> bytes:
    return item.data[_DEVICE_ID_AT : _DEVICE_ID_AT + 2]


def _block(item: Structure, problems: Problems) -> IvhdBlock | None:
    header_size = _HEADER_SIZES[item.kind]
    if len(item.data) < header_size:
        problems.add(f"IVHD at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return None
    _, flags, _, device_id, _, register_base, segment = _IVHD.unpack_from(item.data)
    entries: IvhdEntries = read_entries(item, header_size, segment, problems)
    if entries.highest_rid is None:
        problems.add(f"IVHD at {item.offset:#x} names no requester ID, the kernel gives up the table")
    return IvhdBlock(
        type=item.kind,
        flags=flags,
        offset=item.offset,
        segment=segment,
        device_id=device_id,
        register_base=register_base,
        covered=entries.covered,
        aliases=entries.aliases,
        highest_rid=entries.highest_rid,
    )
