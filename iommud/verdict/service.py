# SPDX-License-Identifier: GPL-2.0-or-later
"""Which IOMMU serves a function, and under which ID it knows each of the function's requester IDs: firmware's words.

``device_lookup_iommu()`` (Intel), ``check_device()`` (AMD), ``viot_pci_dev_iommu_init()``,
``iort_iommu_configure_id()`` and ``of_pci_iommu_init()``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from iommud import firmware as parsers
from iommud.address import Address
from iommud.model.topology import Topology
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.survey import Driver, Platform

if TYPE_CHECKING:
    from iommud.firmware import DmarUnit, HostBridge, Iort, Ivrs, Viot
    from iommud.firmware.dmar import DeviceScope
    from iommud.firmware.viot import VirtioIommu


class Evidence(enum.StrEnum):
    """What a statement rests on."""

    DMAR = "DMAR"
    IVRS = "IVRS"
    VIOT = "VIOT"
    IORT = "IORT"
    DEVICE_TREE = "device tree"
    SYSFS = "sysfs"
    COMMAND_LINE = "command line"
    NONE = "none"
    """A pattern seen on machines that are right; this snapshot holds nothing that proves it."""


class IdKind(enum.StrEnum):
    """What an IOMMU calls the ID by which it tells functions apart."""

    SOURCE = "source ID"
    DEVICE = "device ID"
    STREAM = "stream ID"
    ENDPOINT = "endpoint ID"
    UNKNOWN = "ID"
    """The device tree leads to an IOMMU of a kind that is not known here."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One IOMMU: the table that describes it, what firmware tells it by, and its entry of ``/sys/class/iommu``."""

    table: Evidence
    name: str
    """``unit at 0xfed90000``, ``SMMUv3 at 0x9050000``, ``0000:00:01.0``: unique in its table."""
    instance: str | None
    """The name that the driver gives to its instance; None if that cannot be told from the table."""


@dataclass(frozen=True, slots=True)
class Served:
    """An IOMMU serves a requester ID, and knows it by this ID; ``because`` says which words of firmware say so."""

    unit: Unit
    kind: IdKind
    value: int
    because: str

    @property
    def table(self) -> Evidence:
        """The table that says so."""
        return self.unit.table

    @property
    def key(self) -> tuple[Unit, int]:
        """What is equal for two requester IDs that the IOMMU cannot tell apart."""
        return (self.unit, self.value)


@dataclass(frozen=True, slots=True)
class Unserved:
    """No IOMMU serves a requester ID, as a table says."""

    table: Evidence
    reason: str


_KINDS = (
    (("smmu", "arm,mmu-", "-dart"), IdKind.STREAM),
    (("virtio,",), IdKind.ENDPOINT),
    (("riscv,",), IdKind.DEVICE),
)
"""Parts of the `compatible` strings of IOMMUs, and what their drivers call the IDs."""

Answer = Served | Unserved
Scoped = tuple[Address, bool]
"""A function that a scope names, and whether all that is below it is meant too."""


