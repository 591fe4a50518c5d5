# SPDX-License-Identifier: GPL-2.0-or-later
"""IORT: how requester IDs of PCI root complexes become stream IDs of Arm SMMUs.

Source: Arm I/O Remapping Table, DEN 0049E; read by the kernel in drivers/acpi/arm64/iort.c.
"""

import enum
import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures
from iommud.firmware.iort_nodes import MemoryRange, register_base, reserved_memory
from iommud.firmware.overlap import Area, overlaps

_TABLE_LENGTH: Final = 48
_COUNT_AT: Final = 36
_COUNT_AND_OFFSET: Final = struct.Struct("<II")
_NODE_HEADER: Final = struct.Struct("<BH")
_NODE: Final = struct.Struct("<BHBIII")
_MAPPING: Final = struct.Struct("<IIIII")
_ATS_AND_SEGMENT_AT: Final = 24
_ATS_AND_SEGMENT: Final = struct.Struct("<II")
_ATS_SUPPORTED: Final = 0x1
_SINGLE_MAPPING: Final = 0x1


class NodeKind(enum.IntEnum):
    """Node types (DEN 0049E, table 3)."""

    ITS_GROUP = 0
    NAMED_COMPONENT = 1
    ROOT_COMPLEX = 2
    SMMU = 3
    SMMU_V3 = 4
    PMCG = 5
    RMR = 6


