# SPDX-License-Identifier: GPL-2.0-or-later
"""Which model of QEMU stands for a captured bridge or port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from iommud.model.acs import AcsBasis, AcsModel
from iommud.model.quirks import BridgeFlag
from iommud.pci import PortType
from iommud.reproduce.endpoints import Where, about
from iommud.reproduce.models import Version
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import OmissionKind, Part
from iommud.snapshot import PciFunction

ROOT_PORT, PORT_WITHOUT_ACS = "pcie-root-port", "ioh3420"
UPSTREAM, DOWNSTREAM = "x3130-upstream", "xio3130-downstream"
PCIE_TO_PCI, DMI_TO_PCI, PCI_BRIDGE = "pcie-pci-bridge", "i82801b11-bridge", "pci-bridge"
EXPANDER = "pxb-pcie"

BRIDGE_IDS: Mapping[str, tuple[int, int]] = {
    ROOT_PORT: (0x1B36, 0x000C),
    PORT_WITHOUT_ACS: (0x8086, 0x3420),
    UPSTREAM: (0x104C, 0x8232),
    DOWNSTREAM: (0x104C, 0x8233),
    PCIE_TO_PCI: (0x1B36, 0x000E),
    DMI_TO_PCI: (0x8086, 0x244E),
    PCI_BRIDGE: (0x1B36, 0x0001),
    EXPANDER: (0x1B36, 0x000B),
}
_DMI_BRIDGES = frozenset({(0x8086, 0x2448), (0x8086, 0x244E)})
"""Intel's bridge from the chipset to conventional PCI, mobile and desktop."""
ALWAYS_ACS_SINCE: Version = (10, 1)
"""QEMU 10.0 has ``disable-acs``, 11.1 has not; it went with the machine types that needed it."""
_PORTS = frozenset({ROOT_PORT, PORT_WITHOUT_ACS, DOWNSTREAM})
_EXPRESS_BELOW = _PORTS | {UPSTREAM}
_LOOSE_PORTS = frozenset({PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT})


def _is_generic_port(bridge: PciFunction) -> bool:
    return (bridge.vendor, bridge.device) == BRIDGE_IDS[ROOT_PORT]


def is_port(model: str) -> bool:
    """Whether a link lies below, on which only device 0 answers."""
    return model in _PORTS


