# SPDX-License-Identifier: GPL-2.0-or-later
"""VIOT: which endpoints a para-virtual (virtio) IOMMU translates.

Source: ACPI 6.5, sec 5.2.33; read by the kernel in drivers/acpi/viot.c.
"""

import itertools
import struct
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems, Structure, read_table, structures
from iommud.firmware.overlap import Area, overlaps

_TABLE_LENGTH: Final = 48
_COUNT_AND_OFFSET: Final = struct.Struct("<HH")
_COUNT_AT: Final = 36
_NODE: Final = struct.Struct("<BxH")
_PCI_RANGE: Final = struct.Struct("<BxHIHHHHH6x")
_MMIO_ENDPOINT: Final = struct.Struct("<BxHIQH6x")
_IOMMU_PCI: Final = struct.Struct("<BxHHH8x")
_IOMMU_MMIO: Final = struct.Struct("<BxH4xQ")
_TYPE_PCI_RANGE: Final = 1
_TYPE_MMIO_ENDPOINT: Final = 2
_TYPE_IOMMU_PCI: Final = 3
_TYPE_IOMMU_MMIO: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuPci:
    """A virtio-iommu that is the PCI function `rid` of `segment`."""

    segment: int
    rid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuMmio:
    """A virtio-iommu behind virtio-mmio registers at physical address `base`."""

    base: int


VirtioIommu = VirtioIommuPci | VirtioIommuMmio


@dataclass(frozen=True, slots=True, kw_only=True)
class PciRange:
    """Requester IDs `first_rid` to `last_rid` of every segment from `first_segment` to `last_segment`.

    `output_node` is the offset of the IOMMU's node; `output` that node, None where no IOMMU node is there.
    """

    first_segment: int
    last_segment: int
    first_rid: int
    last_rid: int
    endpoint_start: int
    output_node: int
    output: VirtioIommu | None

    def holds(self, segment: int, rid: int) -> bool:
        """Whether the range names this function (viot_pci_dev_iommu_init())."""
        in_segments = self.first_segment <= segment <= self.last_segment
        return in_segments and self.first_rid <= rid <= self.last_rid

    def endpoint(self, segment: int, rid: int) -> int:
        """The endpoint ID under which the IOMMU knows a function of the range."""
        return (((segment - self.first_segment) << 16) + rid - self.first_rid + self.endpoint_start) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class MmioEndpoint:
    """A platform device whose registers are at `base`; `output` as in PciRange."""

    base: int
    endpoint: int
    output_node: int
    output: VirtioIommu | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Viot:
    """The table's nodes by kind, in table order."""

    pci_ranges: tuple[PciRange, ...]
    mmio_endpoints: tuple[MmioEndpoint, ...]
    iommus: tuple[VirtioIommu, ...]
    problems: tuple[str, ...]

    @property
    def pci_iommus(self) -> tuple[VirtioIommuPci, ...]:
        """The virtio-iommus that are PCI functions."""
        return tuple(iommu for iommu in self.iommus if isinstance(iommu, VirtioIommuPci))

    def range_of(self, segment: int, rid: int) -> PciRange | None:
        """The range that decides for a function, None where none with an IOMMU node holds it.

        viot_parse_node() drops ranges without an IOMMU and puts each kept one at the head of the list,
        so where ranges overlap the last in the table wins.
        """
        kept = (item for item in reversed(self.pci_ranges) if item.output is not None)
        return next((item for item in kept if item.holds(segment, rid)), None)


def parse_viot(data: bytes) -> Viot:
    """Reads a VIOT table; any bytes give a result."""
    table = read_table(data, "VIOT")
    problems = Problems("VIOT")
    nodes = _nodes(table.data, problems)
    ranges = list(_pci_ranges(nodes, table.data, problems))
    endpoints = [_mmio_endpoint(node, table.data, problems) for node in nodes if node.kind == _TYPE_MMIO_ENDPOINT]
    iommus = [_iommu(node.kind, node.data) for node in nodes]
    return Viot(
        pci_ranges=tuple(ranges),
        mmio_endpoints=tuple(item for item in endpoints if item is not None),
        iommus=tuple(item for item in iommus if item is not None),
        problems=table.problems + problems.listed(),
    )


