# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions linked into buses, bridges and paths to the root; port types and flags as the kernel holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.quirks import BridgeFlag, DeviceList, Quirks
from iommud.pci import CLASS_CARDBUS_BRIDGE, HEADER_TYPE_CARDBUS, PortType
from iommud.snapshot import PciFunction, Snapshot

BusId = tuple[int, int]
"""Domain and bus number: what identifies a bus to the kernel (``pci_find_bus()``)."""


@dataclass(slots=True, kw_only=True)
class Bus:
    """One bus: a root bus, the secondary bus of a bridge, or the virtual bus of an SR-IOV device."""

    id: BusId
    bridge: PciFunction | None = None
    """The bridge right above; None for root buses and virtual buses."""
    virtual_parent: BusId | None = None
    """For a virtual bus, the bus of the physical function (``virtfn_add_bus()``, drivers/pci/iov.c)."""
    functions: list[PciFunction] = field(default_factory=list)

    @property
    def is_root(self) -> bool:
        """Whether walks towards the root end here (``pci_is_root_bus()``)."""
        return self.bridge is None and self.virtual_parent is None


@dataclass(frozen=True, slots=True)
class Topology:
    """The functions of one snapshot with the relations that grouping needs."""

    functions: Mapping[Address, PciFunction]
    """Every function, bridges that only paths name included."""
    buses: Mapping[BusId, Bus]
    quirks: Quirks
    chains: Mapping[BusId, tuple[PciFunction, ...]]
    """For each bus the bridges above it, nearest first."""
    port_types: Mapping[Address, int | None]
    """Effective port type of each bridge whose type is known and each function that was read."""
    doubtful: frozenset[Address]
    """Downstream ports of which only an unread bridge above could tell whether the kernel corrected their type."""

    @classmethod
    def of(cls, snapshot: Snapshot, quirks: Quirks) -> Topology:
        """Link the functions of a snapshot."""
        functions = _with_missing_bridges(snapshot.functions)
        buses = _buses(functions)
        chains = {bus: _chain(bus, buses) for bus in buses}
        types, doubtful = _effective_types(functions, chains)
        return cls(functions, buses, quirks, chains, types, doubtful)

    def bus_of(self, function: PciFunction) -> Bus:
        """The bus a function sits on."""
        return self.buses[function.address[:2]]

    def chain(self, function: PciFunction) -> tuple[PciFunction, ...]:
        """The bridges above a function's bus, nearest first, up to the root bus."""
        return self.chains[function.address[:2]]

    def above(self, bridge: PciFunction) -> tuple[PciFunction, ...]:
        """The bridges above a bridge, nearest first."""
        return self.chains[bridge.address[:2]]

    def on_root_bus(self, function: PciFunction) -> bool:
        """Whether the function sits on a root bus."""
        return self.bus_of(function).is_root

    def multifunction(self, function: PciFunction) -> bool | None:
        """``pdev->multifunction``; None where only an unread header byte would tell.

        ``pci_scan_slot()`` sets it on every function it finds at a number above 0; with ARI that number is the
        whole devfn. Virtual functions never have it (``pci_iov_add_virtfn()``).
        """
        if function.is_virtual:
            return False
        if function.address.function or (function.ari_enabled and function.address.devfn):
            return True
        return function.config.multifunction_bit

    @staticmethod
    def is_pcie(function: PciFunction) -> bool | None:
        """Whether it has a PCI Express capability (``pci_is_pcie()``); None if not known."""
        if function.is_virtual:
            return True
        if function.config.is_pcie is not None:
            return function.config.is_pcie
        return function.has_link

    def port_type(self, function: PciFunction) -> int | None:
        """Port type after the kernel's correction; None if not PCIe or not known."""
        return self.port_types.get(function.address, PortType.ENDPOINT if function.is_virtual else None)

    def real_dma_device(self, function: PciFunction) -> PciFunction:
        """The function whose requester ID stands in the requests (``pci_real_dma_dev()``, arch/x86/pci/common.c).

        For functions of a VMD domain it is the VMD endpoint; for every other function itself.
        """
        if function.host_parent is None:
            return function
        endpoint = self.functions.get(function.host_parent)
        if endpoint is None or not self._is_vmd(endpoint):
            return function
        return endpoint

    def _is_vmd(self, endpoint: PciFunction) -> bool:
        return endpoint.driver == "vmd" or self.quirks.listed(DeviceList.VMD, endpoint.vendor, endpoint.device)

    def flag(self, bridge: PciFunction, flag: BridgeFlag) -> bool:
        """Whether an alias fixup sets this flag on the bridge."""
        rows = self.quirks.alias_rows(bridge.vendor, bridge.device)
        if not rows or not any(row.flag is flag for row in rows):
            return False
        return flag is not BridgeFlag.PCIE_BRIDGE_ALIAS or self._below_pcie(bridge)

    def _below_pcie(self, bridge: PciFunction) -> bool:
        """The conditions of ``quirk_use_pcie_bridge_dma_alias()``."""
        above = self.above(bridge)
        if not above or self.is_pcie(bridge) is not False or self.is_cardbus(bridge):
            return False
        return self.is_pcie(above[0]) is True and self.port_type(above[0]) != PortType.PCIE_TO_PCI_BRIDGE

    @staticmethod
    def is_cardbus(function: PciFunction) -> bool:
        """Whether it has a CardBus header (type 2)."""
        if function.config.header_type is not None:
            return function.config.header_type == HEADER_TYPE_CARDBUS
        return function.class_high == CLASS_CARDBUS_BRIDGE