@dataclass(frozen=True, slots=True)
class Bridges:
    """Chooses models for the bridges of one machine."""

    acs: AcsModel
    qemu: Version
    notes: Notes

    def part(self, bridge: PciFunction, where: Where) -> Part:
        """The bridge as a part without anything below it."""
        part = part_of(self._model(bridge, where), bridge)
        if part.model == PORT_WITHOUT_ACS and self.qemu < ALWAYS_ACS_SINCE and _is_generic_port(bridge):
            return replace(part_of(ROOT_PORT, bridge), options={"disable-acs": "on"})
        return part

    def stand_in(self, function: PciFunction, where: Where, *, alone: bool) -> Part:
        """An empty bridge for a function where no endpoint can be as isolated as it is, or can be at all."""
        text = (
            "an empty bridge stands for it: QEMU's further root buses (pxb-pcie) take bridges only"
            if where.expander
            else "an empty port stands for it: it is isolated from its siblings, and none of QEMU's endpoints has ACS"
        )
        self._note(OmissionKind.NATURE, text, function)
        isolated = not alone and bool(self.acs.verdict(function).isolated)
        return part_of(ROOT_PORT if isolated else PCI_BRIDGE, function)

    def _model(self, bridge: PciFunction, where: Where) -> str:
        topology = self.acs.topology
        is_pcie = topology.is_pcie(bridge)
        if not where.express:
            if is_pcie:
                self._note(OmissionKind.NATURE, "a conventional bridge stands for it, and for its PCIe bus", bridge)
            return PCI_BRIDGE
        if is_pcie is False:
            return self._conventional(bridge, where)
        port_type = bridge.config.port_type
        if port_type is None:
            self._note(OmissionKind.UNKNOWN, "its port type is not in the capture; guessed from its place", bridge)
            port_type = _guessed(where)
        return self._express(bridge, where, port_type)

    def _express(self, bridge: PciFunction, where: Where, port_type: int) -> str:
        if port_type == PortType.UPSTREAM_PORT:
            return UPSTREAM
        if port_type == PortType.PCIE_TO_PCI_BRIDGE:
            if self.acs.topology.flag(bridge, BridgeFlag.PCI_BRIDGE_NO_ALIAS):
                text = "the kernel knows that this bridge takes no alias; the guest's does"
                self._note(OmissionKind.ISOLATION, text, bridge)
            return PCIE_TO_PCI
        if port_type == PortType.PCI_TO_PCIE_BRIDGE:
            self._note(OmissionKind.NATURE, "QEMU has no PCI-to-PCIe bridge; a conventional one stands for it", bridge)
            return PCI_BRIDGE
        if port_type not in _LOOSE_PORTS:
            self._note(OmissionKind.NATURE, "it is no kind of bridge that there is; a port stands for it", bridge)
        return self._port(bridge, where, port_type)

    def _port(self, bridge: PciFunction, where: Where, port_type: int) -> str:
        if self._has_acs(bridge):
            if port_type == PortType.DOWNSTREAM_PORT:
                text = "a root port stands for this downstream port: QEMU's downstream ports have no ACS capability"
                self._note(OmissionKind.NATURE, text, bridge)
            return ROOT_PORT
        return DOWNSTREAM if port_type == PortType.DOWNSTREAM_PORT and where.switch else PORT_WITHOUT_ACS

    def _has_acs(self, bridge: PciFunction) -> bool:
        """Whether the port of the guest gets an ACS capability, which the guest's kernel then switches on.

        A port that the device table vouches for gets one too: the guest's port has no entry in that table.
        """
        verdict, config = self.acs.verdict(bridge), bridge.config
        isolated = verdict.isolated
        if verdict.basis is AcsBasis.OVERRIDE:
            text = "only pcie_acs_override isolates it; given an ACS capability, for a kernel without that patch"
            self._note(OmissionKind.ISOLATION, text, bridge)
        if isolated is None and config.acs is None:
            text = "whether it is isolated cannot be told from the capture; given an ACS capability"
            self._note(OmissionKind.UNKNOWN, text, bridge)
            return True
        if config.acs is None:
            return bool(isolated)
        if not isolated:
            text = "its ACS capability does not isolate it; the guest's kernel may switch it on"
            self._note(OmissionKind.ISOLATION, text, bridge)
        return True

    def _conventional(self, bridge: PciFunction, where: Where) -> str:
        topology = self.acs.topology
        if topology.flag(bridge, BridgeFlag.PCIE_BRIDGE_ALIAS):
            text = "a PCIe-to-PCI bridge stands for it, which takes the same alias"
            self._note(OmissionKind.NATURE, text, bridge)
            return PCIE_TO_PCI
        if topology.is_cardbus(bridge):
            self._note(OmissionKind.NATURE, "a PCI bridge stands for a CardBus bridge", bridge)
        dmi = (bridge.vendor, bridge.device) in _DMI_BRIDGES
        return DMI_TO_PCI if dmi and where.root and not where.expander else PCI_BRIDGE

    def _note(self, kind: OmissionKind, text: str, bridge: PciFunction) -> None:
        self.notes.add(kind, text, bridge.address)


def part_of(model: str, function: PciFunction) -> Part:
    """A bridge of this model in the place of a captured function."""
    return Part(
        model=model,
        device=function.address.device,
        function=function.address.function,
        captured=function.address,
        about=about(function),
        exact=BRIDGE_IDS[model] == (function.vendor, function.device),
        bridge=True,
        express_below=model in _EXPRESS_BELOW,
        reserves=model == ROOT_PORT,
        spare=_spare(function),
    )


def _spare(function: PciFunction) -> int:
    if function.secondary_bus is None or function.subordinate_bus is None:
        return 0
    return max(0, function.subordinate_bus - function.secondary_bus)


def _guessed(where: Where) -> PortType:
    if where.root:
        return PortType.ROOT_PORT
    return PortType.DOWNSTREAM_PORT if where.switch else PortType.UPSTREAM_PORT
