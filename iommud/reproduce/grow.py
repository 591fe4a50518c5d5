# SPDX-License-Identifier: GPL-2.0-or-later
"""Buses become parts: the functions of a captured bus as QEMU's devices, with everything below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.model.topology import Topology
from iommud.reproduce.bridges import PCI_BRIDGE, PCIE_TO_PCI, UPSTREAM, Bridges, is_port
from iommud.reproduce.endpoints import Endpoints, Where
from iommud.reproduce.models import TESTDEV, Version
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import OmissionKind, Part, depth_first
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.survey import is_iommu_itself

_DEEPEST = 64
"""Buses above one another, which no machine has; a capture that claims more is one that lies."""
_MANY_BUSES = 8
_SLOTS = 32
Slots = dict[int, tuple[Part, ...]]
"""Device number to the functions of the device, function 0 first."""


@dataclass(frozen=True, slots=True)
class Grower:
    """Grows the parts of one machine from its functions."""

    snapshot: Snapshot
    acs: AcsModel
    endpoints: Endpoints
    bridges: Bridges
    notes: Notes
    below: Mapping[Address | None, tuple[PciFunction, ...]]
    """The functions in the directory of each bridge; virtual ones are not among them."""
    _grown: set[Address] = field(default_factory=set)

    @classmethod
    def of(cls, snapshot: Snapshot, acs: AcsModel, qemu: Version, notes: Notes) -> Grower:
        """A grower for a snapshot."""
        functions = acs.topology.functions.values()
        below: dict[Address | None, list[PciFunction]] = {}
        virtual: dict[Address, list[Address]] = {}
        for function in sorted(functions, key=lambda one: one.address):
            if function.physfn is not None:
                virtual.setdefault(function.physfn, []).append(function.address)
            else:
                below.setdefault(_above(function, acs.topology), []).append(function)
        endpoints = Endpoints(
            acs, qemu, _is_lean(below), notes, {address: tuple(found) for address, found in virtual.items()}
        )
        tuples = {address: tuple(found) for address, found in below.items()}
        return cls(snapshot, acs, endpoints, Bridges(acs, qemu, notes), notes, tuples)

    def slots(self, functions: Iterable[PciFunction], where: Where, depth: int = 0) -> Slots:
        """The devices of a bus. IOMMUs are left out, which are added where the machine's is known."""
        devices: dict[int, list[PciFunction]] = {}
        for function in functions:
            if not is_iommu_itself(function, self.snapshot.iommus):
                devices.setdefault(function.address.device, []).append(function)
        return {number: self._device(found, where, depth) for number, found in devices.items()}

    def _device(self, functions: list[PciFunction], where: Where, depth: int) -> tuple[Part, ...]:
        several = len(functions) > 1 or any(self.acs.topology.multifunction(one) for one in functions)
        parts = [self._function(one, where, depth, alone=not several) for one in functions]
        if parts[0].function:
            self.notes.add(
                OmissionKind.FUNCTION,
                "its device has no function 0 in the capture; the guest has one, for without it none is found",
                functions[0].address,
            )
            parts.insert(0, _filler(functions[0], where))
        if several:
            parts[0] = replace(parts[0], options={**parts[0].options, "multifunction": "on"})
        return tuple(parts)

    def _function(self, function: PciFunction, where: Where, depth: int, *, alone: bool) -> Part:
        self._grown.add(function.address)
        if self._is_bridge(function):
            return self._with_bus(self.bridges.part(function, where), function, where, depth)
        part = None if where.expander else self.endpoints.part(function, where, alone=alone)
        if part is None:
            self._drop_virtual(function)
            return self.bridges.stand_in(function, where, alone=alone)
        return part

    def _is_bridge(self, function: PciFunction) -> bool:
        return function.is_bridge or function.address in self.below

    def _with_bus(self, part: Part, bridge: PciFunction, above: Where, depth: int) -> Part:
        functions = [one for one in self.below.get(bridge.address, ()) if one.address not in self._grown]
        if depth >= _DEEPEST:
            self.drop(functions, f"it lies below more than {_DEEPEST} bridges")
            return part
        if is_port(part.model):
            functions = self._answering(functions)
        bus = (bridge.address.domain, bridge.secondary_bus if bridge.secondary_bus is not None else -depth)
        where = Where(
            express=part.express_below,
            root=False,
            switch=part.model == UPSTREAM,
            acpi_hot_plug=above.acpi_hot_plug,
            id=bus,
        )
        slots = self.slots(functions, where, depth + 1)
        if part.model == PCIE_TO_PCI and not where.acpi_hot_plug:
            self._leave_slot_zero(slots)
        return replace(part, below=tuple(one for number in sorted(slots) for one in slots[number]))

    def _leave_slot_zero(self, slots: Slots) -> None:
        """Move what is in slot 0, which the hot-plug controller of QEMU's bridge does not know (PCI SHPC r1.0)."""
        parts = slots.pop(0, ())
        captured = [one.captured for one in depth_first(parts) if one.captured is not None]
        free = next((number for number in range(1, _SLOTS) if number not in slots), None)
        if free is not None and parts:
            slots[free] = tuple(replace(one, device=free) for one in parts)
            text = "moved to another slot: QEMU's bridge has none with number 0 there"
            self.notes.add(OmissionKind.PLACE, text, *(one.captured for one in parts if one.captured is not None))
        elif parts:
            self.notes.add(OmissionKind.FUNCTION, "QEMU's bridge has no slot 0 there, and no other is free", *captured)

    def _answering(self, functions: list[PciFunction]) -> list[PciFunction]:
        """Only device 0 answers below a port; others of a capture are functions by ARI, which QEMU does not carry."""
        self.drop(
            [one for one in functions if one.address.device],
            "below a port QEMU plugs functions 0 to 7 of device 0 only",
        )
        return [one for one in functions if not one.address.device]

    def drop(self, functions: Iterable[PciFunction], text: str) -> None:
        """Leave functions out, with all that lies below them."""
        pending = list(functions)
        while pending:
            one = pending.pop()
            if one.address not in self._grown:
                self._grown.add(one.address)
                self.notes.add(OmissionKind.FUNCTION, text, one.address)
                self._drop_virtual(one)
                pending += self.below.get(one.address, ())

    def _drop_virtual(self, function: PciFunction) -> None:
        found = self.endpoints.virtual.get(function.address, ())
        if found:
            self.notes.add(OmissionKind.FUNCTION, "virtual functions of a function that is not carried over", *found)


def _above(function: PciFunction, topology: Topology) -> Address | None:
    """The bridge above; of a bridge that only paths name, the one that leads to its bus number."""
    if function.present or function.upstream is not None:
        return function.upstream
    leading = (
        one.address
        for one in topology.functions.values()
        if (one.address.domain, one.secondary_bus) == function.address[:2] and one is not function
    )
    return next(leading, None)


def _filler(beside: PciFunction, where: Where) -> Part:
    bridge = where.expander
    return Part(
        model=PCI_BRIDGE if bridge else TESTDEV.name,
        device=beside.address.device,
        function=0,
        bridge=bridge,
        express_below=False,
        about="function 0, which is not in the capture",
    )


def _is_lean(below: Mapping[Address | None, list[PciFunction]]) -> bool:
    """Whether more buses hold endpoints than there are I/O windows for."""
    inhabited = [address for address, found in below.items() if address and not all(one.is_bridge for one in found)]
    return len(inhabited) > _MANY_BUSES