_KINDS: Final = {int(kind): kind for kind in NodeKind}
_IOMMU_KINDS: Final = frozenset({NodeKind.SMMU, NodeKind.SMMU_V3})
_SINGLE_ALLOWED: Final = frozenset({NodeKind.NAMED_COMPONENT, NodeKind.ROOT_COMPLEX})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMapping:
    """`count` IDs from `input_base` on become as many from `output_base` on, at the node at `output_offset`.

    `output` is that node's kind, None where no known node starts there. A `single` mapping takes any input.
    """

    input_base: int
    count: int
    output_base: int
    output_offset: int
    output: NodeKind | None
    single: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IortNode:
    """One node with its ID mappings; `kind` None: a type later than this reader.

    `base` is the physical address of an SMMU's registers, None for other nodes and where the node ends before it.
    `memory` is what a reserved memory range node (RMR) keeps mapped for the stream IDs that its mappings lead to.
    """

    offset: int
    kind: NodeKind | None
    base: int | None = None
    memory: tuple[MemoryRange, ...] = ()
    mappings: tuple[IdMapping, ...]

    def reserves_for(self, smmu_offset: int, stream_id: int) -> bool:
        """Whether an RMR node names this stream of the SMMU at that offset (iort_node_get_rmr_info())."""
        return self.kind is NodeKind.RMR and any(
            mapping.output_offset == smmu_offset and 0 <= stream_id - mapping.output_base < mapping.count
            for mapping in self.mappings
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SmmuStream:
    """Where a requester ID ends: the kind and node offset of the SMMU, and the stream ID there."""

    smmu: NodeKind
    smmu_offset: int
    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RootComplex:
    """A PCI root complex: the segment it stands for, and its ID mappings in table order.

    `ats` says whether firmware lets functions below it cache translations (its ATS attribute).
    """

    segment: int
    offset: int
    ats: bool = False
    mappings: tuple[IdMapping, ...]
    nodes: Mapping[int, IortNode] = field(repr=False, compare=False)

    def smmu_stream(self, rid: int) -> SmmuStream | None:
        """Follows the mappings as iort_node_map_id() does; None: the requests of `rid` bypass every SMMU."""
        place: tuple[int, int] | None = (self.offset, rid)
        seen: set[int] = set()
        while place is not None:
            offset, identifier = place
            node = self.nodes.get(offset)
            if node is None or offset in seen:
                return None
            if node.kind in _IOMMU_KINDS:
                return SmmuStream(smmu=node.kind, smmu_offset=offset, stream_id=identifier)
            seen.add(offset)
            place = _mapped(node, identifier)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Iort:
    """All nodes, and those of them that are root complexes, in table order."""

    nodes: tuple[IortNode, ...]
    root_complexes: tuple[RootComplex, ...]
    problems: tuple[str, ...]

    def root_complex(self, segment: int) -> RootComplex | None:
        """The node that stands for a segment: the first, as iort_scan_node() stops there."""
        return next((item for item in self.root_complexes if item.segment == segment), None)

    def node_at(self, offset: int) -> IortNode | None:
        """The node that starts there."""
        return next((node for node in self.nodes if node.offset == offset), None)


def _mapped(node: IortNode, identifier: int) -> tuple[int, int] | None:
    """Offset of the next node and the ID there; None: no mapping holds the ID."""
    # iort_node_map_id(): a null reference in the first mapping makes the kernel disbelieve all of them.
    if not node.mappings or node.mappings[0].output_offset == 0:
        return None
    at_range_end: tuple[int, int] | None = None
    for mapping in node.mappings:
        if mapping.single:
            if node.kind in _SINGLE_ALLOWED:
                return mapping.output_offset, mapping.output_base
            continue
        place = identifier - mapping.input_base
        # iort_id_map(): tables that store the count itself, not count - 1, make ranges overlap by one ID;
        # a match at the end of a range yields to a range that begins with that ID.
        if not 0 <= place < mapping.count or (at_range_end is not None and place != 0):
            continue
        found = mapping.output_offset, (mapping.output_base + place) & 0xFFFFFFFF
        if place == 0 or place < mapping.count - 1:
            return found
        at_range_end = found
    return at_range_end


def parse_iort(data: bytes) -> Iort:
    """Reads an IORT table; any bytes give a result."""
    table = read_table(data, "IORT")
    problems = Problems("IORT")
    found = _structures(table.data, problems)
    kinds = {item.offset: _KINDS.get(item.kind) for item in found}
    # Honest mappings do not share bytes, so the table's size bounds their number.
    budget = len(table.data) // _MAPPING.size
    nodes: dict[int, IortNode] = {}
    for item in found:
        mappings = _mappings(table.data, item, kinds, budget, problems)
        budget -= len(mappings)
        nodes[item.offset] = _node(item, mappings, kinds, problems)
    _name_loops(nodes, problems)
    _name_overlaps(nodes, problems)
    complexes = [_root_complex(item, nodes, problems) for item in found if item.kind == NodeKind.ROOT_COMPLEX]
    roots = tuple(root for root in complexes if root is not None)
    _name_repeated_segments(roots, problems)
    return Iort(nodes=tuple(nodes.values()), root_complexes=roots, problems=table.problems + problems.listed())


def _node(
    item: Structure, mappings: tuple[IdMapping, ...], kinds: Mapping[int, NodeKind | None], problems: Problems
) -> IortNode:
    kind = kinds[item.offset]
    return IortNode(
        offset=item.offset,
        kind=kind,
        base=register_base(item, problems) if kind in _IOMMU_KINDS else None,
        memory=reserved_memory(item, problems) if kind is NodeKind.RMR else (),
        mappings=mappings,
    )


def _name_overlaps(nodes: Mapping[int, IortNode], problems: Problems) -> None:
    """Names the nodes whose mappings claim an ID twice, but for the last one of a range.

    Many tables store the count itself, not count - 1, so that each range reaches one ID into the next.
    """
    for node in nodes.values():
        # The input IDs of an RMR node mean nothing: its streams are those that the mappings put out.
        if node.kind is NodeKind.RMR:
            continue
        ranges = [mapping for mapping in node.mappings if not mapping.single]
        areas = [Area(one.input_base, one.input_base + max(one.count - 2, 0)) for one in ranges]
        for first, second in overlaps(areas):
            identifier = max(ranges[first].input_base, ranges[second].input_base)
            problems.add(f"two ID mappings of the node at {node.offset:#x} hold ID {identifier:#x}; the first counts")


def _name_repeated_segments(roots: tuple[RootComplex, ...], problems: Problems) -> None:
    firsts: dict[int, int] = {}
    for root in roots:
        if firsts.setdefault(root.segment, root.offset) != root.offset:
            problems.add(
                f"the root complex nodes at {firsts[root.segment]:#x} and {root.offset:#x} both stand for "
                f"segment {root.segment}; the first counts"
            )


def _structures(data: bytes, problems: Problems) -> list[Structure]:
    if len(data) < _TABLE_LENGTH:
        if data:
            problems.add(f"only {len(data)} bytes, the fixed part needs {_TABLE_LENGTH}")
        return []
    count, offset = _COUNT_AND_OFFSET.unpack_from(data, _COUNT_AT)
    walk = structures(data, offset, _NODE_HEADER, _NODE.size, problems)
    found = list(itertools.islice(walk, count))
    if len(found) < count:
        problems.add(f"{count} nodes announced, {len(found)} found")
    return [item for item in found if len(item.data) >= _NODE.size]


def _root_complex(item: Structure, nodes: Mapping[int, IortNode], problems: Problems) -> RootComplex | None:
    if len(item.data) < _ATS_AND_SEGMENT_AT + _ATS_AND_SEGMENT.size:
        problems.add(f"root complex node at {item.offset:#x} is too short ({len(item.data)} bytes)")
        return None
    ats, segment = _ATS_AND_SEGMENT.unpack_from(item.data, _ATS_AND_SEGMENT_AT)
    mappings = nodes[item.offset].mappings
    return RootComplex(
        segment=segment, offset=item.offset, ats=bool(ats & _ATS_SUPPORTED), mappings=mappings, nodes=nodes
    )


def _mappings(
    data: bytes, item: Structure, kinds: Mapping[int, NodeKind | None], budget: int, problems: Problems
) -> tuple[IdMapping, ...]:
    *_, count, relative = _NODE.unpack_from(item.data)
    if not count or not relative:
        return ()
    start = item.offset + relative
    at_hand = min(count, budget, max(0, (len(data) - start) // _MAPPING.size))
    if at_hand < count:
        problems.add(f"node at {item.offset:#x} announces {count} ID mappings, {at_hand} are there")
    offsets = range(start, start + at_hand * _MAPPING.size, _MAPPING.size)
    return tuple(_mapping(data, offset, kinds, problems) for offset in offsets)


def _mapping(data: bytes, offset: int, kinds: Mapping[int, NodeKind | None], problems: Problems) -> IdMapping:
    input_base, count, output_base, output_offset, flags = _MAPPING.unpack_from(data, offset)
    if output_offset not in kinds:
        problems.add(f"ID mapping at {offset:#x} refers to {output_offset:#x}, where no node starts")
    return IdMapping(
        input_base=input_base,
        count=count + 1,
        output_base=output_base,
        output_offset=output_offset,
        output=kinds.get(output_offset),
        single=bool(flags & _SINGLE_MAPPING),
    )


def _name_loops(nodes: Mapping[int, IortNode], problems: Problems) -> None:
    """Names the nodes whose references lead into a loop: what is left when all that ends is peeled off."""
    targets = {offset: {m.output_offset for m in node.mappings} & nodes.keys() for offset, node in nodes.items()}
    sources: dict[int, list[int]] = {offset: [] for offset in nodes}
    for offset, following in targets.items():
        for target in following:
            sources[target].append(offset)
    ready = [offset for offset, following in targets.items() if not following]
    while ready:
        ended = ready.pop()
        del targets[ended]
        for source in sources[ended]:
            targets[source].discard(ended)
            if not targets[source]:
                ready.append(source)
    for offset in targets:
        problems.add(f"the references of the node at {offset:#x} lead into a loop")
