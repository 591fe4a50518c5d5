# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI host bridges of a device tree, and which of their requester IDs an IOMMU translates.

Source: Documentation/devicetree/bindings/pci/pci-iommu.txt; of_map_id() in drivers/of/base.c and
of_iommu_configure() in drivers/iommu/of_iommu.c.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from iommud.firmware.acpi import Problems
from iommud.firmware.fdt import DeviceTree, Node
from iommud.firmware.overlap import Area, overlaps

_PCI_TYPES: Final = frozenset({"pci", "pciex"})
_MAP_ENTRY: Final = struct.Struct(">IIII")
_ALL_BITS: Final = 0xFFFFFFFF
_DEFAULT_CELLS: Final = 1
_MAX_CELLS: Final = 4
_BUS_RANGE: Final = struct.Struct(">II")

MAX_HOST_BRIDGES: Final = 256
"""Further host bridges are left out; each of them costs a walk through the `ranges` of all its parents."""
MAX_PORT_DEPTH: Final = 8
"""Bridges above each other that are followed below a host bridge."""
MAX_RANGES: Final = 128
"""Entries of one `ranges` property that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IommuMapEntry:
    """`length` requester IDs from `rid_base` on become as many IDs from `iommu_base` on at `target`.

    `target` is the path of the node with the phandle (None: no node carries it), and `compatible` says what it is;
    one that is not enabled does not translate.
    """

    rid_base: int
    phandle: int
    iommu_base: int
    length: int
    target: str | None
    target_enabled: bool
    compatible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MapResult:
    """What of_map_id() finds for a requester ID: the entry that holds it, and the ID at the IOMMU."""

    entry: IommuMapEntry
    iommu_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBridge:
    """A PCI host bridge node.

    `reg_base` is the CPU address of its first register window; None: it has none, or a parent hides it.
    `linux_pci_domain` None: the kernel numbers the domain itself.
    `bus_range` None: not stated, hence 0 to 255.
    `iommu_map` None: the property is absent, no IOMMU translates anything; a map that the kernel cannot read
    is empty and has a problem.
    `external_facing` are the ways from the root bus to the ports that lead out of the case, as (device, function) of
    each step.
    """

    path: str
    name: str
    enabled: bool
    reg_base: int | None
    linux_pci_domain: int | None
    bus_range: tuple[int, int] | None
    iommu_map: tuple[IommuMapEntry, ...] | None
    iommu_map_mask: int
    external_facing: tuple[tuple[tuple[int, int], ...], ...] = ()
    problems: tuple[str, ...]

    @property
    def platform_name(self) -> str | None:
        """The platform device's name in sysfs, as 4010000000.pcie (of_device_make_bus_id()), if known."""
        return None if self.reg_base is None else f"{self.reg_base:x}.{self.name.partition('@')[0]}"

    def translate(self, rid: int) -> MapResult | None:
        """The first entry whose range holds the masked requester ID; None: its requests bypass all IOMMUs."""
        masked = rid & self.iommu_map_mask
        for entry in self.iommu_map or ():
            # of_map_id() gives the whole map up at an entry whose base the mask could never meet.
            if entry.rid_base & ~self.iommu_map_mask:
                return None
            if entry.rid_base <= masked < entry.rid_base + entry.length:
                return MapResult(entry=entry, iommu_id=masked - entry.rid_base + entry.iommu_base)
        return None


def host_bridges(tree: DeviceTree) -> tuple[HostBridge, ...]:
    """Every host bridge in the order of the tree; PCI bridge nodes below one are not host bridges."""
    targets = _by_phandle(tree)
    chains = itertools.islice(_host_chains(tree), MAX_HOST_BRIDGES)
    return tuple(_host_bridge(chain, targets) for chain in chains)


def _host_chains(tree: DeviceTree) -> Iterator[tuple[Node, ...]]:
    """Each host bridge node preceded by its ancestors from the root on."""
    waiting: list[tuple[Node, ...]] = [] if tree.root is None else [(tree.root,)]
    while waiting:
        chain = waiting.pop()
        if chain[-1].text("device_type") in _PCI_TYPES:
            yield chain
        else:
            waiting.extend((*chain, child) for child in reversed(chain[-1].children))


def _by_phandle(tree: DeviceTree) -> dict[int, Node]:
    found: dict[int, Node] = {}
    for node in tree.walk():
        phandle = node.u32("phandle") or node.u32("linux,phandle")
        if phandle:
            found.setdefault(phandle, node)
    return found


def _host_bridge(chain: tuple[Node, ...], targets: Mapping[int, Node]) -> HostBridge:
    node = chain[-1]
    raw_map = node.properties.get("iommu-map")
    mask = node.u32("iommu-map-mask")
    return HostBridge(
        path=node.path,
        name=node.name,
        enabled=all(item.enabled for item in chain),
        reg_base=_reg_base(chain),
        linux_pci_domain=node.u32("linux,pci-domain"),
        bus_range=_bus_range(node),
        iommu_map=None if raw_map is None else _iommu_map(raw_map, targets),
        # The binding and of_map_id() select all bits by default.
        iommu_map_mask=_ALL_BITS if mask is None else mask,
        external_facing=tuple(sorted(_external_facing(node))),
        problems=() if raw_map is None else _map_problems(node, raw_map, mask, targets),
    )


