# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel's rule keeps functions apart although requests can pass between them.

These are no defects of the grouping: the rule looks only along the path to the root. They matter to whoever
gives functions to different guests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group, GroupingModel, canonical
from iommud.model.topology import Bus
from iommud.pci import PortType
from iommud.snapshot import PciFunction
from iommud.verdict.actual import ActualGroups
from iommud.verdict.findings import Finding, Kind, Reason, Severity
from iommud.verdict.reasons import acs_text


@dataclass(frozen=True, slots=True)
class IsolationReview:
    """Looks for functions that are apart in the kernel's groups and in the expected ones, yet can meet."""

    model: GroupingModel
    actual: ActualGroups
    expected: tuple[Group, ...]

    def findings(self) -> Iterator[Finding]:
        """One finding per switch, per requester ID that only a bridge without a group joins, per ghost, per device."""
        place = {address: index for index, group in enumerate(self.expected) for address in group}
        for bus in self.model.topology.buses.values():
            if len(bus.functions) > 1:
                yield from self._on_bus(bus, place)
        for functions in self._devices():
            yield from self._device(functions, place)

    def _on_bus(self, bus: Bus, place: dict[Address, int]) -> Iterator[Finding]:
        yield from self._switch(bus, place)
        if self.model.upward_set(self.model.topology.chains[bus.id]):
            yield from self._shared(bus, place)
        else:
            yield from self._ghosts(bus, place)

    def _apart(self, functions: list[PciFunction], place: dict[Address, int]) -> bool:
        """Whether they have groups and these differ, in the kernel's view and in the expected one."""
        numbers = self.actual.number_of
        known = [one.address for one in functions if one.address in numbers and one.address in place]
        return len({numbers[one] for one in known}) > 1 and len({place[one] for one in known}) > 1

    def _switch(self, bus: Bus, place: dict[Address, int]) -> Iterator[Finding]:
        """Downstream ports without ACS pass requests to their peers inside the switch."""
        topology = self.model.topology
        ports = [one for one in bus.functions if topology.port_type(one) == PortType.DOWNSTREAM_PORT]
        exposed = [one for one in ports if self.model.acs.verdict(one).isolated is False]
        if exposed and len(ports) > 1 and self._apart(ports, place):
            reasons = [
                Reason(
                    f"{', '.join(ports_alike)}: {why}; "
                    "requests from below can reach the other ports of the switch without the IOMMU",
                    "PCIe r3.1, sec 6.12.1.1",
                )
                for why, ports_alike in self._by_verdict(exposed).items()
            ]
            yield self._finding("switch", ports, reasons)

    def _by_verdict(self, functions: list[PciFunction]) -> dict[str, list[str]]:
        """Functions by the sentence that says why they are not isolated."""
        found: dict[str, list[str]] = {}
        for one in functions:
            found.setdefault(acs_text(self.model.acs, one), []).append(str(one.address))
        return found

    def _ghosts(self, bus: Bus, place: dict[Address, int]) -> Iterator[Finding]:
        """Two functions that also send as the same absent one share its mappings."""
        present = {function.address.devfn for function in bus.functions}
        senders: dict[int, list[PciFunction]] = {}
        for function in bus.functions:
            for devfn in self.model.aliases.mask(function) - present:
                senders.setdefault(devfn, []).append(function)
        seen: set[tuple[Address, ...]] = set()
        for devfn, sharing in sorted(senders.items()):
            key = tuple(one.address for one in sharing)
            if len(sharing) > 1 and key not in seen and self._apart(sharing, place):
                seen.add(key)
                ghost = sharing[0].address.with_devfn(devfn)
                text = f"{' and '.join(str(one) for one in key)} all send as {ghost} too, where there is no function"
                yield self._finding("ghost", sharing, [Reason(text, "pci_devs_are_dma_aliases()")])

    def _shared(self, bus: Bus, place: dict[Address, int]) -> Iterator[Finding]:
        """Where the bridge above rightly has no group, nothing joins those to which it gives one requester ID."""
        alias_bridges = self.model.aliases.alias_bridges(self.model.topology.chains[bus.id])
        if not alias_bridges or self.model.joins(alias_bridges[0].address):
            return
        if self._apart(bus.functions, place):
            bridge = alias_bridges[0]
            requester = self.model.aliases.bridge_alias(bridge)
            text = (
                f"requests from below {bridge.address} all carry requester ID {requester}, "
                "and the bridge, by which the kernel would join them, has no group"
            )
            yield self._finding("requester-id", bus.functions, [Reason(text, "pci_for_each_dma_alias()")])

    def _devices(self) -> Iterator[list[PciFunction]]:
        """The functions of each device on an isolated bus; virtual functions belong to their physical one's."""
        devices: dict[tuple[int, int, int], list[PciFunction]] = {}
        for function in self.model.topology.functions.values():
            devices.setdefault((function.physfn or function.address)[:3], []).append(function)
        for functions in devices.values():
            chain = self.model.topology.chains[functions[0].address[:2]]
            if len(functions) > 1 and not self.model.upward_set(chain):
                yield functions

    def _device(self, slot: list[PciFunction], place: dict[Address, int]) -> Iterator[Finding]:
        acs, topology = self.model.acs, self.model.topology
        exposed = [
            one
            for one in slot
            if topology.is_pcie(one) and topology.multifunction(one) and acs.verdict(one).isolated is False
        ]
        if not exposed or not self._apart(slot, place):
            return
        listed = ", ".join(str(one.address) for one in exposed)
        text = (
            f"{listed} can send requests to the other functions of the device: "
            f"{exposed[0].address} is {acs_text(acs, exposed[0])}"
        )
        yield self._finding("device", slot, [Reason(text, "PCIe r3.1, sec 6.12.1.2")])

    def _finding(self, subject: str, functions: list[PciFunction], reasons: list[Reason]) -> Finding:
        devices = tuple(sorted(one.address for one in functions))
        touched = {group for group in self.expected if not group.isdisjoint(devices)}
        return Finding(
            kind=Kind.UNISOLATED,
            severity=Severity.INFO,
            devices=devices,
            groups=self.actual.of_members(devices),
            expected=canonical(touched),
            reasons=tuple(reasons),
            subject=subject,
        )