def _nodes(data: bytes, problems: Problems) -> list[Structure]:
    if len(data) < _TABLE_LENGTH:
        if data:
            problems.add(f"only {len(data)} bytes, the fixed part needs {_TABLE_LENGTH}")
        return []
    count, offset = _COUNT_AND_OFFSET.unpack_from(data, _COUNT_AT)
    if offset < _TABLE_LENGTH:
        problems.add(f"nodes start at {offset:#x}, inside the fixed part")
        return []
    walk = structures(data, offset, _NODE, _NODE.size, problems)
    # No node past the last is looked at.
    nodes = list(itertools.islice(walk, count))
    if len(nodes) < count:
        problems.add(f"{count} nodes announced, {len(nodes)} found")
    return nodes


def _pci_ranges(nodes: list[Structure], data: bytes, problems: Problems) -> list[PciRange]:
    read = [(node, _pci_range(node, data, problems)) for node in nodes if node.kind == _TYPE_PCI_RANGE]
    found = [(node.offset, item) for node, item in read if item is not None]
    for offset, item in found:
        if item.last_rid < item.first_rid or item.last_segment < item.first_segment:
            problems.add(f"PCI range node at {offset:#x} ends before it starts, it holds nothing")
    # A range without an IOMMU decides nothing, so it contends with none.
    kept = [(offset, item) for offset, item in found if item.output is not None]
    areas = [Area(one.first_rid, one.last_rid, one.first_segment, one.last_segment) for _, one in kept]
    for first, second in overlaps(areas):
        problems.add(f"PCI range nodes at {kept[first][0]:#x} and {kept[second][0]:#x} overlap; the last counts")
    return [item for _, item in found]


def _pci_range(node: Structure, data: bytes, problems: Problems) -> PciRange | None:
    if len(node.data) < _PCI_RANGE.size:
        problems.add(f"PCI range node at {node.offset:#x} is too short ({len(node.data)} bytes)")
        return None
    _, _, start, first_segment, last_segment, first_rid, last_rid, output = _PCI_RANGE.unpack_from(node.data)
    return PciRange(
        first_segment=first_segment,
        last_segment=last_segment,
        first_rid=first_rid,
        last_rid=last_rid,
        endpoint_start=start,
        output_node=output,
        output=_output(data, output, node, problems),
    )


def _mmio_endpoint(node: Structure, data: bytes, problems: Problems) -> MmioEndpoint | None:
    if len(node.data) < _MMIO_ENDPOINT.size:
        problems.add(f"MMIO endpoint node at {node.offset:#x} is too short ({len(node.data)} bytes)")
        return None
    _, _, endpoint, base, output = _MMIO_ENDPOINT.unpack_from(node.data)
    resolved = _output(data, output, node, problems)
    return MmioEndpoint(base=base, endpoint=endpoint, output_node=output, output=resolved)


def _output(data: bytes, offset: int, source: Structure, problems: Problems) -> VirtioIommu | None:
    iommu = _iommu_at(data, offset)
    if iommu is None:
        problems.add(f"node at {source.offset:#x}: no virtio-iommu node at its output offset {offset:#x}")
    return iommu


def _iommu_at(data: bytes, offset: int) -> VirtioIommu | None:
    # viot_get_iommu() takes any offset, whether or not the walk over the nodes meets it.
    start = max(_TABLE_LENGTH, _COUNT_AND_OFFSET.unpack_from(data, _COUNT_AT)[1])
    if offset < start or offset + _IOMMU_PCI.size > len(data):
        return None
    kind, length = _NODE.unpack_from(data, offset)
    return _iommu(kind, data[offset : offset + length])


def _iommu(kind: int, data: bytes) -> VirtioIommu | None:
    if kind == _TYPE_IOMMU_PCI and len(data) >= _IOMMU_PCI.size:
        _, _, segment, rid = _IOMMU_PCI.unpack_from(data)
        return VirtioIommuPci(segment=segment, rid=rid)
    if kind == _TYPE_IOMMU_MMIO and len(data) >= _IOMMU_MMIO.size:
        return VirtioIommuMmio(base=_IOMMU_MMIO.unpack_from(data)[2])
    return None