@dataclass(frozen=True, slots=True)
class Service:
    """Looks through the tables of one machine for a function."""

    topology: Topology
    platform: Platform
    snapshot: Snapshot
    _scoped: dict[int, Mapping[Address, bool]] = field(default_factory=dict)

    def answers(self, function: PciFunction, requester: Address) -> Iterator[Answer]:
        """What each table that speaks for the IOMMUs at work says of a requester ID of a function."""
        for reader in self._readers():
            answer = reader(function, requester)
            if answer is not None:
                yield answer

    def answer(self, function: PciFunction, requester: Address) -> Answer | None:
        """The first that serves it, else the first that says that nothing does; None where no table speaks."""
        found = list(self.answers(function, requester))
        return next((one for one in found if isinstance(one, Served)), found[0] if found else None)

    def _readers(self) -> Iterator[Callable[[PciFunction, Address], Answer | None]]:
        """The tables that speak for the IOMMUs at work; all of them where no driver shows."""
        firmware, drivers = self.platform.firmware, self.platform.drivers
        others = drivers - {Driver.INTEL, Driver.AMD}
        if firmware.dmar is not None and (not drivers or Driver.INTEL in drivers):
            yield self._dmar
        if firmware.ivrs is not None and (not drivers or Driver.AMD in drivers):
            yield partial(self._ivrs, firmware.ivrs)
        if firmware.viot is not None and (not drivers or Driver.VIRTIO in drivers):
            yield partial(self._viot, firmware.viot)
        if firmware.iort is not None and (not drivers or others - {Driver.VIRTIO}):
            yield partial(self._iort, firmware.iort)
        if firmware.host_bridges is not None and (not drivers or others):
            yield self._device_tree

    def _dmar(self, function: PciFunction, requester: Address) -> Answer:
        """Every requester ID of a function is set up at the function's own unit (``domain_context_mapping()``)."""
        found = self._unit(function)
        if found is None:
            return Unserved(Evidence.DMAR, "no DMAR unit covers it")
        place, unit, because = found
        name = Unit(Evidence.DMAR, f"unit at {unit.register_base:#x}", f"dmar{place}")
        return Served(name, IdKind.SOURCE, requester.requester_id, because)

    def dmar_unit(self, function: PciFunction) -> DmarUnit | None:
        """The unit that serves a function; None: none does."""
        found = self._unit(function)
        return found[1] if found is not None else None

    def physical(self, function: PciFunction) -> PciFunction:
        """The function itself, or of a virtual one its physical one: the one that DMAR scopes name."""
        if function.physfn is None:
            return function
        return self.topology.functions.get(function.physfn, function)

    def _unit(self, function: PciFunction) -> tuple[int, DmarUnit, str] | None:
        """A unit, its place in the table, and why it serves the function."""
        dmar = self.platform.firmware.dmar
        one = self.physical(function)
        above = [bridge.address for bridge in self.topology.chain(one)]
        for place, unit in dmar.search_order() if dmar is not None else ():
            if unit.segment != one.address.domain:
                continue
            because = self._named(unit, one.address, above)
            if because is None and unit.include_all:
                because = "it takes all functions of the segment that no other unit names"
            if because is not None:
                return place, unit, because
        return None

    def _named(self, unit: DmarUnit, address: Address, above: list[Address]) -> str | None:
        scoped = self.scoped_in_unit(unit)
        if address in scoped:
            return "its scope names the function"
        bridge = next((one for one in above if scoped.get(one)), None)
        return None if bridge is None else f"its scope names {bridge} with all that is below"

    def scoped_in_unit(self, unit: DmarUnit) -> Mapping[Address, bool]:
        """The existing functions that a unit's scope names; True: with all that is below, by one of the entries."""
        if id(unit) not in self._scoped:
            found: dict[Address, bool] = {}
            for address, whole in self.scoped(unit.segment, unit.scopes):
                found[address] = whole or found.get(address, False)
            self._scoped[id(unit)] = found
        return self._scoped[id(unit)]

    def scoped(self, segment: int, scopes: tuple[DeviceScope, ...]) -> Iterator[Scoped]:
        """The existing PCI functions that scopes name (``dmar_pci_bus_add_dev()``)."""
        for scope in scopes:
            if scope.kind in (parsers.ScopeKind.PCI_ENDPOINT, parsers.ScopeKind.PCI_SUB_HIERARCHY):
                found = self._walk(segment, scope.start_bus, scope.path)
                if found is not None:
                    yield found, scope.kind is parsers.ScopeKind.PCI_SUB_HIERARCHY

    def _walk(self, segment: int, bus: int, path: tuple[tuple[int, int], ...]) -> Address | None:
        address: Address | None = None
        root = self.topology.buses.get((segment, bus))
        if len(path) > 1 and (root is None or not root.is_root):
            # dmar_match_pci_path() compares whole paths from the root bus; only single steps may start elsewhere.
            return None
        for device, function in path:
            if address is not None:
                bridge = self.topology.functions.get(address)
                if bridge is None or bridge.secondary_bus is None:
                    return None
                bus = bridge.secondary_bus
            address = Address(segment, bus, device, function)
        return address if address in self.topology.functions else None

    def _ivrs(self, ivrs: Ivrs, _function: PciFunction, requester: Address) -> Answer:
        """Before 6.0 the driver took no notice of segments."""
        used = ivrs.blocks_used()
        segments = dict.fromkeys(block.segment for block in used)
        if self.platform.kernel.at_least(6, 0):
            segments = dict.fromkeys(one for one in segments if one == requester.domain)
        for segment in segments:
            block = ivrs.server(segment, requester.requester_id)
            if block is not None:
                own = Address.from_requester_id(segment, block.device_id)
                unit = Unit(Evidence.IVRS, str(own), f"ivhd{used.index(block)}")
                because = f"an entry of the IVHD at {block.offset:#x} covers it"
                return Served(unit, IdKind.DEVICE, requester.requester_id, because)
        return Unserved(Evidence.IVRS, "no entry of the IVRS table covers its requester ID")

    @staticmethod
    def _viot(viot: Viot, function: PciFunction, requester: Address) -> Answer:
        where = (requester.domain, requester.requester_id)
        found = viot.range_of(*where)
        if found is not None and found.output is not None:
            unit = _virtio(found.output)
            if unit.name == str(function.address):
                return Unserved(Evidence.VIOT, "the IOMMU of the range that holds it does not translate for itself")
            because = f"the range {_rid(found.first_rid)} to {_rid(found.last_rid)} holds it"
            return Served(unit, IdKind.ENDPOINT, found.endpoint(*where), because)
        if any(one.holds(*where) for one in viot.pci_ranges):
            return Unserved(Evidence.VIOT, "the VIOT table names an IOMMU for it that is not described")
        return Unserved(Evidence.VIOT, "no PCI range of the VIOT table holds its requester ID")

    @staticmethod
    def _iort(iort: Iort, _function: PciFunction, requester: Address) -> Answer:
        root = iort.root_complex(requester.domain)
        if root is None:
            return Unserved(Evidence.IORT, "the IORT table has no root complex for its segment")
        found = root.smmu_stream(requester.requester_id)
        if found is None:
            return Unserved(Evidence.IORT, "the IORT table maps its requester ID to no SMMU")
        base = next((node.base for node in iort.nodes if node.offset == found.smmu_offset), None)
        unit = _smmu(found.smmu is parsers.NodeKind.SMMU_V3, found.smmu_offset, base)
        because = f"ID mappings of the root complex at {root.offset:#x} lead there"
        return Served(unit, IdKind.STREAM, found.stream_id, because)

    def _device_tree(self, function: PciFunction, requester: Address) -> Answer | None:
        """None where it cannot be told which host bridge is the function's."""
        bridge = self.host_bridge(function)
        if bridge is None:
            return None
        if bridge.iommu_map is None:
            return Unserved(Evidence.DEVICE_TREE, "its host bridge has no iommu-map in the device tree")
        found = bridge.translate(requester.requester_id)
        if found is None:
            return Unserved(Evidence.DEVICE_TREE, "the iommu-map of its host bridge leaves its requester ID out")
        if not found.entry.target_enabled or found.entry.target is None:
            return Unserved(Evidence.DEVICE_TREE, "the device tree has its IOMMU disabled")
        kind = _kind(found.entry.compatible)
        instance = self._instance_of_node(found.entry.target, requester.domain)
        unit = Unit(Evidence.DEVICE_TREE, found.entry.target, instance)
        because = f"the iommu-map of {bridge.path} holds it"
        return Served(unit, kind, found.iommu_id & 0xFFFFFFFF, because)

    def host_bridge(self, function: PciFunction) -> HostBridge | None:
        """The device tree's node of the host bridge above a function; None if it is not told apart."""
        bridges = self.platform.firmware.host_bridges or ()
        named = [one for one in bridges if function.host_node and one.platform_name == function.host_node]
        numbered = [one for one in bridges if one.linux_pci_domain == function.address.domain]
        return next((found[0] for found in (named, numbered, bridges) if len(found) == 1), None)

    def _instance_of_node(self, path: str, domain: int) -> str | None:
        """The instance whose name holds the address in which the node's name ends: of registers, or on a PCI bus."""
        place = path.rpartition("@")[2]
        names = sorted(self.snapshot.iommus or ())
        registers = [name for name in names if name.startswith("smmu") and name.endswith(f".0x{place:0>16}")]
        number = place.partition(",")
        slots = {f"{number[0]:0>2}.{number[2] or '0'}", f"{domain:04x}"}
        functions = [
            name for name in names if Address.from_name(name) and {name.rpartition(":")[2], name[:-8]} == slots
        ]
        found = registers or functions
        return found[0] if len(found) == 1 else None