def _with_missing_bridges(functions: Iterable[PciFunction]) -> dict[Address, PciFunction]:
    """Add a placeholder, of which nothing is known, for each bridge that only a path names."""
    found = {function.address: function for function in functions}
    for function in list(found.values()):
        upstream = function.upstream
        if upstream is not None and upstream not in found:
            found[upstream] = PciFunction(address=upstream, root=function.root, present=False)
    return found


def _buses(functions: Mapping[Address, PciFunction]) -> dict[BusId, Bus]:
    buses: dict[BusId, Bus] = {}
    for function in functions.values():
        if not function.is_virtual:
            place = function.address[:2]
            bus = buses.get(place)
            if bus is None:
                bus = buses[place] = Bus(id=place)
            if bus.bridge is None and function.upstream is not None:
                bus.bridge = functions[function.upstream]
            bus.functions.append(function)
    for function in functions.values():
        if function.physfn is not None:
            _place_virtual(function, function.physfn[:2], functions, buses)
    return buses


def _place_virtual(
    function: PciFunction,
    parent: BusId,
    functions: Mapping[Address, PciFunction],
    buses: dict[BusId, Bus],
) -> None:
    """A virtual function joins the bus that has its number, or a virtual bus below its physical function's."""
    if parent not in buses:
        above = function.upstream
        buses[parent] = Bus(id=parent, bridge=None if above is None else functions[above])
    bus = buses.setdefault(function.address[:2], Bus(id=function.address[:2], virtual_parent=parent))
    bus.functions.append(function)


def _chain(start: BusId, buses: Mapping[BusId, Bus]) -> tuple[PciFunction, ...]:
    chain: list[PciFunction] = []
    seen: set[BusId] = set()
    bus = buses[start]
    while not bus.is_root and bus.id not in seen:
        # A snapshot whose paths run in a circle is no tree; the first repetition ends the walk.
        seen.add(bus.id)
        if bus.bridge is None:
            bus = buses[bus.virtual_parent or bus.id]
        else:
            chain.append(bus.bridge)
            bus = buses[bus.bridge.address[:2]]
    return tuple(chain)


_CORRECTED_BELOW: Mapping[int | None, tuple[PortType, ...]] = {
    PortType.DOWNSTREAM_PORT: (PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT, PortType.PCI_TO_PCIE_BRIDGE),
    PortType.UPSTREAM_PORT: (PortType.UPSTREAM_PORT,),
}


def _effective_types(
    functions: Mapping[Address, PciFunction],
    chains: Mapping[BusId, tuple[PciFunction, ...]],
) -> tuple[dict[Address, int | None], frozenset[Address]]:
    """Apply ``set_pcie_port_type()``, drivers/pci/probe.c, from the root down.

    The kernel means to turn a switch port that cannot be where it is into its counterpart, but writes the new
    value outside the type field: the type that remains is 0, an endpoint, in every version modelled.
    """
    types: dict[Address, int | None] = {}
    doubtful: set[Address] = set()
    typed = [function for function in functions.values() if function.config.port_type is not None]
    for function in sorted(typed, key=lambda one: len(chains[one.address[:2]])):
        raw = function.config.port_type
        above = next(iter(chains[function.address[:2]]), None)
        parent = None if above is None else types.get(above.address)
        impossible = _CORRECTED_BELOW.get(raw, ())
        in_doubt = above is not None and (above.address in doubtful or _type_unread(above))
        if in_doubt and raw == PortType.DOWNSTREAM_PORT:
            # An upstream port needs no such care: ACS judges it like the endpoint it would become.
            doubtful.add(function.address)
            impossible = ()
        types[function.address] = PortType.ENDPOINT if parent in impossible else raw
    return types, frozenset(doubtful)


def _type_unread(bridge: PciFunction) -> bool:
    return Topology.is_pcie(bridge) is not False and bridge.config.port_type is None