def _external_facing(host: Node) -> Iterator[tuple[tuple[int, int], ...]]:
    """Ports below a host bridge with the property `external-facing` (pci_set_bus_of_node())."""
    waiting: list[tuple[Node, tuple[tuple[int, int], ...]]] = [(host, ())]
    while waiting:
        parent, way = waiting.pop()
        for child in parent.children:
            place = child.u32("reg")
            # The first cell of a PCI address holds the devfn in bits 15 to 8 (PCI Bus Binding, sec 2.2.1.1).
            step = None if place is None else (*way, (place >> 11 & 0x1F, place >> 8 & 7))
            if step is None or len(step) > MAX_PORT_DEPTH:
                continue
            if "external-facing" in child.properties:
                yield step
            waiting.append((child, step))


def _bus_range(node: Node) -> tuple[int, int] | None:
    value = node.properties.get("bus-range")
    if value is None or len(value) < _BUS_RANGE.size:
        return None
    first, last = _BUS_RANGE.unpack_from(value)
    return first, last


def _iommu_map(raw: bytes, targets: Mapping[int, Node]) -> tuple[IommuMapEntry, ...]:
    # of_map_id() takes four words per entry whatever #iommu-cells of the target says.
    if len(raw) % _MAP_ENTRY.size:
        return ()
    return tuple(_entry(words, targets) for words in _MAP_ENTRY.iter_unpack(raw))


def _entry(words: tuple[int, int, int, int], targets: Mapping[int, Node]) -> IommuMapEntry:
    rid_base, phandle, iommu_base, length = words
    target = targets.get(phandle)
    return IommuMapEntry(
        rid_base=rid_base,
        phandle=phandle,
        iommu_base=iommu_base,
        length=length,
        target=None if target is None else target.path,
        target_enabled=target is not None and target.enabled,
        compatible=() if target is None else target.texts("compatible"),
    )


def _map_problems(node: Node, raw: bytes, mask: int | None, targets: Mapping[int, Node]) -> tuple[str, ...]:
    problems = Problems(f"FDT: {node.path}: iommu-map")
    if not raw or len(raw) % _MAP_ENTRY.size:
        problems.add(f"has {len(raw)} bytes, no multiple of {_MAP_ENTRY.size}")
    entries = _iommu_map(raw, targets)
    for entry in entries:
        _name_entry_problems(entry, mask, targets.get(entry.phandle), problems)
    areas = [Area(one.rid_base, one.rid_base + one.length - 1) for one in entries]
    for first, second in overlaps(areas):
        problems.add(f"entries {first} and {second} hold the same IDs; the first counts")
    return problems.listed()


def _name_entry_problems(entry: IommuMapEntry, mask: int | None, target: Node | None, problems: Problems) -> None:
    if entry.length == 0:
        problems.add(f"the entry at {entry.rid_base:#x} has length 0, it maps nothing")
    if target is None:
        problems.add(f"refers to phandle {entry.phandle:#x}, which no node has")
    elif target.u32("#iommu-cells") not in (None, 1):
        problems.add(f"{target.path} wants other than 1 IOMMU cell, the kernel reads it as 1")
    if mask is not None and entry.rid_base & ~mask:
        problems.add(f"mask {mask:#x} excludes the base {entry.rid_base:#x}, the kernel refuses the map")


def _reg_base(chain: tuple[Node, ...]) -> int | None:
    """The first address of `reg`, taken up through the `ranges` of each bus (of_translate_address())."""
    *parents, node = chain
    address = _number(node.properties.get("reg", b""), _cells(parents, "#address-cells"))
    while address is not None and len(parents) > 1:
        address = _through_bus(parents, address)
        parents = parents[:-1]
    return address


def _through_bus(parents: list[Node], address: int) -> int | None:
    ranges = parents[-1].properties.get("ranges")
    if not ranges:
        # An empty property means that both sides share addresses, an absent one that nothing passes.
        return address if ranges is not None else None
    child = 4 * _cells(parents, "#address-cells")
    above = 4 * _cells(parents[:-1], "#address-cells")
    size = 4 * _cells(parents, "#size-cells")
    width = child + above + size
    for start in range(0, len(ranges) - width + 1, width)[:MAX_RANGES]:
        words = ranges[start : start + width]
        inside = address - _unsigned(words[:child])
        if 0 <= inside < _unsigned(words[child + above :]):
            return _unsigned(words[child : child + above]) + inside
    return None


def _cells(parents: list[Node], name: str) -> int:
    """A cell count of the nearest ancestor that states one (of_bus_n_addr_cells()), held to a sane 1 to 4."""
    stated = (node.u32(name) for node in reversed(parents))
    count = next((value for value in stated if value is not None), _DEFAULT_CELLS)
    return min(max(count, _DEFAULT_CELLS), _MAX_CELLS)


def _number(value: bytes, cells: int) -> int | None:
    return _unsigned(value[: 4 * cells]) if len(value) >= 4 * cells else None


def _unsigned(value: bytes) -> int:
    """A number of any count of cells."""
    return int.from_bytes(value, "big")
