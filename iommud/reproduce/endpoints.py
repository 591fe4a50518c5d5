# SPDX-License-Identifier: GPL-2.0-or-later
"""Which model of QEMU stands for a captured function that is no bridge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.model.topology import BusId
from iommud.reproduce.models import (
    IGB,
    NVME,
    Model,
    Option,
    Version,
    identical,
    similar,
)
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import OmissionKind, Part, word
from iommud.snapshot import PciFunction

IO_WINDOWS = 8
"""Bridges below which functions may have I/O ports: windows are 4 KiB, and SeaBIOS has room for nine of them."""
_MOST_IGB_FUNCTIONS = 7
_IGBS_OF_A_DEVICE = 2
_LAST_IGB = 0xFF - 0x80 - 2 * 7
"""Device and function number up to which an igb has room on its bus for eight virtual functions at every other number
from 0x80 behind it on; QEMU refuses one further up (``VF addr overflows``)."""
_LAST = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The bus that a function is to be plugged into."""

    express: bool
    root: bool
    expander: bool = False
    """It is a root bus made by pxb-pcie, which takes bridges only."""
    switch: bool = False
    """It is the bus within a switch."""
    acpi_hot_plug: bool = True
    """ACPI plugs what lies below; else a PCIe-to-PCI bridge does with its own controller, which has no slot 0."""
    id: BusId


