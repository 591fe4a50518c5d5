# SPDX-License-Identifier: GPL-2.0-or-later
"""IVRS: the AMD IOMMUs, the requester IDs that each translates, and the aliases that firmware declares.

Source: AMD I/O Virtualization Technology (IOMMU) Specification, sec 5; read by the kernel in
drivers/iommu/amd/init.c. Kernels before 6.0 take no notice of the segment.
"""

import struct
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures
from iommud.firmware.ivhd import AliasRange, IvhdEntries, RidRange, read_entries

_FIRST_BLOCK: Final = 48
_BLOCK: Final = struct.Struct("<BxH")
_IVHD: Final = struct.Struct("<BBHHHQH")
_DEVICE_ID_AT: Final = 4
_HIGHEST_SUPPORTED_TYPE: Final = 0x40
_HEADER_SIZES: Final = {0x10: 24, 0x11: 40, 0x40: 40}
"""Bytes before the first device entry, by IVHD type (get_ivhd_header_size())."""


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
class Ivrs:
    """All IVHD blocks in table order; `used_type` is the type that the kernel reads (None: it reads none)."""

    blocks: tuple[IvhdBlock, ...]
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
    return Ivrs(
        blocks=tuple(block for block in blocks if block is not None),
        used_type=_used_type(found, problems),
        problems=table.problems + problems.listed(),
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
