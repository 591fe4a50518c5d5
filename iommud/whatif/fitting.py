# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kinds of functions go on which kinds of buses."""

from __future__ import annotations

from dataclasses import dataclass

from iommud.address import Address
from iommud.model.topology import BusId, Topology
from iommud.pci import PortType
from iommud.snapshot import PciFunction
from iommud.whatif.changes import ImpossibleChangeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bus to put something on, with what functions there have in common."""

    bus: BusId
    bridge: PciFunction | None
    """The bridge above; None on a root bus."""
    root: tuple[int, int] | None
    host_parent: Address | None
    host_node: str | None

    @classmethod
    def below(cls, bridge: PciFunction) -> Place:
        """The bus below a bridge whose bus number is known."""
        return cls(
            bus=(bridge.address.domain, bridge.secondary_bus or 0),
            bridge=bridge,
            root=bridge.root,
            host_parent=bridge.host_parent,
            host_node=bridge.host_node,
        )

    @classmethod
    def on_root_bus(cls, function: PciFunction) -> Place:
        """The root bus on which a function sits."""
        return cls(
            bus=function.address[:2],
            bridge=None,
            root=function.root,
            host_parent=function.host_parent,
            host_node=function.host_node,
        )


_LINKS = frozenset({PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT, PortType.PCI_TO_PCIE_BRIDGE})
_INTEGRATED = frozenset({PortType.ROOT_PORT, PortType.EVENT_COLLECTOR, PortType.PCIE_TO_PCI_BRIDGE})


def is_link(topology: Topology, place: Place) -> bool:
    """Whether the bus is a PCIe link, which has one device (PCIe r3.1, sec 7.3.1)."""
    return place.bridge is not None and topology.port_type(place.bridge) in _LINKS


def fitted(topology: Topology, function: PciFunction, place: Place) -> int | None:
    """The raw port type that a function has in a place; None for a conventional one.

    Raises ImpossibleChangeError where it cannot be: conventional functions go on conventional buses, PCIe devices
    below PCIe ports, and what a root bus holds is integrated.
    """
    is_pcie, kind = topology.is_pcie(function), function.config.port_type
    if is_pcie is None:
        raise ImpossibleChangeError(f"whether {function.address} is PCIe or conventional is not known")
    if place.bridge is None:
        return _on_root_bus(function, is_pcie, kind)
    above = topology.port_type(place.bridge)
    if topology.is_pcie(place.bridge) is not False and above is None:
        raise ImpossibleChangeError(f"what kind of bridge {place.bridge.address} is, is not known")
    if above in (None, PortType.PCIE_TO_PCI_BRIDGE):
        return _on_conventional_bus(function, is_pcie, kind, place)
    return _below_port(function, is_pcie, kind, place, above)


def _on_root_bus(function: PciFunction, is_pcie: bool, kind: int | None) -> int | None:
    if not is_pcie or function.upstream is None or kind in _INTEGRATED:
        return kind
    if kind in (PortType.UPSTREAM_PORT, PortType.DOWNSTREAM_PORT, PortType.PCI_TO_PCIE_BRIDGE):
        raise ImpossibleChangeError(f"{function.address} is a port that needs a bridge above it")
    return PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT


def _on_conventional_bus(function: PciFunction, is_pcie: bool, kind: int | None, place: Place) -> int | None:
    if is_pcie and kind != PortType.PCI_TO_PCIE_BRIDGE:
        bridge = place.bridge.address if place.bridge is not None else None
        raise ImpossibleChangeError(f"{function.address} is PCIe, and the bus below {bridge} is conventional")
    return kind


def _below_port(function: PciFunction, is_pcie: bool, kind: int | None, place: Place, above: int | None) -> int | None:
    bridge = place.bridge.address if place.bridge is not None else None
    if not is_pcie:
        raise ImpossibleChangeError(f"{function.address} is conventional, and {bridge} takes PCIe devices only")
    if (above == PortType.UPSTREAM_PORT) != (kind == PortType.DOWNSTREAM_PORT):
        raise ImpossibleChangeError(f"below {bridge}, within a switch, there are downstream ports only")
    if kind in (PortType.ROOT_PORT, PortType.EVENT_COLLECTOR, PortType.PCI_TO_PCIE_BRIDGE):
        raise ImpossibleChangeError(f"{function.address} cannot lie below a PCIe port")
    return PortType.ENDPOINT if kind == PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT else kind
