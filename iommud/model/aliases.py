# SPDX-License-Identifier: GPL-2.0-or-later
"""Requester-ID aliases: under which IDs a function's requests reach the IOMMU (drivers/pci/search.c)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.quirks import BridgeFlag
from iommud.model.topology import Topology
from iommud.pci import PortType
from iommud.snapshot import PciFunction


@dataclass(frozen=True, slots=True)
class Alias:
    """One requester ID of a function, and the function that takes it: itself or a bridge above it."""

    taker: Address
    requester_id: Address
    """The ID written as an address; the function it names need not exist."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """The alias facts of one machine."""

    topology: Topology
    firmware: Mapping[Address, frozenset[int]] = field(default_factory=dict)
    """Alias devfns that the AMD IVRS table gives to functions (``setup_aliases()``, drivers/iommu/amd/iommu.c)."""
    logged: Mapping[Address, frozenset[int]] = field(default_factory=dict)
    """Alias devfns that the kernel logged when it fixed them."""

    def mask(self, function: PciFunction) -> frozenset[int]:
        """Devfns on the function's own bus under which it also sends (``pdev->dma_alias_mask``)."""
        found = self.firmware.get(function.address, frozenset()) | self.logged.get(function.address, frozenset())
        for row in self.topology.quirks.alias_rows(function.vendor, function.device):
            if row.subsystem in (None, (function.subsystem_vendor, function.subsystem_device)):
                found |= row.devfns(function.address.devfn)
        return found

    def mask_unknown(self, function: PciFunction) -> bool:
        """Whether its aliases stand only in its own memory (Switchtec NTB) and no log line lists them."""
        if function.address in self.logged:
            return False
        rows = self.topology.quirks.alias_rows(function.vendor, function.device)
        return any(row.in_device_memory and row.class_high in (None, function.class_high) for row in rows)

    def bridge_alias(self, bridge: PciFunction) -> Address | None:
        """The requester ID that a bridge puts on the requests of what lies below it; None if it puts none.

        The cases of ``pci_for_each_dma_alias()``. A bridge whose port type is not known counts as taking none.
        """
        topology = self.topology
        if topology.is_pcie(bridge) is False:
            if topology.flag(bridge, BridgeFlag.PCIE_BRIDGE_ALIAS):
                return _secondary_requester(bridge)
            return bridge.address
        port_type = topology.port_type(bridge)
        if port_type == PortType.PCIE_TO_PCI_BRIDGE:
            # 7.x leaves the alias of this bridge out (quirk_aspeed_pci_bridge_no_alias()).
            if topology.flag(bridge, BridgeFlag.PCI_BRIDGE_NO_ALIAS):
                return None
            return _secondary_requester(bridge)
        return bridge.address if port_type == PortType.PCI_TO_PCIE_BRIDGE else None

    def type_unread(self, bridge: PciFunction) -> bool:
        """Whether only unread bytes would tell if the bridge takes an alias."""
        return self.topology.port_type(bridge) is None and self.topology.is_pcie(bridge) is not False

    def alias_bridges(self, chain: tuple[PciFunction, ...], *, unread: bool = False) -> list[PciFunction]:
        """The alias-taking bridges of a chain, nearest first, up to a bridge that translates itself.

        ``unread`` says what a bridge of unknown type counts as.
        """
        return [
            bridge
            for bridge in self._walked(chain)
            if self.bridge_alias(bridge) is not None or (unread and self.type_unread(bridge))
        ]

    def _walked(self, chain: tuple[PciFunction, ...]) -> Iterator[PciFunction]:
        for bridge in chain:
            # The Vulcan root complex translates before this point: quirk_bridge_cavm_thrx2_pcie_root().
            if self.topology.flag(bridge, BridgeFlag.BRIDGE_XLATE_ROOT):
                return
            yield bridge

    def of(self, function: PciFunction) -> tuple[Alias, ...]:
        """Every requester ID of a function in the order of ``pci_for_each_dma_alias()``, without repetition."""
        return tuple(dict.fromkeys(self.walked(function)))

    def walked(self, function: PciFunction) -> tuple[Alias, ...]:
        """The same as the kernel's walk has them: a mask of aliases may hold the function's own ID once more."""
        sender = self.topology.real_dma_device(function)
        found = [Alias(sender.address, sender.address)]
        found += [Alias(sender.address, sender.address.with_devfn(devfn)) for devfn in sorted(self.mask(sender))]
        for bridge in self._walked(self.topology.chain(sender)):
            requester = self.bridge_alias(bridge)
            if requester is not None:
                found.append(Alias(bridge.address, requester))
        return tuple(found)

    def share(self, one: PciFunction, other: PciFunction) -> Address | None:
        """The requester ID by which one of two functions can use the other's mappings, or None.

        Either both send under a common ID, or one of them takes an alias of the other.
        """
        ones, others = self.of(one), self.of(other)
        common = {alias.requester_id for alias in ones} & {alias.requester_id for alias in others}
        if common:
            return min(common)
        for alias in ones:
            if alias.taker == other.address:
                return alias.requester_id
        for alias in others:
            if alias.taker == one.address:
                return alias.requester_id
        return None


def _secondary_requester(bridge: PciFunction) -> Address:
    """Device 0, function 0 on the bridge's secondary bus; a bridge without a known one aliases as itself."""
    if bridge.secondary_bus is None:
        return bridge.address
    return Address(bridge.address.domain, bridge.secondary_bus, 0, 0)
