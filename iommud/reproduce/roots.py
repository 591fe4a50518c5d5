# SPDX-License-Identifier: GPL-2.0-or-later
"""Root buses: the board's own takes the first, and pxb-pcie makes the others, those of further domains too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.model.topology import BusId
from iommud.reproduce.board import CHIPSET_DEVICE, HOST_BRIDGES, Q35_CHIPSET, Board
from iommud.reproduce.bridges import BRIDGE_IDS, EXPANDER
from iommud.reproduce.endpoints import Where, about
from iommud.reproduce.grow import Grower, Slots
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import Architecture, Iommu, OmissionKind, Part
from iommud.snapshot import PciFunction
from iommud.verdict.survey import VIRTIO_IOMMU, is_iommu_itself

AMD_IOMMU = "AMDVI-PCI"
"""The PCI function of QEMU's amd-iommu."""
VIRTIO_IOMMU_MODEL = "virtio-iommu-pci"
_HOST_DEVICE = 0


@dataclass(frozen=True, slots=True)
class Roots:
    """Builds the first root bus of the guest, from which everything hangs."""

    grower: Grower
    acs: AcsModel
    board: Board
    notes: Notes
    bypassed: Callable[[BusId], bool]
    """Whether the IOMMU does not serve what lies below a captured root bus."""
    _slots: Slots = field(default_factory=dict)

    def parts(self) -> tuple[Part, ...]:
        """The functions of ``pcie.0`` in the order of their addresses."""
        roots = self._root_buses()
        first = next(iter(roots), None)
        expanders: list[PciFunction] = []
        if first is not None:
            functions = roots.pop(first)
            expanders = list(self._expanders_of(functions))
            self._slots.update({one.address.device: () for one in expanders})  # kept from what is moved
            self._first_bus(first, [one for one in functions if one not in expanders])
        self._add_expanders(roots, expanders)
        self._add_iommu()
        return tuple(one for number in sorted(self._slots) for one in self._slots[number])

    def _expanders_of(self, functions: list[PciFunction]) -> Iterator[PciFunction]:
        """The captured expanders that can stay: alone in a slot where the board has nothing, as QEMU plugs them."""
        shared = Counter(one.address.device for one in functions)
        for one in functions:
            alone = shared[one.address.device] == 1 and not one.address.function
            free = alone and one.address.device not in self._taken_slots
            if free and (one.vendor, one.device) == BRIDGE_IDS[EXPANDER]:
                yield one

    def _root_buses(self) -> dict[BusId, list[PciFunction]]:
        found: dict[BusId, list[PciFunction]] = {}
        for function in sorted(self.grower.below.get(None, ()), key=lambda one: one.address):
            found.setdefault(function.address[:2], []).append(function)
        topology = self.acs.topology
        behind = [bus for bus, some in found.items() if any(topology.real_dma_device(one) is not one for one in some)]
        for bus in behind:
            text = "it lies in the domain of a volume management device (VMD), which QEMU does not have"
            self.grower.drop(found.pop(bus), text)
        return found

    def _first_bus(self, bus: BusId, functions: list[PciFunction]) -> None:
        own = [one for one in functions if not is_iommu_itself(one, self.grower.snapshot.iommus)]
        host = [one for one in own if one.address.device == _HOST_DEVICE]
        chipset = [one for one in own if one.address.device == CHIPSET_DEVICE]
        taken: list[PciFunction] = []
        if len(host) == 1 and not host[0].is_bridge and not host[0].address.function:
            taken += host
            ids = HOST_BRIDGES[self.board.architecture]
            self._slots[_HOST_DEVICE] = (_on_board("host bridge", host[0], ids),)
        where = Where(express=True, root=True, acpi_hot_plug=self._has_chipset, id=bus)
        if self._has_chipset and chipset and self._mergeable(chipset):
            taken += [one for one in chipset if one.address.function in Q35_CHIPSET]
            self._merge_chipset(chipset, where)
            taken += chipset
        grown = self.grower.slots([one for one in own if one not in taken], where)
        self._slots.update({number: parts for number, parts in grown.items() if number not in self._taken_slots})
        for number in sorted(self._taken_slots & grown.keys()):
            self._moved(grown[number])

    @property
    def _taken_slots(self) -> frozenset[int]:
        """Those where the board has functions of its own."""
        return frozenset({_HOST_DEVICE, CHIPSET_DEVICE} if self._has_chipset else {_HOST_DEVICE})

    @property
    def _has_chipset(self) -> bool:
        return self.board.architecture is Architecture.X86_64

    def _mergeable(self, chipset: list[PciFunction]) -> bool:
        """Whether the board's functions at 1f can stand for the captured ones: plain ones that hang together."""
        return not any(one.is_bridge or self.acs.verdict(one).isolated for one in chipset)

    def _merge_chipset(self, chipset: list[PciFunction], where: Where) -> None:
        parts = []
        for one in chipset:
            ids = Q35_CHIPSET.get(one.address.function)
            if ids is None:
                parts += [part for part in [self.grower.endpoints.part(one, where, alone=False)] if part is not None]
            else:
                parts.append(_on_board("chipset", one, ids))
        self._slots[CHIPSET_DEVICE] = tuple(parts)

    def _moved(self, parts: tuple[Part, ...]) -> None:
        """Put a device into another slot: the board has its own there."""
        number = self._free_slot()
        addresses = [one.captured for one in parts if one.captured is not None]
        if number is None:
            self.notes.add(
                OmissionKind.FUNCTION, "the board has its own function there, and no slot is free", *addresses
            )
            return
        self.notes.add(OmissionKind.PLACE, "moved to another slot: the board has its own function there", *addresses)
        self._slots[number] = tuple(replace(one, device=number) for one in parts)

    def _free_slots(self) -> list[int]:
        """The slots that nothing takes."""
        last = CHIPSET_DEVICE - 1 if self._has_chipset else CHIPSET_DEVICE
        return [one for one in range(1, last + 1) if one not in self._slots]

    def _free_slot(self) -> int | None:
        """The highest slot that nothing takes; low ones are left to what QEMU places by itself."""
        return next(reversed(self._free_slots()), None)

    def _add_expanders(self, roots: dict[BusId, list[PciFunction]], expanders: list[PciFunction]) -> None:
        """An expander for each root bus, in the slots of the captured ones, else in high slots in the same order."""
        spare = iter(expanders)
        made = [(bus, functions, next(spare, None)) for bus, functions in roots.items()]
        missing = sum(beside is None for _, _, beside in made)
        slots = iter(self._free_slots()[-missing:] if missing else ())
        for bus, functions, beside in made:
            place = (next(slots, None), 0) if beside is None else (beside.address.device, beside.address.function)
            if place[0] is None:
                self.grower.drop(functions, "no slot is free for the expander (pxb-pcie) of its root bus")
                continue
            where = Where(express=True, root=True, expander=True, acpi_hot_plug=False, id=bus)
            grown = self.grower.slots(functions, where)
            below = tuple(one for number in sorted(grown) for one in grown[number])
            self._expander(bus, below, (place[0], place[1]), beside)
            self._note_domain(bus, functions)
        for beside in spare:
            self._expander(None, (), (beside.address.device, beside.address.function), beside)

    def _expander(
        self, bus: BusId | None, below: tuple[Part, ...], place: tuple[int, int], captured: PciFunction | None
    ) -> None:
        part = Part(
            model=EXPANDER,
            device=place[0],
            function=place[1],
            captured=None if captured is None else captured.address,
            about=f"makes root bus {bus[0]:04x}:{bus[1]:02x}" if bus is not None else "makes a root bus",
            exact=captured is not None,
            options={"bypass_iommu": "true"} if bus is not None and self.bypassed(bus) else {},
            root_bus=bus[1] if bus is not None and bus[0] == 0 else 0,
            below=below,
        )
        self._slots[place[0]] = (part,)

    def _note_domain(self, bus: BusId, functions: list[PciFunction]) -> None:
        if bus[0]:
            text = f"domain {bus[0]:04x} becomes a root bus of domain 0000: QEMU has one domain"
            self.notes.add(OmissionKind.PLACE, text, *(one.address for one in functions))

    def _add_iommu(self) -> None:
        """The IOMMU where it is a PCI function; the captured functions that are further IOMMUs are left out."""
        snapshot = self.grower.snapshot
        functions = [one for one in self.acs.topology.functions.values() if is_iommu_itself(one, snapshot.iommus)]
        wanted = list(self._of_kind(functions))
        captured = wanted[0] if wanted else None
        rest = [one for one in functions if one is not captured]
        self.grower.drop(rest, "it is an IOMMU; the guest's serves all")
        if self.board.iommu is Iommu.VIRTIO:
            self._place_virtio(captured)
        elif self.board.iommu is Iommu.AMD:
            lowest = next((one for one in range(1, CHIPSET_DEVICE) if one not in self._slots), None)
            if lowest is None:
                self.notes.add(OmissionKind.IOMMU, "no slot is free for the function of the amd-iommu")
            else:
                self._place(AMD_IOMMU, captured, lowest, 0)

    def _of_kind(self, functions: list[PciFunction]) -> Iterator[PciFunction]:
        for one in functions:
            virtio = (one.vendor, one.device) == VIRTIO_IOMMU
            if (self.board.iommu is Iommu.VIRTIO and virtio) or (self.board.iommu is Iommu.AMD and not virtio):
                yield one

    def _place_virtio(self, captured: PciFunction | None) -> None:
        if captured is not None and captured.upstream is None and captured.address.device not in self._slots:
            self._place(VIRTIO_IOMMU_MODEL, captured, captured.address.device, 0)
            return
        slot = self._free_slot()
        if slot is None:
            self.notes.add(OmissionKind.IOMMU, "no slot is free for the virtio-iommu")
            return
        self._place(VIRTIO_IOMMU_MODEL, captured, slot, 0)

    def _place(self, model: str, captured: PciFunction | None, device: int, function: int) -> None:
        if captured is not None and captured.address != Address(0, 0, device, function):
            self.notes.add(OmissionKind.PLACE, "the guest's IOMMU lies elsewhere on the root bus", captured.address)
        part = Part(
            model=model,
            device=device,
            function=function,
            captured=None if captured is None else captured.address,
            about="the IOMMU" if captured is None else f"the IOMMU, {about(captured)}",
            exact=captured is not None and (model == VIRTIO_IOMMU_MODEL or captured.device == 0x0008),
            on_board=model == AMD_IOMMU,
        )
        self._slots[device] = (part,)


def _on_board(model: str, captured: PciFunction, ids: tuple[int, int]) -> Part:
    return Part(
        model=model,
        device=captured.address.device,
        function=captured.address.function,
        captured=captured.address,
        about=about(captured),
        exact=ids == (captured.vendor, captured.device),
        on_board=True,
    )