@dataclass(frozen=True, slots=True)
class _Wanted:
    pcie: bool
    isolated: bool | None
    """None: that does not matter, or is not known."""
    virtual: int


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Chooses models for the functions of one machine."""

    acs: AcsModel
    qemu: Version
    lean: bool
    """Whether the machine has so many buses that functions without I/O ports are preferred."""
    notes: Notes
    virtual: Mapping[Address, tuple[Address, ...]]
    """The virtual functions of each physical one."""
    _io_buses: set[BusId] = field(default_factory=set)

    def part(self, function: PciFunction, where: Where, *, alone: bool) -> Part | None:
        """The function as a part; None where only a port can be isolated as it is.

        ``alone``: it is the only function of its device, and says so.
        """
        wanted = self._wanted(function, where, alone=alone)
        model = self._chosen(function, where, wanted)
        if model is None:
            return None
        if model.io and not where.root:
            self._io_buses.add(where.id)
        self._note_aliases(function, model)
        return Part(
            model=model.name,
            device=function.address.device,
            function=function.address.function,
            captured=function.address,
            about=about(function),
            options=_options(model, function, self._count(function) if self._is_nvme(model, function, alone) else 0),
            exact=model in identical((function.vendor, function.device), function.class_high),
            virtual=self._carried_virtual(function, model, alone=alone),
        )

    def _count(self, function: PciFunction) -> int:
        return len(self.virtual.get(function.address, ()))

    def _wanted(self, function: PciFunction, where: Where, *, alone: bool) -> _Wanted:
        is_pcie = self.acs.topology.is_pcie(function)
        if is_pcie is None:
            self.notes.add(
                OmissionKind.UNKNOWN,
                "whether it is PCI Express is not in the capture; taken for what its bus is",
                function.address,
            )
        elif is_pcie and not where.express:
            self.notes.add(
                OmissionKind.NATURE, "a conventional function stands for a PCI Express one", function.address
            )
        pcie = where.express and is_pcie is not False
        isolated = None if alone else self.acs.verdict(function).isolated
        if not alone and isolated is None:
            self.notes.add(
                OmissionKind.UNKNOWN,
                "whether it is isolated from its siblings cannot be told; taken for not isolated",
                function.address,
            )
            isolated = False
        return _Wanted(pcie, isolated, self._count(function))

    def _chosen(self, function: PciFunction, where: Where, wanted: _Wanted) -> Model | None:
        """The first model that has all that is wanted, or what comes nearest; None: a port comes nearer."""
        there = [one for one in self._candidates(function, where, wanted) if one.exists(self.qemu, where.express)]
        fitting = [one for one in there if one.is_pcie(express_bus=where.express) is wanted.pcie]
        alike = [one for one in there if wanted.isolated in (None, one.isolated(root_bus=where.root))]
        both = [one for one in fitting if one in alike]
        if both:
            return both[0]
        # Only isolation can be what is wanting: among those without it there is one for every bus.
        if where.express and not where.root:
            return None
        if alike:
            self._note(OmissionKind.NATURE, "a PCI Express function stands for a conventional one", function)
            return alike[0]
        text = "it is isolated from its siblings, and its stand-in is not"
        self._note(OmissionKind.ISOLATION, text, function)
        return fitting[0]

    def _candidates(self, function: PciFunction, where: Where, wanted: _Wanted) -> Iterator[Model]:
        """Models in the order of preference."""
        ids = (function.vendor, function.device)
        # An igb has its virtual functions at every other number, so that a third one has no room.
        igb_fits = function.address.function < _IGBS_OF_A_DEVICE and function.address.devfn <= _LAST_IGB
        if wanted.virtual and wanted.virtual <= _MOST_IGB_FUNCTIONS and ids != NVME.ids and igb_fits:
            yield IGB
        elif wanted.virtual:
            yield NVME
        yield from (one for one in identical(ids, function.class_high) if one is not IGB or igb_fits)
        if function.class_high == IGB.class_high and wanted.isolated and igb_fits and self._may_use_io(where):
            yield IGB
        for one in similar(ids, function.class_high, pcie=wanted.pcie, lean=self.lean and not where.root):
            if self._may_use_io(where) or not one.io:
                yield one

    def _may_use_io(self, where: Where) -> bool:
        return where.root or where.id in self._io_buses or len(self._io_buses) < IO_WINDOWS

    def _is_nvme(self, model: Model, function: PciFunction, alone: bool) -> bool:
        """Whether it is one with room for its virtual functions: they follow it number by number, on its bus."""
        return model is NVME and alone and function.address.devfn + self._count(function) <= _LAST

    def _note(self, kind: OmissionKind, text: str, function: PciFunction) -> None:
        self.notes.add(kind, text, function.address)

    def _note_aliases(self, function: PciFunction, model: Model) -> None:
        rows = self.acs.topology.quirks.alias_rows(function.vendor, function.device)
        if rows and model not in identical((function.vendor, function.device), function.class_high):
            self.notes.add(
                OmissionKind.ISOLATION,
                "the kernel knows requester-ID aliases of it by its device id, which its stand-in has not",
                function.address,
            )

    def _carried_virtual(self, function: PciFunction, model: Model, *, alone: bool) -> tuple[Address, ...]:
        """The virtual functions that the model can have; the others are noted."""
        found = self.virtual.get(function.address, ())
        if not found:
            return ()
        if model is IGB or self._is_nvme(model, function, alone):
            return found
        self.notes.add(OmissionKind.FUNCTION, f"virtual functions, which {model.name} cannot have there", *found)
        return ()


def _options(model: Model, function: PciFunction, virtual: int) -> dict[str, Option]:
    options = dict(model.options)
    if model is NVME:
        options["serial"] = word(function.address)
    if virtual:
        # A secondary controller needs two queues and an interrupt of its own (docs/system/devices/nvme.rst).
        queues = 2 * virtual + 8
        options |= {
            "subsys": f"subsystem-{word(function.address)}",
            "sriov_max_vfs": virtual,
            "sriov_vq_flexible": 2 * virtual,
            "sriov_vi_flexible": virtual,
            "max_ioqpairs": queues,
            "msix_qsize": queues,
        }
    return options


def about(function: PciFunction) -> str:
    """Vendor, device and class of a captured function, as lspci -n has them."""
    ids = f"{_hex(function.vendor)}:{_hex(function.device)}"
    return f"{ids} class {_hex(function.class_high)}"


def _hex(number: int | None) -> str:
    return "????" if number is None else f"{number:04x}"