def _kind(compatible: tuple[str, ...]) -> IdKind:
    """What the driver of a node calls its IDs."""
    for words, kind in _KINDS:
        if any(word in one for one in compatible for word in words):
            return kind
    return IdKind.UNKNOWN


def _virtio(iommu: VirtioIommu) -> Unit:
    if not isinstance(iommu, parsers.VirtioIommuPci):
        return Unit(Evidence.VIOT, f"virtio-iommu at {iommu.base:#x}", None)
    own = str(Address.from_requester_id(iommu.segment, iommu.rid))
    # A virtio-iommu's instance has the name of its function (viommu_probe()).
    return Unit(Evidence.VIOT, own, own)


def _smmu(three: bool, offset: int, base: int | None) -> Unit:
    name = "SMMUv3" if three else "SMMU"
    if base is None:
        return Unit(Evidence.IORT, f"{name} at node {offset:#x}", None)
    # arm_smmu_device_probe() of both drivers names the instance by the address of the registers.
    return Unit(Evidence.IORT, f"{name} at {base:#x}", f"{'smmu3' if three else 'smmu'}.{base:#018x}")


def _rid(value: int) -> str:
    """A requester ID as bus, device and function."""
    return f"{value >> 8:02x}:{value >> 3 & 0x1F:02x}.{value & 7}"
